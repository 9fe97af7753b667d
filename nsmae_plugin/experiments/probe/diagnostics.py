"""Numbers that tell how usable features are: their depth, scale and spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsmae_plugin.experiments.probe.moments import Moments

NEAR = 1.0  # metres from the LiDAR depth that count as right
DEAD = 1e-3  # a channel whose deviation is less than this share of the largest carries nothing
DEPTH_SUMS = ("cells", "mass", "chance", "hits", "cross_entropy", "entropy")


@dataclass(frozen=True)
class DepthQuality:
    """The distribution over depth bins, averaged over the cells with a LiDAR depth in the bins.

    Attributes:
        cells: their number.
        mass: probability within 1 m of the LiDAR depth.
        chance: the same of a uniform distribution.
        hits: share of the cells whose most probable bin lies within 1 m.
        cross_entropy: minus the logarithm of the probability of the LiDAR's bin, nats.
        uniform: the same of a uniform distribution, and its entropy.
        entropy: of the distribution, nats.
    """

    cells: int
    mass: float
    chance: float
    hits: float
    cross_entropy: float
    uniform: float
    entropy: float

    @classmethod
    def of(cls, sums: np.ndarray, bins: int) -> DepthQuality | None:
        """From the sums of frames (F, 6), see :func:`depth_sums`; None without a single cell."""
        total = dict(zip(DEPTH_SUMS, sums.sum(0).tolist(), strict=True))
        cells = total.pop("cells")
        if not cells:
            return None
        means = {name: value / cells for name, value in total.items()}
        return cls(cells=int(cells), uniform=math.log(bins), **means)


@dataclass(frozen=True)
class FeatureSpread:
    """Scale and spread of the channels of BEV features over all cells.

    Attributes:
        channels: their number.
        magnitude: mean absolute value.
        deviation: standard deviation over the cells, mean of the channels.
        effective_rank: exponential of the entropy of the normalised eigenvalues of the covariance:
            1 if all channels vary together, their number if they vary alike and independently.
        dead: share of the channels whose deviation is below a thousandth of the largest.
    """

    channels: int
    magnitude: float
    deviation: float
    effective_rank: float
    dead: float

    @classmethod
    def of(cls, moments: Moments) -> FeatureSpread:
        covariance = moments.covariance
        deviation = covariance.diagonal().clamp_min(0).sqrt()
        dead = deviation <= DEAD * deviation.max()
        return cls(
            channels=len(deviation),
            magnitude=float(moments.magnitude.mean() / moments.cells),
            deviation=float(deviation.mean()),
            effective_rank=effective_rank(covariance),
            dead=float(dead.double().mean()),
        )


@dataclass(frozen=True)
class Diagnostics:
    """Of one network and split; ``features`` by name, of training frames."""

    depth: DepthQuality | None
    features: Mapping[str, FeatureSpread]

    def rows(self) -> dict[str, dict[str, float]]:
        """``depth`` and the features -> numbers by name, for tables and JSON."""
        found: dict[str, Any] = {"depth": self.depth, **self.features}
        return {name: dict(vars(one)) for name, one in found.items() if one is not None}


def depth_sums(
    logits: Tensor, depth: Tensor, bins: Tensor, known: Tensor, centres: Tensor
) -> Tensor:
    """Sums over the cells of each image whose LiDAR depth is known.

    Args:
        logits: (I, D, h, w) of the distribution over the depth bins.
        depth: (I, h, w) of the LiDAR, metres. bins: (I, h, w) int64, its bins.
        known: (I, h, w) bool.
        centres: (D,) of the bins, metres.

    Returns:
        (I, 6) float64, the sums of :data:`DEPTH_SUMS`.
    """
    logarithms = logits.double().log_softmax(1)
    probability = logarithms.exp()
    near = (centres.to(logarithms).view(-1, 1, 1) - depth.double().unsqueeze(1)).abs() <= NEAR
    best = probability.argmax(1, keepdim=True)
    values = (
        torch.ones_like(depth, dtype=torch.float64),
        (probability * near).sum(1),
        near.double().mean(1),
        near.gather(1, best).squeeze(1).double(),
        -logarithms.gather(1, bins.unsqueeze(1)).squeeze(1),
        torch.special.entr(probability).sum(1),
    )
    return (torch.stack(values, 1) * known.unsqueeze(1)).sum((2, 3))


def effective_rank(covariance: Tensor) -> float:
    """Exponential of the entropy of the normalised eigenvalues (Roy and Vetterli, 2007).

    0 of a covariance of zeros.
    """
    values = torch.linalg.eigvalsh(covariance).clamp_min(0)
    if not values.sum():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())
