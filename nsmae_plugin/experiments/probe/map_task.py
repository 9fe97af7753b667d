"""Semantic classes of the ground on frozen features, scored as predicted maps are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.experiments.probe.frames import ProbeData
from nsmae_plugin.experiments.probe.score_counts import ScoreCounts, best_iou
from nsmae_plugin.experiments.probe.tasks import Meter
from nsmae_plugin.geometry.bev_grid import BEVGrid, Bound
from nsmae_plugin.models.map_head import GridResampler


class MapTask:
    """Semantic classes of the ground, each by itself.

    Training compares with the share of a class in each cell of the features. For the score the
    outputs are interpolated to the cells of the map. As in the evaluation of map networks, the
    score of a class is its intersection over union at the best threshold, and that of the task the
    mean over the classes that have cells; but any threshold may be the best, not only those from
    0.35 to 0.65. Below them the probabilities of rare classes stay where features say little: most
    classes would score 0, and a head that few labels made too sure of itself more than a good one.
    """

    name: ClassVar[str] = "map"
    metric: ClassVar[str] = "mIoU"
    PRIOR = 0.1  # probability that an untrained head gives every class

    def __init__(self, train: ProbeData, test: ProbeData):
        if train.map_masks is None or test.map_masks is None or train.map_grid is None:
            raise ConfigError(
                "the task map needs DATA_CONFIG.MAP_CONFIG: take a configuration with maps, or "
                "leave out map from --tasks"
            )
        self.classes, self._masks = list(train.map_classes), test.map_masks
        self._shares, self._covered = cell_shares(train.map_masks, train.map_grid, train.grid)
        self._resample = GridResampler(train.map_grid, _range(train.grid))
        self.biases = [math.log(self.PRIOR / (1 - self.PRIOR))] * len(self.classes)

    def loss(self, logits: Tensor, frames: Sequence[int]) -> Tensor:
        target = self._shares[list(frames)].to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        covered = self._covered.to(logits)
        return (losses * covered).sum() / (covered.sum() * target.shape[0] * target.shape[1])

    def meter(self) -> Meter:
        return _MapMeter(self._masks, self.classes, self._resample)


class _MapMeter:
    def __init__(self, masks: np.ndarray, classes: Sequence[str], resample: GridResampler):
        self._masks, self._classes, self._resample = masks, classes, resample
        self._counts = ScoreCounts(len(classes))

    def add(self, frames: Sequence[int], logits: Tensor) -> None:
        masks = torch.from_numpy(self._masks[list(frames)]).bool()
        self._counts.add(self._resample.to(logits.device)(logits), masks)

    def metrics(self) -> dict[str, float]:
        pairs = zip(self._counts.positive, self._counts.negative, strict=True)
        found = {
            f"IoU/{name}": best_iou(*pair)
            for name, pair in zip(self._classes, pairs, strict=True)
            if pair[0].any()
        }
        if not found:
            raise DataError(
                f"no cell of the test split is {', '.join(self._classes)}: there is no map to score"
            )
        return {"mIoU": float(np.mean(list(found.values()))), **found}


def cell_shares(masks: np.ndarray, fine: BEVGrid, coarse: BEVGrid) -> tuple[Tensor, Tensor]:
    """Share of the fine cells in each coarse cell that a mask holds.

    A fine cell belongs to the coarse cell in which its centre lies.

    Args:
        masks: (F, K, Y, X) of 0 and 1, on the fine grid.

    Returns:
        (F, K, H, W) float16 on the coarse grid; and (H, W) bool, the coarse cells that have a fine
        one. The shares of others are 0.
    """
    along_x, along_y = (
        _means(torch.from_numpy(centres), bound, coarse.stride)
        for centres, bound in zip(fine.axes(), (coarse.x_bound, coarse.y_bound), strict=True)
    )
    shares = [along_y @ torch.from_numpy(np.asarray(mask)).float() @ along_x.T for mask in masks]
    covered = torch.outer(along_y.any(1), along_x.any(1))
    return torch.stack(shares).half(), covered


def _range(grid: BEVGrid) -> tuple[float, ...]:
    """(x, y, z, x, y, z) that a grid covers; z is not read."""
    (left, right, _), (near, far, _) = grid.x_bound, grid.y_bound
    return left, near, 0.0, right, far, 0.0


def _means(centres: Tensor, bound: Bound, stride: int) -> Tensor:
    """(cells, centres) matrix of means over the centres in each cell of one axis."""
    low, high, step = bound
    cells = round((high - low) / step) // stride
    index = ((centres - low) / (step * stride)).floor()
    members = (index == torch.arange(cells)[:, None]).float()
    return members / members.sum(1, keepdim=True).clamp(min=1)
