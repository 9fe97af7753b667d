"""The predicted map of a sample, its IoU and its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.runtime import files


@dataclass(frozen=True)
class BEVMap:
    """A predicted map and, if known, the labels from the vector map.

    Attributes:
        classes: (C,) names; classes may overlap: a crossing lies on the drivable area.
        grid: of the cells, in the LiDAR frame of the sample without augmentation.
        probabilities: (C, Y, X) float in [0, 1]; rows along y, columns along x, both ascending.
        labels: (C, Y, X) bool; None for a sample without a map.
        threshold: least probability of a class to which a cell belongs.
    """

    classes: tuple[str, ...]
    grid: BEVGrid
    probabilities: np.ndarray
    labels: np.ndarray | None
    threshold: float

    @property
    def masks(self) -> np.ndarray:
        """(C, Y, X) bool, the predicted areas."""
        return self.probabilities >= self.threshold

    def iou(self) -> np.ndarray | None:
        """(C,) intersection over union at the threshold, of this sample alone.

        NaN for a class that is neither labelled nor predicted; None without labels.
        """
        if self.labels is None:
            return None
        both = (self.masks & self.labels).sum(axis=(1, 2))
        either = (self.masks | self.labels).sum(axis=(1, 2))
        return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)

    def save(self, path: Path, sample: str, network: str, pose: np.ndarray | None) -> Path:
        """Write everything by :func:`save_map`; docs/INFERENCE.md lists the arrays.

        Args:
            sample: token.
            network: description of configuration and weights.
            pose: (4, 4) LiDAR frame to global frame, None if unknown.
        """
        return save_map(
            path,
            sample,
            self.probabilities,
            self.classes,
            self.grid,
            threshold=self.threshold,
            network=network,
            labels=self.labels,
            iou=self.iou(),
            lidar_to_global=pose,
        )


def save_map(
    path: Path,
    sample: str,
    probabilities: np.ndarray,
    classes: Sequence[str],
    grid: BEVGrid,
    **more: Any,
) -> Path:
    """Write the map of a sample as a compressed ``.npz``.

    It holds ``probabilities`` (C, Y, X) float16, ``classes`` (C,) str, ``x_bound`` and ``y_bound``
    (minimum, maximum and step in metres, LiDAR frame) and ``sample``.

    Args:
        sample: token.
        more: further entries by name; None is left out.
    """
    content = dict(
        probabilities=probabilities.astype(np.float16),
        classes=np.array(classes),
        x_bound=np.array(grid.x_bound),
        y_bound=np.array(grid.y_bound),
        sample=np.array(sample),
        **{name: np.array(value) for name, value in more.items() if value is not None},
    )
    with files.replacing(path) as file:
        np.savez_compressed(file, **content)
    return path
