"""Made-up labels: boxes on the ground, and a map of rectangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from nsmae_plugin.formats.maps.map_classes import map_classes
from nsmae_plugin.geometry.bev_grid import map_grid

OBJECTS = 40  # in a sample of nuScenes, about
AREAS = 4  # of each class of the map


def made_up_labels(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The labels that a configuration asks for: ``gt_boxes``, ``gt_masks_bev``, both or none."""
    data = config.DATA_CONFIG
    labels = {}
    if data.get("USE_LABELS", True):
        boxes = [_boxes(config, rng) for _ in range(batch)]
        labels["gt_boxes"] = np.stack(boxes).astype(np.float32)
    if data.get("MAP_CONFIG") is not None:
        classes, shape = map_classes(data.MAP_CONFIG), map_grid(data.MAP_CONFIG).shape
        masks = [[_areas(shape, rng) for _ in classes] for _ in range(batch)]
        labels["gt_masks_bev"] = np.array(masks)
    return labels


def _boxes(config: Any, rng: np.random.Generator) -> np.ndarray:
    """(OBJECTS, 8 or 10): box, velocity if it is predicted, label from 1."""
    lower, upper = np.split(np.array(config.DATA_CONFIG.POINT_CLOUD_RANGE), 2)
    columns: list[np.ndarray] = [
        rng.uniform(0.9 * lower[:2], 0.9 * upper[:2], (OBJECTS, 2)),
        rng.uniform(-1.5, 0.0, (OBJECTS, 1)),
        rng.uniform(0.5, 5.0, (OBJECTS, 3)),
        rng.uniform(-np.pi, np.pi, (OBJECTS, 1)),
    ]
    if config.DATA_CONFIG.get("PRED_VELOCITY", False):
        columns.append(rng.normal(0.0, 3.0, (OBJECTS, 2)))
    columns.append(rng.integers(1, 1 + len(config.CLASS_NAMES), (OBJECTS, 1)))
    return np.concatenate(columns, axis=1)


def _areas(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for _ in range(AREAS):
        row, column = (int(rng.integers(size)) for size in shape)
        mask[row : row + shape[0] // 4, column : column + shape[1] // 20 + 1] = True
    return mask
