"""The grid of the bird's-eye view: of maps, targets, BEV features and detection heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsmae_plugin.geometry.intervals import VOXELS, count_cells, count_steps

Bound = tuple[float, float, float]  # lower edge, upper edge, step; metres


@dataclass(frozen=True)
class BEVGrid:
    """Cells of one size, aligned with the axes of the LiDAR frame.

    Voxels of the given steps fill the bounds. ``stride`` x ``stride`` columns of voxels make a cell
    of the bird's-eye view, which has rows along y and columns along x, both ascending.

    Attributes:
        x_bound, y_bound, z_bound: lower edge, upper edge and step along each axis, metres. Without
            ``z_bound`` there are no layers.
        stride: steps per cell along x and y.
    """

    x_bound: Bound
    y_bound: Bound
    z_bound: Bound | None = None
    stride: int = 1

    @classmethod
    def from_bounds(cls, bounds: Mapping[str, Sequence[float]]) -> BEVGrid:
        """The grid of two or three ``name: [min, max, step]`` in the order x, y(, z).

        Raises:
            ConfigError: naming a bound whose range is no whole number of steps, or a grid that is
                too large.
        """
        for name, bound in bounds.items():
            count_steps(bound, name)
        count_cells(bounds.values(), " and ".join(bounds))
        checked = [_bound(*bound) for bound in bounds.values()]
        return cls(checked[0], checked[1], checked[2] if len(checked) > 2 else None)

    @classmethod
    def of_voxels(
        cls,
        point_cloud_range: Sequence[float] | np.ndarray,
        voxel_size: Sequence[float],
        stride: int,
    ) -> BEVGrid:
        """The grid over voxels.

        Args:
            point_cloud_range: lower and upper x, y, z, metres. A range that is no whole number of
                voxels is rounded to it, as in the voxelisation.
            voxel_size: along x, y, z, metres.
            stride: voxels per cell along x and y.

        Raises:
            ConfigError: no voxel along an axis, or too many altogether.
        """
        low, high = point_cloud_range[:3], point_cloud_range[3:]
        x, y, z = (_bound(*bound) for bound in zip(low, high, voxel_size, strict=True))
        count_cells((x, y, z), VOXELS)
        return cls(x, y, z, stride)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Bounds along x, y and, where there are layers, z."""
        ground = (self.x_bound, self.y_bound)
        return ground if self.z_bound is None else (*ground, self.z_bound)

    @property
    def lower(self) -> tuple[float, ...]:
        """Lowest corner, metres."""
        return tuple(low for low, _, _ in self.bounds)

    @property
    def step(self) -> tuple[float, ...]:
        """Edge lengths of a voxel, metres."""
        return tuple(step for _, _, step in self.bounds)

    @property
    def size(self) -> tuple[int, ...]:
        """Number of voxels along x, y(, z)."""
        return tuple(round((high - low) / step) for low, high, step in self.bounds)

    @property
    def num_voxels(self) -> int:
        """Voxels of one sample."""
        return int(np.prod(self.size))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the bird's-eye view: cells along y and along x."""
        columns, rows = (count // self.stride for count in self.size[:2])
        return rows, columns

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """x of the columns' centres and y of the rows', metres."""
        rows, columns = self.shape
        x = self.x_bound[0] + (np.arange(columns) + 0.5) * self.x_bound[2] * self.stride
        y = self.y_bound[0] + (np.arange(rows) + 0.5) * self.y_bound[2] * self.stride
        return x, y

    def centres(self) -> np.ndarray:
        """(rows, columns, 2) x and y of the cells' centres, metres."""
        return np.stack(np.meshgrid(*self.axes()), axis=-1)

    def voxels(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The voxels in which points lie.

        Args:
            points: (P, 2), or (P, 3) with layers, metres.

        Returns:
            indices along x, y(, z), int64, 0 outside the grid; and (P,) bool, true inside.
        """
        index = torch.floor((points - points.new_tensor(self.lower)) / points.new_tensor(self.step))
        # False for NaN as well.
        inside = ((index >= 0) & (index < index.new_tensor(self.size))).all(1)
        return torch.where(inside[:, None], index, 0.0).long(), inside

    def flat_cells(self, sample: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Positions in a flattened (B, rows, columns) map of voxels x, y of the samples."""
        rows, columns = self.shape
        return (sample * rows + y // self.stride) * columns + x // self.stride

    def in_cells(self, lengths: Tensor) -> Tensor:
        """Lengths (..., 2) along x and y, metres, in cells."""
        # Divided in OpenPCDet's order: rounding to a cell can hang on the last digit.
        return lengths / lengths.new_tensor(self.step[:2]) / self.stride

    def coordinates(self, xy: Tensor) -> Tensor:
        """Positions (..., 2), metres, in cells from the lowest corner."""
        return self.in_cells(xy - xy.new_tensor(self.lower[:2]))

    def metres(self, coordinates: Tensor) -> Tensor:
        """Inverse of :meth:`coordinates`."""
        step, lower = (coordinates.new_tensor(one[:2]) for one in (self.step, self.lower))
        return coordinates * self.stride * step + lower


def map_grid(map_cfg: Mapping[str, Any]) -> BEVGrid:
    """The grid of a section ``MAP_CONFIG``.

    Raises:
        ConfigError: XBOUND or YBOUND is no whole number of steps.
    """
    return BEVGrid.from_bounds({f"MAP_CONFIG.{key}": map_cfg[key] for key in ("XBOUND", "YBOUND")})


def _bound(low: Any, high: Any, step: Any) -> Bound:
    return float(low), float(high), float(step)
