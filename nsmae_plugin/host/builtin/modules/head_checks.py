"""The grid of a detection head, and checks of its configuration and of its input."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid


def require_branches(config: Any, channels: Mapping[str, int]) -> None:
    """Check that a head predicts box codes as the targets of this host have them.

    Args:
        config: SEPARATE_HEAD_CFG.
        channels: name -> number of channels, in the order of the codes; the last, the velocity, may
            be absent.

    Raises:
        ConfigError: another HEAD_ORDER, or other numbers in HEAD_DICT.
    """
    names, order = list(channels), list(config.HEAD_ORDER)
    if order not in (names, names[:-1]) or any(
        config.HEAD_DICT[name]["out_channels"] != channels[name] for name in order
    ):
        raise ConfigError(
            f"MODEL.DENSE_HEAD.SEPARATE_HEAD_CFG: HEAD_ORDER must be {names} or {names[:-1]}, and "
            f"HEAD_DICT give each of them its out_channels {dict(channels)}"
        )


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
