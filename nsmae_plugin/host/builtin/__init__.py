"""The built-in host: OpenPCDet's contract, parameter names and shapes, without OpenPCDet."""

import logging
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from nsmae_plugin.host.batch import to_device
from nsmae_plugin.host.builtin.dataset import DatasetTemplate
from nsmae_plugin.host.builtin.detector import Detector3DTemplate
from nsmae_plugin.host.builtin.registry import lookup, register

__all__ = [
    "NAME",
    "DatasetTemplate",
    "Detector3DTemplate",
    "build_dataset",
    "build_network",
    "lookup",
    "register",
    "to_device",
]

NAME = "builtin"


def build_dataset(
    dataset_cfg: Any,
    class_names: list[str],
    training: bool,
    root_path: Path | str | None = None,
    logger: logging.Logger | None = None,
) -> Dataset:
    """Build the dataset that ``dataset_cfg.DATASET`` names.

    Args:
        root_path: directory that holds the versions; None takes ``dataset_cfg.DATA_PATH``.
    """
    return lookup("dataset", dataset_cfg.DATASET)(
        dataset_cfg=dataset_cfg,
        class_names=class_names,
        training=training,
        root_path=None if root_path is None else Path(root_path),
        logger=logger or logging.getLogger(__name__),
    )


def build_network(model_cfg: Any, num_class: int, dataset: Any) -> nn.Module:
    """Build the detector that ``model_cfg.NAME`` names."""
    return lookup("detector", model_cfg.NAME)(
        model_cfg=model_cfg, num_class=num_class, dataset=dataset
    )
