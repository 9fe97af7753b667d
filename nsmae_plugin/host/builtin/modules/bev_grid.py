"""The cells of the BEV map that a detection head works on, against metres."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nsmae_plugin.errors import ConfigError


@dataclass(frozen=True)
class BevGrid:
    """The BEV map that a head works on; x runs along its columns, y along its rows.

    origin: x, y of its corner, metres; voxel_size: x, y, metres; stride: voxels per cell;
    size: cells along x, y.
    """

    origin: tuple[float, float]
    voxel_size: tuple[float, float]
    stride: int
    size: tuple[int, int]

    @classmethod
    def of_head(
        cls,
        model_cfg: Any,
        grid_size: Sequence[int],
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
    ) -> "BevGrid":
        """The grid of a head with TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE over the voxels."""
        stride = int(model_cfg.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE)
        return cls(
            origin=(float(point_cloud_range[0]), float(point_cloud_range[1])),
            voxel_size=(float(voxel_size[0]), float(voxel_size[1])),
            stride=stride,
            size=(int(grid_size[0]) // stride, int(grid_size[1]) // stride),
        )

    def require(self, features: torch.Tensor) -> None:
        """Whether a map (B, C, Y, X) lies on this grid.

        Raises:
            ConfigError: it has another size.
        """
        columns, rows = self.size
        if features.shape[2:] != (rows, columns):
            raise ConfigError(
                f"the BEV map has {features.shape[3]} x {features.shape[2]} cells, but the grid at "
                f"FEATURE_MAP_STRIDE {self.stride} has {columns} x {rows}: set "
                "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE to the stride of the "
                "backbones"
            )

    def cells(self, metres: torch.Tensor) -> torch.Tensor:
        """Lengths (..., 2) along x and y in cells."""
        # Divided in OpenPCDet's order: rounding to a cell can hang on the last digit.
        return metres / metres.new_tensor(self.voxel_size) / self.stride

    def coordinates(self, xy: torch.Tensor) -> torch.Tensor:
        """Positions (..., 2), metres, in cells from the corner of the map."""
        return self.cells(xy - xy.new_tensor(self.origin))

    def metres(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`coordinates`."""
        scale = coordinates.new_tensor(self.voxel_size)
        return coordinates * self.stride * scale + coordinates.new_tensor(self.origin)
