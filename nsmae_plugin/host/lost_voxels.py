"""Errors and warnings about voxels and boxes that a network would lose silently."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from nsmae_plugin.config.known_modules import BACKBONES, name_of, used_voxels
from nsmae_plugin.errors import DataError
from nsmae_plugin.geometry.intervals import is_whole

RANGE_KEYS = ("POST_CENTER_RANGE", "POST_CENTER_LIMIT_RANGE")

logger = logging.getLogger(__name__)


def refuse_lost_voxels(model: nn.Module, model_cfg: Any, dataset: Any) -> nn.Module:
    """Let a network raise a ``DataError`` for a batch whose voxels all vanish in ``backbone_3d``.

    spconv cannot convolve nothing: its first convolution without a row ends in an assertion.

    Args:
        model: as the host builds it.
        model_cfg: its section MODEL.
        dataset: gives ``grid_size``.
    """
    backbone = getattr(model, "backbone_3d", None)
    if name_of(model_cfg, "BACKBONE_3D") in BACKBONES and isinstance(backbone, nn.Module):
        used, voxels = _used_voxels(model_cfg, dataset)
        backbone.register_forward_pre_hook(partial(_check, used=used, voxels=voxels))
    return model


def _check(
    module: nn.Module, inputs: tuple[dict[str, torch.Tensor]], *, used: int, voxels: int
) -> None:
    batch = inputs[0]
    coordinates, frames = batch["voxel_coords"], batch.get("frame_id")
    if not len(coordinates):
        raise DataError(
            f"no voxels in the batch of the frames {frames}: all their points lie outside "
            "POINT_CLOUD_RANGE or are masked; check the LiDAR files"
        )
    # Only where some are lost: on a GPU the answer has to be waited for.
    if used < voxels and not bool((coordinates[:, 1] < used).any()):
        raise DataError(
            f"all voxels in the batch of the frames {frames} are among the topmost "
            f"{voxels - used} of {voxels} along z, which reach no output of MODEL.BACKBONE_3D; "
            "24, 40 or 56 use all (VOXEL_SIZE, DATA_CONFIG.POINT_CLOUD_RANGE)"
        )


def warn_of_losses(model_cfg: Any, dataset: Any) -> None:
    """Warn of voxels and boxes in the point cloud range that the network ignores."""
    if name_of(model_cfg, "BACKBONE_3D") in BACKBONES:
        _warn_of_partial_voxels(dataset)
        _warn_of_lost_voxels(model_cfg, dataset)
    _warn_of_dropped_boxes(model_cfg, dataset)


def _warn_of_partial_voxels(dataset: Any) -> None:
    """Warn where voxels do not fill the range: grids are rounded to whole voxels."""
    for axis, name in enumerate("xyz"):
        low, high = (float(dataset.point_cloud_range[axis + offset]) for offset in (0, 3))
        edge, count = float(dataset.voxel_size[axis]), int(dataset.grid_size[axis])
        if not is_whole((high - low) / edge):
            _logger(dataset).warning(
                "VOXEL_SIZE %g m does not divide POINT_CLOUD_RANGE along %s: %d voxels end at %g "
                "m and not at %g m; change one of them",
                edge,
                name,
                count,
                low + count * edge,
                high,
            )


def _warn_of_lost_voxels(model_cfg: Any, dataset: Any) -> None:
    """Warn if the strides of the backbone do not divide the grid, so that top voxels are lost."""
    used, voxels = _used_voxels(model_cfg, dataset)
    if used < voxels and name_of(model_cfg, "MAP_TO_BEV") == "HeightCompression":
        _logger(dataset).warning(
            "the topmost %d of %d voxels along z reach no output of MODEL.BACKBONE_3D; 24, 40 or "
            "56 use all (VOXEL_SIZE, DATA_CONFIG.POINT_CLOUD_RANGE)",
            voxels - used,
            voxels,
        )


def _used_voxels(model_cfg: Any, dataset: Any) -> tuple[int, int]:
    """Voxels along z that reach an output of the backbone, and all of them."""
    voxels = int(dataset.grid_size[2])
    return used_voxels(voxels, model_cfg.BACKBONE_3D.get("last_pad", 0)), voxels


def _warn_of_dropped_boxes(model_cfg: Any, dataset: Any) -> None:
    """Warn if the head drops boxes inside the point cloud range."""
    section = (model_cfg.get("DENSE_HEAD") or {}).get("POST_PROCESSING") or {}
    for key in [one for one in RANGE_KEYS if one in section]:
        points = [float(value) for value in dataset.point_cloud_range]
        limits = [float(value) for value in section[key]]
        below = any(low > point for low, point in zip(limits[:3], points[:3], strict=True))
        if below or any(high < point for high, point in zip(limits[3:], points[3:], strict=True)):
            _logger(dataset).warning(
                "MODEL.DENSE_HEAD.POST_PROCESSING.%s %s does not contain "
                "DATA_CONFIG.POINT_CLOUD_RANGE %s: boxes between the two are trained but never "
                "predicted; enlarge the former",
                key,
                _short(limits),
                _short(points),
            )


def _logger(dataset: Any) -> logging.Logger:
    """The run's, so that its log file has the warning."""
    return getattr(dataset, "logger", None) or logger


def _short(values: list[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
