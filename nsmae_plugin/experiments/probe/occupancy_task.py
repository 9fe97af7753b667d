"""Occupancy by height on frozen features, scored by average precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.probe.frames import ProbeData
from nsmae_plugin.experiments.probe.score_counts import ScoreCounts, average_precision
from nsmae_plugin.experiments.probe.tasks import Meter


class OccupancyTask:
    """For every cell and layer of height: does the LiDAR see something there.

    The score of a layer is its average precision over all cells of the test split; that of the
    task is the mean over the layers that hold anything.
    """

    name: ClassVar[str] = "occupancy"
    metric: ClassVar[str] = "mAP"
    PRIOR = 0.02  # probability that an untrained head gives every layer

    def __init__(self, train: ProbeData, test: ProbeData):
        self._train, self._test = train, test
        self._layers = len(train.occupancy(0))
        self.biases = [math.log(self.PRIOR / (1 - self.PRIOR))] * self._layers

    def loss(self, logits: Tensor, frames: Sequence[int]) -> Tensor:
        target = _stack(self._train, frames).to(logits)
        return F.binary_cross_entropy_with_logits(logits, target)

    def meter(self) -> Meter:
        return _OccupancyMeter(self._test, self._layers)


class _OccupancyMeter:
    def __init__(self, test: ProbeData, layers: int):
        self._test, self._counts = test, ScoreCounts(layers)

    def add(self, frames: Sequence[int], logits: Tensor) -> None:
        self._counts.add(logits, _stack(self._test, frames))

    def metrics(self) -> dict[str, float]:
        pairs = zip(self._counts.positive, self._counts.negative, strict=True)
        found = {
            f"AP/layer_{index}": average_precision(*pair)
            for index, pair in enumerate(pairs)
            if pair[0].any()
        }
        if not found:
            raise DataError("no cell of the test split is occupied: there is no occupancy to score")
        return {"mAP": float(np.mean(list(found.values()))), **found}


def _stack(labels: ProbeData, frames: Sequence[int]) -> Tensor:
    """(B, Z, H, W) bool."""
    return torch.from_numpy(np.stack([labels.occupancy(frame) for frame in frames]))
