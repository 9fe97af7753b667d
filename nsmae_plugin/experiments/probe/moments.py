"""Means and covariances of the channels of feature maps, and their whitening."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_VARIANCE = 1e-6  # of a component, as a share of the largest: less is rounding


@dataclass
class Moments:
    """Sums over the cells of feature maps, float64.

    Attributes:
        cells: number of cells. total: (C,). products: (C, C). magnitude: (C,) of absolute values.
    """

    cells: int
    total: Tensor
    products: Tensor
    magnitude: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Sums over all cells of (B, C, H, W)."""
        rows = features.transpose(0, 1).flatten(1).double()
        return cls(rows.shape[1], rows.sum(1), rows @ rows.T, rows.abs().sum(1))

    def __add__(self, other: Moments) -> Moments:
        sums = (getattr(self, key) + getattr(other, key) for key in vars(self))
        return Moments(*sums)

    @property
    def mean(self) -> Tensor:
        """(C,)."""
        return self.total / self.cells

    @property
    def covariance(self) -> Tensor:
        """(C, C), of the population."""
        return self.products / self.cells - torch.outer(self.mean, self.mean)


@dataclass
class Whitening:
    """The first principal components of features, each of variance 1.

    Attributes:
        mean: (C,). matrix: (K, C).
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, moments: Moments, channels: int) -> Whitening:
        """At most ``channels`` components; fewer if the rest is rounding."""
        variances, vectors = torch.linalg.eigh(moments.covariance)
        variances, vectors = variances.flip(0)[:channels], vectors.flip(1)[:, :channels]
        kept = variances > LEAST_VARIANCE * variances[0]
        kept[0] = True  # features that are constant have one component, 0
        scale = variances.clamp_min(1e-12).rsqrt()
        return cls(moments.mean.float(), (vectors * scale)[:, kept].T.contiguous().float())

    def __call__(self, features: Tensor) -> Tensor:
        """(B, K, H, W) of (B, C, H, W)."""
        mean, matrix = self.mean.to(features), self.matrix.to(features)
        return F.conv2d(features - mean.view(-1, 1, 1), matrix[:, :, None, None])
