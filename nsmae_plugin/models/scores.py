"""Scores of rendered colour and depth, computed from sums over cells.

A *record* holds the sums of one sample in plain arrays; a :class:`Total` adds up the records of a
dataset and the totals of several processes, and divides once, in :meth:`Total.metrics`: the result
does not depend on the batch size or on how the dataset is sharded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

BIN_METRES = 1e-3
NUM_BINS = 1 << 17  # 131 m; farther targets share the last bin
DEPTH_SETS = ("hidden", "visible")

_CELL_SETS = ("", "_masked", "_visible")
Record = dict[str, np.ndarray]

# Metric -> title of its row in the table, for each view.
CAMERA_ROWS = {
    "rgb_psnr_masked": "colour PSNR, hidden patches (dB)",
    "rgb_psnr_visible": "colour PSNR, visible patches (dB)",
    "rgb_mse": "colour squared error, all cells",
    "depth_mae_hidden": "camera depth error, hidden LiDAR (m)",
    "depth_mae_visible": "camera depth error, visible LiDAR (m)",
    "depth_mae": "camera depth error, all LiDAR (m)",
    "opacity": "mean opacity, camera",
}
IMAGE_ROWS = {
    "image_psnr_masked": "image PSNR, hidden patches (dB)",
    "image_psnr_visible": "image PSNR, visible patches (dB)",
    "image_cell_psnr_masked": "image PSNR of cell means, hidden patches (dB)",
    "image_cell_psnr_visible": "image PSNR of cell means, visible patches (dB)",
}
BEV_ROWS = {
    "bev_depth_mae_hidden": "BEV depth error, hidden voxels (m)",
    "bev_depth_mae_visible": "BEV depth error, visible voxels (m)",
    "bev_depth_mae": "BEV depth error, all voxels (m)",
    "bev_opacity": "mean opacity, BEV",
}


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for a perfect image."""
    return -10 * math.log10(mse) if mse > 0 else math.inf


