"""Heatmaps of object centres on frozen features, scored as nuScenes does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import Tensor

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.experiments.probe.center_scores import CenterScorer
from nsmae_plugin.experiments.probe.frames import ProbeData
from nsmae_plugin.experiments.probe.tasks import Meter
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.boxes import Boxes, make_boxes
from nsmae_plugin.ops.center_codes import assign_group, decode, gather, regression_loss
from nsmae_plugin.ops.heatmap import RARE, clipped_sigmoid, gaussian_focal_loss


class CenterTask:
    """A heatmap of object centres, and the rest of a box at each centre, as CenterPoint's.

    The outputs are a channel for each class and the :data:`CODES`. The peaks of the heatmap
    (higher than their eight neighbours) are scored by
    :class:`~nsmae_plugin.experiments.probe.center_scores.CenterScorer`.
    """

    name: ClassVar[str] = "centers"
    metric: ClassVar[str] = "mAP"
    # Name -> channels: place in its cell, height, log sizes, cosine and sine of the heading.
    CODES: ClassVar = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}
    CODE_WEIGHT = 0.25  # of CenterPoint
    MOST_PEAKS = 100  # of a frame; the benchmark allows 500
    LEAST_SCORE = 1e-3
    LARGEST = 4.0  # logarithm of a size in metres

    def __init__(self, train: ProbeData, test: ProbeData):
        self.grid, self.class_names = train.grid, list(train.class_names)
        if not self.class_names:
            raise ConfigError(
                "the task centers needs boxes: set DATA_CONFIG.USE_LABELS True, or leave out "
                "centers from --tasks"
            )
        self._boxes = [_known(boxes, self.grid) for boxes in train.boxes]
        most = max(1, *map(len, self._boxes))
        self._config = EasyDict(NUM_MAX_OBJS=most, GAUSSIAN_OVERLAP=0.1, MIN_RADIUS=1)
        self._targets: dict[int, tuple[Tensor, ...]] = {}
        self._scorer = CenterScorer(
            [_boxes(boxes, self.class_names) for boxes in test.boxes], self.class_names
        )
        self.biases = [RARE] * len(self.class_names) + [0.0] * sum(self.CODES.values())

    def loss(self, logits: Tensor, frames: Sequence[int]) -> Tensor:
        targets = zip(*(self._target(frame) for frame in frames), strict=True)
        heatmap, codes, cells, mask = (torch.stack(part).to(logits.device) for part in targets)
        scores, rest = logits.split([len(self.class_names), sum(self.CODES.values())], dim=1)
        focal = gaussian_focal_loss(clipped_sigmoid(scores), heatmap.to_dense())
        distance = regression_loss(gather(rest, cells), codes, mask).sum()
        return focal + self.CODE_WEIGHT * distance

    def _target(self, frame: int) -> tuple[Tensor, ...]:
        """Of :func:`assign_group`, drawn once; the heatmap is sparse."""
        if frame not in self._targets:
            labels = self._boxes[frame][None]
            classes = range(len(self.class_names))
            heatmap, *rest = assign_group(labels, classes, self.grid, self._config)
            self._targets[frame] = (heatmap[0].to_sparse(), *(part[0] for part in rest))
        return self._targets[frame]

    def meter(self) -> Meter:
        return _CenterMeter(self)

    def decode(self, logits: Tensor) -> list[Boxes]:
        """The boxes at the peaks of the heatmaps (B, outputs, H, W)."""
        parts = logits.float().split([len(self.class_names), *self.CODES.values()], dim=1)
        maps = dict(zip(("hm", *self.CODES), parts, strict=True))
        highest = F.max_pool2d(maps["hm"], 3, stride=1, padding=1)
        maps["hm"] = maps["hm"].where(maps["hm"] == highest, -torch.inf)
        maps["dim"] = maps["dim"].clamp(-self.LARGEST, self.LARGEST)
        everywhere = [-math.inf] * 3 + [math.inf] * 3
        found = decode(maps, self.grid, everywhere, self.MOST_PEAKS, self.LEAST_SCORE)
        return [
            make_boxes(
                boxes.cpu().numpy(),
                [self.class_names[label] for label in classes.tolist()],
                scores.cpu().numpy(),
            )
            for boxes, scores, classes in found
        ]

    def score(self, predicted: Sequence[Boxes]) -> dict[str, float]:
        return self._scorer.score(predicted)


class _CenterMeter:
    def __init__(self, task: CenterTask):
        self._task, self._found = task, list[Boxes]()

    def add(self, frames: Sequence[int], logits: Tensor) -> None:
        self._found += self._task.decode(logits)

    def metrics(self) -> dict[str, float]:
        return self._task.score(self._found)


def _known(boxes: np.ndarray, grid: BEVGrid) -> Tensor:
    """(N, 8) the boxes (N, 10) whose centre lies on the grid, without velocities."""
    values = torch.from_numpy(np.asarray(boxes, dtype=np.float32).reshape(-1, 10))
    coordinates = grid.coordinates(values[:, :2])
    rows, columns = grid.shape
    inside = ((coordinates >= 0) & (coordinates < coordinates.new_tensor([columns, rows]))).all(1)
    return values[inside][:, [0, 1, 2, 3, 4, 5, 6, 9]]


def _boxes(boxes: np.ndarray, class_names: Sequence[str]) -> Boxes:
    values = np.asarray(boxes, dtype=np.float64).reshape(-1, 10)
    return make_boxes(values[:, :9], [class_names[int(label) - 1] for label in values[:, 9]])
