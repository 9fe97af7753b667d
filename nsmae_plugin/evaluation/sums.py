"""Sums over cells from which reconstruction metrics are computed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BIN_METRES = 1e-3
NUM_BINS = 1 << 17  # 131 m; farther targets share the last bin

_CELL_SETS = ("", "_masked", "_visible")


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for a perfect image."""
    return -10 * math.log10(mse) if mse > 0 else math.inf


class Sums:
    """A set of float64 tensors that are sums over cells, hence addable over processes."""

    def all_reduce(self) -> None:
        for tensor in vars(self).values():
            torch.distributed.all_reduce(tensor)


class ColourSums(Sums):
    """Squared error and target moments; rows: all, masked and visible cells."""

    def __init__(self, device: torch.device | str) -> None:
        self.cells = torch.zeros(3, dtype=torch.float64, device=device)
        self.error = torch.zeros(3, dtype=torch.float64, device=device)
        self.first = torch.zeros(3, 3, dtype=torch.float64, device=device)
        self.second = torch.zeros(3, 3, dtype=torch.float64, device=device)

    def add(self, rendered: Tensor, target: Tensor, sets: tuple[Tensor, ...]) -> None:
        """rendered, target: (..., 3, fH, fW); sets: three (..., fH, fW) bool."""
        rendered = rendered.double().movedim(-3, -1)
        target = target.double().movedim(-3, -1)
        for row, cells in enumerate(sets):
            truth = target[cells]
            self.cells[row] += len(truth)
            self.error[row] += (rendered[cells] - truth).square().sum()
            self.first[row] += truth.sum(0)
            self.second[row] += truth.square().sum(0)

    def metrics(self) -> dict[str, float]:
        if not self.cells[0]:
            return {}
        mean = self.first[0] / self.cells[0]
        constant = self.second - 2 * mean * self.first + mean.square() * self.cells[:, None]
        # Rounding may leave a tiny negative where all targets are equal.
        constant = constant.sum(1).clamp(min=0)
        result = {}
        for prefix, error in (("", self.error), ("baseline_mean_", constant)):
            for row, name in enumerate(_CELL_SETS):
                if self.cells[row]:
                    mse = float(error[row] / (3 * self.cells[row]))
                    result[f"{prefix}rgb_mse{name}"] = mse
                    result[f"{prefix}rgb_psnr{name}"] = psnr(mse)
        return result


class DepthSums(Sums):
    """Absolute error and a histogram of targets; rows: hidden and visible cells.

    The histogram keeps count and sum of the targets in each bin of a millimetre, so the error of a
    constant is exact except within the one bin that holds the constant.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.error = torch.zeros(2, dtype=torch.float64, device=device)
        self.counts = torch.zeros(2, NUM_BINS, dtype=torch.float64, device=device)
        self.totals = torch.zeros(2, NUM_BINS, dtype=torch.float64, device=device)

    def add(self, rendered: Tensor, target: Tensor, valid: Tensor, hidden: Tensor) -> None:
        """All of one shape; metres and bool."""
        for row, cells in enumerate((valid & hidden, valid & ~hidden)):
            truth = target[cells].double()
            self.error[row] += (rendered[cells].double() - truth).abs().sum()
            bins = (truth / BIN_METRES).long().clamp_(0, NUM_BINS - 1)
            self.counts[row].index_add_(0, bins, torch.ones_like(truth))
            self.totals[row].index_add_(0, bins, truth)

    def metrics(self, name: str) -> dict[str, float]:
        if not self.counts.sum():
            return {}
        constants = {"mean": self._mean(), "median": self._median()}
        result = self._by_set(f"{name}_mae", self.error)
        for kind, constant in constants.items():
            error = (self.counts * constant - self.totals).abs().sum(1)
            result[f"baseline_{kind}_{name}"] = constant
            result.update(self._by_set(f"baseline_{kind}_{name}_mae", error))
        return result

    def _by_set(self, name: str, error: Tensor) -> dict[str, float]:
        cells = self.counts.sum(1)
        result = {name: float(error.sum() / cells.sum())}
        for row, suffix in enumerate(("_hidden", "_visible")):
            if cells[row]:
                result[name + suffix] = float(error[row] / cells[row])
        return result

    def _mean(self) -> float:
        return float(self.totals.sum() / self.counts.sum())

    def _median(self) -> float:
        counts, totals = self.counts.sum(0), self.totals.sum(0)
        below = counts.cumsum(0)
        middle = int(torch.searchsorted(below, below[-1:] / 2))
        return float(totals[middle] / counts[middle])


class MeanSums(Sums):
    """One scalar, averaged with weights."""

    def __init__(self, device: torch.device | str) -> None:
        self.weight = torch.zeros((), dtype=torch.float64, device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, mean: float | Tensor, weight: int) -> None:
        self.weight += weight
        self.total += mean * weight