def cells_of_patches(patch_mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cells entirely inside hidden, and entirely inside visible, image patches.

    Args:
        patch_mask: (..., Hp, Wp) bool, True where the patch is hidden.
        grid: (fH, fW) of the feature grid over the same image.

    Returns:
        ``hidden, visible``, each (..., fH, fW) bool. Cells that span both kinds of patch are
        in neither.
    """
    maps = patch_mask.reshape(-1, 1, *patch_mask.shape[-2:]).float()
    share = F.interpolate(maps, size=grid, mode="area")
    share = share.reshape(*patch_mask.shape[:-2], *grid)
    tolerance = 1e-5  # the pooled average of ones may miss 1 by rounding
    return share > 1 - tolerance, share < tolerance


def patch_cells(patch_mask: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """The cells that the images fill, in hidden patches and in visible ones.

    Args:
        patch_mask: (..., Hp, Wp) bool, True where the patch is hidden.
        filled: (..., fH, fW) bool.
    """
    height, width = filled.shape[-2:]
    hidden, visible = cells_of_patches(patch_mask, (height, width))
    return hidden & filled, visible & filled


def patch_pixels(sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(..., H, W) bool: pixels of ``target_image`` in hidden patches and in visible ones.

    Pixels count where the cell of ``target_image_mask`` that they belong to is filled.
    """
    filled = sample["target_image_mask"]
    stride = sample["target_image"].shape[-1] // filled.shape[-1]
    filled = filled.repeat_interleave(stride, -1).repeat_interleave(stride, -2)
    return patch_cells(sample["image_patch_mask"], filled)


def colour_record(rendered: Tensor, target: Tensor, sets: tuple[Tensor, ...]) -> Record:
    """Squared error and target moments of one sample.

    Args:
        rendered, target: (..., 3, fH, fW).
        sets: all, hidden and visible cells, (..., fH, fW) bool.

    Returns:
        float64 with a row for each set: ``cells`` (3,), ``error`` (3,), summed over the channels,
        ``first`` and ``second`` (3, 3), moments of the target by channel.
    """
    rendered, target = (one.double().movedim(-3, -1) for one in (rendered, target))
    record: dict[str, list[Any]] = {"cells": [], "error": [], "first": [], "second": []}
    for cells in sets:
        truth = target[cells]
        record["cells"].append(len(truth))
        record["error"].append(float((rendered[cells] - truth).square().sum()))
        record["first"].append(truth.sum(0).tolist())
        record["second"].append(truth.square().sum(0).tolist())
    return {name: np.array(rows, dtype=np.float64) for name, rows in record.items()}


def depth_record(rendered: Tensor, target: Tensor, valid: Tensor, hidden: Tensor) -> Record:
    """Absolute error and targets of one sample; arguments of one shape, metres and bool.

    Returns:
        ``error`` (2,) float64, sums over the hidden and the visible cells; ``hidden`` and
        ``visible`` (n,) float32, the targets there.
    """
    record, errors = {}, []
    for name, cells in zip(DEPTH_SETS, (valid & hidden, valid & ~hidden), strict=True):
        truth = target[cells]
        errors.append(float((rendered[cells].double() - truth.double()).abs().sum()))
        record[name] = truth.float().cpu().numpy()
    return {"error": np.array(errors), **record}


def mean_record(values: Tensor) -> tuple[float, float]:
    """Mean and number of values, for :class:`MeanTotal`."""
    return float(values.double().mean()), float(values.numel())


class Total(ABC):
    """Sums over samples; the attributes are numbers and arrays, summed over processes.

    Args:
        name: of the quantity, in the names of its metrics.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @abstractmethod
    def add(self, record: Any) -> None:
        """Add the record of one sample."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The metrics so far, except those of empty sets of cells."""

    def join(self, other: Total) -> None:
        """Add the sums of another process."""
        for name, value in vars(other).items():
            if name != "_name":
                vars(self)[name] = vars(self)[name] + value


class ColourTotal(Total):
    """Adds up :func:`colour_record`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cells, self.error = np.zeros(3), np.zeros(3)
        self.first, self.second = np.zeros((3, 3)), np.zeros((3, 3))

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            vars(self)[name] = vars(self)[name] + value

    def metrics(self) -> dict[str, float]:
        if not self.cells[0]:
            return {}
        mean = self.first[0] / self.cells[0]
        constant = self.second - 2 * mean * self.first + mean**2 * self.cells[:, None]
        # Rounding may leave a tiny negative where all targets are equal.
        constant = constant.sum(1).clip(min=0)
        result = {}
        for prefix, error in (("", self.error), ("baseline_mean_", constant)):
            for row, cells in enumerate(_CELL_SETS):
                if self.cells[row]:
                    mse = float(error[row] / (3 * self.cells[row]))
                    result[f"{prefix}{self._name}_mse{cells}"] = mse
                    result[f"{prefix}{self._name}_psnr{cells}"] = psnr(mse)
        return result


class DepthTotal(Total):
    """Adds up :func:`depth_record`: errors and a histogram of targets; rows: hidden, visible.

    The histogram keeps count and sum of the targets in each bin of a millimetre, so the error of a
    constant is exact except within the one bin that holds the constant.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.error = np.zeros(2)
        self.counts, self.totals = np.zeros((2, NUM_BINS)), np.zeros((2, NUM_BINS))

    def add(self, record: Mapping[str, Any]) -> None:
        self.error += record["error"]
        for row, name in enumerate(DEPTH_SETS):
            truth = record[name].astype(np.float64)
            bins = (truth / BIN_METRES).astype(np.int64).clip(0, NUM_BINS - 1)
            np.add.at(self.counts[row], bins, 1.0)
            np.add.at(self.totals[row], bins, truth)

    def metrics(self) -> dict[str, float]:
        if not self.counts.any():
            return {}
        name = self._name
        constants = {"mean": self._mean(), "median": self._median()}
        result = self._by_set(f"{name}_mae", self.error)
        for kind, constant in constants.items():
            error = np.abs(self.counts * constant - self.totals).sum(1)
            result[f"baseline_{kind}_{name}"] = constant
            result.update(self._by_set(f"baseline_{kind}_{name}_mae", error))
        return result

    def _by_set(self, name: str, error: np.ndarray) -> dict[str, float]:
        cells = self.counts.sum(1)
        result = {name: float(error.sum() / cells.sum())}
        for row, kind in enumerate(DEPTH_SETS):
            if cells[row]:
                result[f"{name}_{kind}"] = float(error[row] / cells[row])
        return result

    def _mean(self) -> float:
        return float(self.totals.sum() / self.counts.sum())

    def _median(self) -> float:
        counts, totals = self.counts.sum(0), self.totals.sum(0)
        below = counts.cumsum()
        middle = int(np.searchsorted(below, below[-1] / 2))
        return float(totals[middle] / counts[middle])


class MeanTotal(Total):
    """Averages one number; a record is the pair of a mean and its weight."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.total = self.weight = 0.0

    def add(self, record: tuple[float, float]) -> None:
        mean, weight = record
        self.total += mean * weight
        self.weight += weight

    def metrics(self) -> dict[str, float]:
        return {self._name: self.total / self.weight} if self.weight else {}


def camera_record(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a sample for each of :func:`camera_totals`."""
    filled = sample["target_rgb_mask"]
    cells = (filled, *patch_cells(sample["image_patch_mask"], filled))
    return {
        "rgb": colour_record(sample["rendered_rgb"], sample["target_rgb"], cells),
        "depth": _depth_record(sample, "depth", "target_depth"),
        "opacity": mean_record(sample["rendered_opacity"]),
    }


def camera_totals() -> dict[str, Total]:
    """Empty totals of the perspective view."""
    opacity = MeanTotal("opacity")
    return {"rgb": ColourTotal("rgb"), "depth": DepthTotal("depth"), "opacity": opacity}


def image_record(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a sample for each of :func:`image_totals`."""
    rendered, target = sample["rendered_image"], sample["target_image"]
    filled = sample["target_image_mask"]
    stride = target.shape[-1] // filled.shape[-1]
    hidden, visible = patch_pixels(sample)
    cells = (filled, *patch_cells(sample["image_patch_mask"], filled))
    means = [F.avg_pool2d(one, stride) for one in (rendered, target)]
    return {
        "image": colour_record(rendered, target, (hidden | visible, hidden, visible)),
        "image_cell": colour_record(means[0], means[1], cells),
    }


def image_totals() -> dict[str, Total]:
    """Empty totals of predicted images, by pixel and by the mean colour of each cell.

    The latter are in the units of the perspective view: both average colour over the same cells.
    """
    return {name: ColourTotal(name) for name in ("image", "image_cell")}


def bev_record(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a sample for each of :func:`bev_totals`."""
    return {
        "bev_depth": _depth_record(sample, "bev_depth", "target_bev"),
        "bev_opacity": mean_record(sample["rendered_bev_opacity"]),
    }


def bev_totals() -> dict[str, Total]:
    """Empty totals of the view from above."""
    return {"bev_depth": DepthTotal("bev_depth"), "bev_opacity": MeanTotal("bev_opacity")}


def _depth_record(sample: Mapping[str, Any], view: str, target: str) -> Record:
    keys = (f"rendered_{view}", f"target_{view}", f"{target}_mask", f"{target}_hidden")
    return depth_record(*(sample[key] for key in keys))
