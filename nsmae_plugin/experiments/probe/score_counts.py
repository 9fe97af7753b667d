"""Cells of each class counted by the score that they got, and what follows from the counts."""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT, STEPS = 16.0, 3200  # logits are counted in STEPS steps between -LIMIT and LIMIT


class ScoreCounts:
    """Counts over any number of frames.

    Attributes:
        positive, negative: (K, STEPS) int64, cells in the class and outside, by ascending logit.
    """

    def __init__(self, classes: int):
        self._counts = torch.zeros(classes, 2, STEPS, dtype=torch.long)

    @property
    def positive(self) -> Tensor:
        return self._counts[:, 1]

    @property
    def negative(self) -> Tensor:
        return self._counts[:, 0]

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count the cells of logits (B, K, H, W) with labels (B, K, H, W) bool."""
        classes = torch.arange(len(self._counts), device=logits.device).view(-1, 1, 1)
        step = ((logits.float() + LIMIT) * (STEPS / (2 * LIMIT))).long().clamp(0, STEPS - 1)
        place = (2 * classes + labels.to(logits.device).long()) * STEPS + step
        counts = torch.bincount(place.flatten(), minlength=self._counts.numel())
        self._counts += counts.view(self._counts.shape).cpu()


def average_precision(positive: Tensor, negative: Tensor) -> float:
    """Sum of precision times the gain of recall, from the highest score to the lowest.

    Args:
        positive, negative: (S,) counts by ascending score; equal scores are ranked together.
    """
    right, wrong = (counts.flip(0).double() for counts in (positive, negative))
    precision = right.cumsum(0) / (right + wrong).cumsum(0).clamp(min=1)
    return float((precision * right).sum() / right.sum())


def best_iou(positive: Tensor, negative: Tensor) -> float:
    """Intersection over union at the threshold where it is highest.

    Args:
        positive, negative: (S,) counts by ascending score.
    """
    found, wrong = (counts.flip(0).cumsum(0).double() for counts in (positive, negative))
    return float((found / (found[-1] + wrong)).max())
