"""Labelled boxes of a sample: as the host augments them, and as networks read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def load_boxes(info: Mapping[str, Any], dataset_cfg: Any) -> dict[str, np.ndarray]:
    """``gt_boxes`` (G, 7 or 9) and ``gt_names`` (G,) with ``FILTER_MIN_POINTS_IN_GT`` points."""
    least = dataset_cfg.get("FILTER_MIN_POINTS_IN_GT", False)
    kept = info["num_lidar_pts"] >= least if least else slice(None)
    # Copies: OpenPCDet's augmentors write into what they get.
    return {key: info[key][kept].copy() for key in ("gt_boxes", "gt_names")}


def finish_boxes(boxes: np.ndarray, dataset_cfg: Any) -> np.ndarray:
    """Prepared boxes (G, 8 or 10), the class last, with the velocities that are asked for."""
    if dataset_cfg.get("SET_NAN_VELOCITY_TO_ZEROS", False):
        boxes = boxes.copy()
        boxes[:, 7:-1] = np.nan_to_num(boxes[:, 7:-1], nan=0.0)
    if not dataset_cfg.get("PRED_VELOCITY", True):
        boxes = boxes[:, [0, 1, 2, 3, 4, 5, 6, -1]]
    return boxes
