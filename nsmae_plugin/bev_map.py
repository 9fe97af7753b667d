"""The predicted map of a sample: what it is, how right it is, and its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nsmae_plugin.data.maps.grid import MapGrid


@dataclass(frozen=True)
class BEVMap:
    """A map as a network sees it, and as the vector map has it.

    Attributes:
        classes: (C,) names; classes may overlap: a crossing lies on the drivable area.
        grid: where the cells lie, LiDAR frame of the sample, without augmentation.
        probabilities: (C, Y, X) float in [0, 1]; rows along y, columns along x, both ascending.
        labels: (C, Y, X) bool; None for a sample without a map.
        threshold: a cell belongs to the classes that are at least that probable.
    """

    classes: tuple[str, ...]
    grid: MapGrid
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
        """Write a compressed ``.npz``; docs/INFERENCE.md lists its arrays.

        Args:
            sample: token.
            network: configuration and weights in words.
            pose: (4, 4) LiDAR frame to global frame, None where it is not known.
        """
        known = {"labels": self.labels, "iou": self.iou(), "lidar_to_global": pose}
        np.savez_compressed(
            path,
            probabilities=self.probabilities.astype(np.float16),
            classes=np.array(self.classes),
            x_bound=np.array(self.grid.x_bound),
            y_bound=np.array(self.grid.y_bound),
            threshold=np.array(self.threshold),
            sample=np.array(sample),
            network=np.array(network),
            **{name: value for name, value in known.items() if value is not None},
        )
        return path
