"""The grid of cells on the ground on which a map is drawn, labelled and predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsmae_plugin.errors import ConfigError

ROUNDING = 1e-6  # cells; what a typed step such as 0.1 may be off


@dataclass(frozen=True)
class MapGrid:
    """Square or oblong cells in the plane z = 0 of the LiDAR frame.

    Args:
        x_bound, y_bound: (lower edge of the first cell, upper edge of the last one, size of a
            cell) along x and along y, in metres.

    Raises:
        ConfigError: no extent, or one that is no whole number of cells.
    """

    x_bound: tuple[float, float, float]
    y_bound: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name, (low, high, step) in (("XBOUND", self.x_bound), ("YBOUND", self.y_bound)):
            if not (np.isfinite([low, high, step]).all() and step > 0 and low < high):
                raise ConfigError(
                    f"MAP_CONFIG.{name} must be [min, max, step] in metres with min < max and "
                    f"step > 0, not {[low, high, step]}"
                )
            cells = (high - low) / step
            if abs(cells - round(cells)) > ROUNDING:
                raise ConfigError(
                    f"MAP_CONFIG.{name} {[low, high, step]} is {cells:.6g} cells; {high - low:g} m "
                    "must be a whole number of steps"
                )

    @classmethod
    def from_config(cls, map_cfg: Mapping[str, Any]) -> "MapGrid":
        """The grid of a section ``MAP_CONFIG``.

        Raises:
            ConfigError: see the class.
        """
        (x_min, x_max, x_step), (y_min, y_max, y_step) = (
            map(float, map_cfg[name]) for name in ("XBOUND", "YBOUND")
        )
        return cls((x_min, x_max, x_step), (y_min, y_max, y_step))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) = (cells along y, cells along x)."""
        rows, columns = (
            round((high - low) / step) for low, high, step in (self.y_bound, self.x_bound)
        )
        return rows, columns

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """x of the columns' centres and y of the rows', ascending, in metres."""
        rows, columns = self.shape
        x = self.x_bound[0] + (np.arange(columns) + 0.5) * self.x_bound[2]
        y = self.y_bound[0] + (np.arange(rows) + 0.5) * self.y_bound[2]
        return x, y

    def centres(self) -> np.ndarray:
        """(rows, columns, 2) x and y of the cells' centres in metres; row 0 has the least y."""
        return np.stack(np.meshgrid(*self.axes()), axis=-1)
