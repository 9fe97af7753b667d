"""The BEV grids of a network, which must fit together from the branches to the head.

The modules do not check this when they are built: maps of different places would be fused, and
sizes that differ would end in an error of torch in the first batch. Only modules whose arithmetic
is known, under OpenPCDet's names, are checked.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import Any

from nsmae_plugin.config.known_modules import BACKBONES, LIDAR_STRIDE, name_of, settle
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.intervals import is_whole

# BEV backbone -> its key for the way back to finer cells
UPSAMPLING = {"BaseBEVBackbone": "UPSAMPLE_STRIDES", "GeneralizedResNetLSSFPN": "UPSAMPLE_STRIDE"}
HEADS = ("CenterHead", "TransFusionHead")


def complete_head(model_cfg: Any, dataset: Any) -> None:
    """Fill in FEATURE_MAP_STRIDE of the dense head, in place; check the grids on the way to it.

    The map head and anchors take any grid. Arguments as :func:`~.derived.complete`.

    Raises:
        ConfigError: grids that do not fit, see :func:`bev_stride`; numbers of cells that
            BACKBONE_2D cannot take; or another FEATURE_MAP_STRIDE.
    """
    cells, stride = bev_stride(model_cfg, dataset), None
    if cells is not None and name_of(model_cfg, "BACKBONE_2D") in UPSAMPLING:
        x, y = (int(count) // cells for count in dataset.grid_size[:2])
        stride = _stride_behind(model_cfg.BACKBONE_2D, cells, (y, x))
    assigner = (model_cfg.get("DENSE_HEAD") or {}).get("TARGET_ASSIGNER_CONFIG") or {}
    if name_of(model_cfg, "DENSE_HEAD") not in HEADS and "FEATURE_MAP_STRIDE" not in assigner:
        return
    reason = "voxels per cell of the BEV map that the head reads"
    if stride is not None:
        stride = int(stride) if stride == int(stride) else stride
        reason = (
            f"the levels of MODEL.BACKBONE_2D end with cells of {stride:g} voxels (LAYER_STRIDES, "
            f"{UPSAMPLING[model_cfg.BACKBONE_2D.NAME]})"
        )
    settle(model_cfg, "DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE", stride, reason)


def bev_stride(model_cfg: Any, dataset: Any) -> int | None:
    """Voxels per cell of the branches' BEV features; None if no branch is known.

    Raises:
        ConfigError: a camera grid of another range or other cells than the LiDAR's, or voxels that
            do not divide into cells.
    """
    strides = {}
    if name_of(model_cfg, "BACKBONE_3D") in BACKBONES:
        strides["BACKBONE_3D"] = LIDAR_STRIDE
    if "XBOUND" in (model_cfg.get("VTRANSFORM") or {}):
        strides["VTRANSFORM"] = _camera_stride(model_cfg.VTRANSFORM, dataset)
    return _common_stride(strides, dataset) if strides else None


def _camera_stride(config: Any, dataset: Any) -> int:
    """Voxels per cell of the camera's BEV features; ``config``: the section MODEL.VTRANSFORM."""
    strides = []
    for axis, key in enumerate(("XBOUND", "YBOUND")):
        start, stop, step = config[key]
        bounds = [float(dataset.point_cloud_range[axis + offset]) for offset in (0, 3)]
        if max(abs(start - bounds[0]), abs(stop - bounds[1])) > 1e-3:
            raise ConfigError(
                f"MODEL.VTRANSFORM.{key} covers {start:g} to {stop:g} m, but "
                f"DATA_CONFIG.POINT_CLOUD_RANGE {bounds[0]:g} to {bounds[1]:g} m: make them equal"
            )
        strides.append(step * config.get("DOWNSAMPLE", 1) / float(dataset.voxel_size[axis]))
    stride = round(strides[0])
    if not all(is_whole(one) and round(one) == stride for one in strides):
        raise ConfigError(
            f"the camera's BEV cells (MODEL.VTRANSFORM.XBOUND and YBOUND step x DOWNSAMPLE) must "
            f"be squares of whole voxels of DATA_CONFIG VOXEL_SIZE {list(dataset.voxel_size)}"
        )
    return stride


def _common_stride(strides: dict[str, int], dataset: Any) -> int:
    """The stride of all branches; ``strides``: of each, by its section of MODEL."""
    if len(set(strides.values())) != 1:
        edge = float(dataset.voxel_size[0])
        cells = ", ".join(f"MODEL.{key}: {value * edge:g} m" for key, value in strides.items())
        raise ConfigError(
            f"the BEV grids of camera and LiDAR differ in their cells ({cells}): choose XBOUND, "
            "YBOUND and DOWNSAMPLE of MODEL.VTRANSFORM accordingly"
        )
    stride = next(iter(strides.values()))
    x, y = (int(count) for count in dataset.grid_size[:2])
    if x % stride or y % stride:
        raise ConfigError(
            f"{x} x {y} voxels do not divide into BEV cells of {stride} x {stride}: "
            "change DATA_CONFIG.POINT_CLOUD_RANGE or VOXEL_SIZE"
        )
    return stride


def _stride_behind(config: Any, stride: int, cells: tuple[int, int]) -> float | None:
    """Voxels per cell behind BACKBONE_2D, whose levels must meet; None if it is not known.

    ``stride``: voxels per BEV cell in front; ``cells``: along y and x.
    """
    key = UPSAMPLING[config.NAME]
    strides = list(accumulate(config.get("LAYER_STRIDES") or [], mul))
    if not strides:
        return None
    if any(count % strides[-1] for count in cells):
        raise ConfigError(
            f"{cells[0]} x {cells[1]} BEV cells do not divide by {strides[-1]}, the product of "
            "MODEL.BACKBONE_2D.LAYER_STRIDES: change DATA_CONFIG.POINT_CLOUD_RANGE or VOXEL_SIZE"
        )
    if config.NAME == "BaseBEVBackbone":
        ups = config.get(key) or [1] * len(strides)
        if len(ups) > len(strides):
            return None  # another resampling behind all levels
        made = {stride * down / up for down, up in zip(strides, ups, strict=False)}
    else:  # all levels meet on the first
        made = {stride * strides[0] / config[key]}
    if len(made) > 1:
        raise ConfigError(
            f"the levels of MODEL.BACKBONE_2D end with cells of "
            f"{', '.join(f'{one:g}' for one in sorted(made))} voxels (LAYER_STRIDES, {key}): make "
            "them equal"
        )
    return made.pop()
