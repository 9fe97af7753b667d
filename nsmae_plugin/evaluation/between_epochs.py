"""Evaluation of the test split or of the validation part while a network trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from nsmae_plugin.detectors.outputs import RENDERINGS
from nsmae_plugin.evaluation import prediction_loop, reconstruction
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training.session import Evaluate


def build_evaluation(
    model: nn.Module,
    dataset: Any,
    loader: DataLoader,
    world: World,
    folder: Path,
    logger: logging.Logger,
    part: str = "test split",
) -> Evaluate | None:
    """Evaluate boxes, maps or reconstructions; None if there is nothing to score.

    Args:
        loader: of the data to evaluate.
        folder: where the results go; those of a reconstruction are only logged.
        part: the data in words, for the log.

    Raises:
        ConfigError, DataError: the data cannot score the predictions of ``model``.
    """

    def reconstruct(model: nn.Module) -> dict[str, float]:
        # With the masks of `nsmae evaluate-pretrain`.
        metrics = reconstruction.evaluate(model, loader, world.device)
        table = reconstruction.format_table(
            {"network": metrics}, distributed.unwrap(model).render_heads
        )
        logger.info("reconstruction of the %s\n%s", part, table)
        return metrics

    def predict(model: nn.Module) -> dict[str, float]:
        text, metrics = prediction_loop.evaluate(model, loader, world, folder)
        logger.info("predictions for the %s\n%s", part, text)
        return metrics

    if RENDERINGS in prediction_loop.outputs(model):
        return reconstruct
    if not hasattr(dataset, "evaluation"):
        return None
    prediction_loop.check_data(dataset, model)  # fail before the first epoch
    return predict
