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
from nsmae_plugin.experiments.probe.tasks import Meter

LIMIT, STEPS = 16.0, 3200  # logits are counted in STEPS bins between -LIMIT and LIMIT


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
    """Counts the cells of every layer by their logit, the empty and the occupied ones."""

    def __init__(self, test: ProbeData, layers: int):
        self._test = test
        self._counts = torch.zeros(layers, 2, STEPS, dtype=torch.long)

    def add(self, frames: Sequence[int], logits: Tensor) -> None:
        occupied = _stack(self._test, frames).to(logits.device)
        layers = torch.arange(len(self._counts), device=logits.device).view(-1, 1, 1)
        step = ((logits.float() + LIMIT) * (STEPS / (2 * LIMIT))).long().clamp(0, STEPS - 1)
        place = (2 * layers + occupied.long()) * STEPS + step
        counts = torch.bincount(place.flatten(), minlength=self._counts.numel())
        self._counts += counts.view(self._counts.shape).cpu()

    def metrics(self) -> dict[str, float]:
        empty, occupied = self._counts.unbind(1)
        found = {
            f"AP/layer_{index}": average_precision(*pair)
            for index, pair in enumerate(zip(occupied, empty, strict=True))
            if pair[0].any()
        }
        if not found:
            raise DataError("no cell of the test split is occupied: there is no occupancy to score")
        return {"mAP": float(np.mean(list(found.values()))), **found}


def average_precision(positive: Tensor, negative: Tensor) -> float:
    """Sum of precision times the gain of recall, from the highest score to the lowest.

    Args:
        positive, negative: (S,) counts by score, ascending; equal scores are ranked together.
    """
    right, wrong = (counts.flip(0).double() for counts in (positive, negative))
    precision = right.cumsum(0) / (right + wrong).cumsum(0).clamp(min=1)
    return float((precision * right).sum() / right.sum())


def _stack(labels: ProbeData, frames: Sequence[int]) -> Tensor:
    """(B, Z, H, W) bool."""
    return torch.from_numpy(np.stack([labels.occupancy(frame) for frame in frames]))
