"""Pictures of one held-out sample while a network trains: always the same frame and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader

from nsmae_plugin import host
from nsmae_plugin.detectors.outputs import BOXES, MAP, RENDERINGS
from nsmae_plugin.evaluation import prediction_loop
from nsmae_plugin.runs.loaded_model import LoadedModel
from nsmae_plugin.runs.predictor import Predictor
from nsmae_plugin.training.session import Pictures
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.reconstruction_pictures import overview, sample_of

INDEX = 0  # of the sample in the held-out data
SCORE_THRESHOLD = 0.3  # of drawn boxes


def build_pictures(
    model: nn.Module, dataset: Any, loader: DataLoader, config: Any, device: torch.device
) -> Pictures | None:
    """Draw what a network predicts; None where the frames are not those of info files.

    Reconstructions are drawn as ``nsmae visualize`` draws its overview; boxes from above with the
    annotated ones, and maps, as ``nsmae infer`` does.

    Args:
        dataset, loader: the held-out data, unaugmented.
    """
    infos = getattr(dataset, "infos", None)
    if not infos or "token" not in infos[0]:
        return None
    outputs = prediction_loop.outputs(model)

    def draw(model: nn.Module) -> Mapping[str, np.ndarray]:
        # Not inference_mode: a module may keep a tensor created here and use it in training.
        with prediction_loop.evaluating(model) as network, torch.no_grad():
            loaded = LoadedModel(network, dataset, loader, origin="")
            if RENDERINGS in outputs:
                return _pixels("reconstruction", _reconstruction(loaded, config, device))
            predictor = Predictor(loaded, config, device, SCORE_THRESHOLD, network="")
            return _pixels("prediction", predictor.figures(INDEX))

    return draw if outputs & {RENDERINGS, BOXES, MAP} else None


def _reconstruction(loaded: LoadedModel, config: Any, device: torch.device) -> dict[str, Figure]:
    batch = host.to_device(loaded.batch_of(INDEX), device)
    rendered, _ = loaded.model(batch)
    sample = sample_of(batch, rendered, 0, config.DATA_CONFIG.POINT_CLOUD_RANGE)
    return {"overview": overview(sample, f"sample {loaded.dataset.infos[INDEX]['token']}")}


def _pixels(prefix: str, figures: Mapping[str, Figure]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": panels.pixels(figure) for name, figure in figures.items()}
