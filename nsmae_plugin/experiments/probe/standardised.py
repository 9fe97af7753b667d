"""Features of frames, standardised by their statistics in training frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STATISTICS_FRAMES = 256  # training frames, evenly spread, of the statistics


class Standardised:
    """Features with mean 0 and deviation 1 of every channel over training frames.

    Args:
        parts: for each part of the channels the features (F, C, H, W) of the training and of the
            test split, of any floating type; parts of other sizes are interpolated to the last.
        device: where the features go.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]], device: torch.device | str = "cpu"):
        self._parts = parts
        self._scales = [_scale(train) for train, _ in parts]
        self._device = torch.device(device)

    @property
    def channels(self) -> int:
        return sum(train.shape[1] for train, _ in self._parts)

    def train(self, frames: Sequence[int]) -> Tensor:
        """(B, channels, H, W) float32 of the training split."""
        return self._read(0, frames)

    def test(self, frames: Sequence[int]) -> Tensor:
        """The same of the test split, by the scale of the training split."""
        return self._read(1, frames)

    def _read(self, split: int, frames: Sequence[int]) -> Tensor:
        index = torch.tensor(list(frames))
        found = []
        for part, (mean, scale) in zip(self._parts, self._scales, strict=True):
            features = part[split][index].to(self._device).float()
            features = (features - mean.to(features)) * scale.to(features)
            found.append(features)
        size = found[-1].shape[-2:]
        return torch.cat([_resized(one, size) for one in found], 1)


def _resized(features: Tensor, size: torch.Size) -> Tensor:
    same = features.shape[-2:] == size
    return features if same else F.interpolate(features, size, mode="bilinear")


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) mean and inverse deviation over frames; 0 for a channel that does not vary."""
    step = max(1, len(features) // STATISTICS_FRAMES)
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for frame in range(0, len(features), step):
        values = features[frame].double().flatten(1)
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + (values**2).sum(1)
    mean = total / count
    variance = (squares / count - mean**2).clamp(min=0)
    constant = variance <= 1e-10 * (squares / count)
    scale = torch.where(constant, 0, variance.rsqrt())
    return mean.float()[:, None, None], scale.float()[:, None, None]
