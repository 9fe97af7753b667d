"""The grid of the BEV map that a detection head works on."""

from collections.abc import Sequence
from typing import Any

import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid


def head_grid(
    model_cfg: Any, point_cloud_range: Sequence[float], voxel_size: Sequence[float]
) -> BEVGrid:
    """The grid of a head with TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE over the voxels."""
    stride = int(model_cfg.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE)
    return BEVGrid.of_voxels(point_cloud_range, voxel_size, stride)


def require_map(features: torch.Tensor, grid: BEVGrid) -> None:
    """Check that a map (B, C, Y, X) lies on the grid of a head.

    Raises:
        ConfigError: it has another size.
    """
    rows, columns = grid.shape
    if features.shape[2:] != (rows, columns):
        raise ConfigError(
            f"the BEV map has {features.shape[3]} x {features.shape[2]} cells, but the grid at "
            f"FEATURE_MAP_STRIDE {grid.stride} has {columns} x {rows}: set "
            "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE to the stride of the "
            "backbones"
        )
