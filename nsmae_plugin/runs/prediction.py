"""The prediction for one sample, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nsmae_plugin.errors import ConfigError, NonFiniteError
from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.formats.maps.map_classes import MapConfig
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.geometry.boxes import Boxes, make_boxes

BOXES, MAP = "boxes.json", "map.npz"  # the files that a prediction is written to


@dataclass(frozen=True)
class Prediction:
    """Boxes and map of one sample; None for what the network does not predict.

    Attributes:
        boxes: all of them, best first, in the LiDAR frame.
        map: on the grid of ``MAP_CONFIG``, in the LiDAR frame.
    """

    boxes: Boxes | None
    map: BEVMap | None


def read_prediction(
    result: Mapping[str, Any], batch: Mapping[str, Any], config: Any, map_threshold: float
) -> Prediction:
    """The prediction for the only sample of a batch.

    Args:
        result: ``pred_boxes``, ``pred_scores`` and ``pred_labels`` (counted from 1), or
            ``masks_bev`` (C, Y, X), or both.
        batch: before it went to the device; may hold ``gt_masks_bev`` (1, C, Y, X).
        config: as ``load_config`` gives it.
        map_threshold: see :class:`~nsmae_plugin.formats.maps.bev_map.BEVMap`.

    Raises:
        ConfigError: there is neither.
        NonFiniteError: a number is NaN or infinite.
    """
    if "pred_boxes" not in result and "masks_bev" not in result:
        raise ConfigError(
            f"MODEL.NAME {config.MODEL.NAME} predicts neither boxes nor a map, which "
            "`nsmae infer` needs (`nsmae visualize` draws what a pre-trained network renders)"
        )
    for key in ("pred_boxes", "pred_scores", "masks_bev"):
        if key in result and not torch.isfinite(result[key]).all():
            raise NonFiniteError(
                f"the network predicts NaN or infinity for sample {batch['metadata'][0]['token']} "
                f"({key}); its weights are damaged, or its training diverged"
            )
    return Prediction(
        _boxes(result, config.CLASS_NAMES) if "pred_boxes" in result else None,
        _map(result, batch, config, map_threshold) if "masks_bev" in result else None,
    )


def _boxes(result: Mapping[str, Any], class_names: list[str]) -> Boxes:
    values, scores, labels = (
        result[f"pred_{key}"].detach().cpu().double().numpy()
        for key in ("boxes", "scores", "labels")
    )
    order = np.argsort(-scores, kind="stable")
    names = [class_names[int(label) - 1] for label in labels[order]]
    return make_boxes(values[order], names, scores[order])


def _map(
    result: Mapping[str, Any], batch: Mapping[str, Any], config: Any, threshold: float
) -> BEVMap:
    settings = config.DATA_CONFIG.MAP_CONFIG
    labels = batch.get("gt_masks_bev")
    return BEVMap(
        classes=tuple(MapConfig.of_section(settings).CLASSES),
        grid=map_grid(settings),
        probabilities=result["masks_bev"].detach().cpu().float().numpy(),
        labels=None if labels is None else np.asarray(labels[0], dtype=bool),
        threshold=threshold,
    )


def describe(boxes: Boxes) -> list[dict[str, Any]]:
    """Predicted boxes as JSON objects: ``name``, ``score`` and, under ``lidar``, the box itself."""
    assert boxes.scores is not None
    return [
        {
            "name": name,
            "score": float(score),
            "lidar": {
                "center": values[:3].tolist(),
                "size": values[3:6].tolist(),
                "yaw": float(values[6]),
                "velocity": values[7:9].tolist() if np.isfinite(values[7:9]).all() else None,
            },
        }
        for name, score, values in zip(boxes.names, boxes.scores, boxes.values, strict=True)
    ]
