"""Checks that the grids and widths of a network fit together, for every detector and host.

The modules do not check this when they are built: maps of different places would be fused, and
sizes that differ would end in an error of torch in the first batch. Only modules whose arithmetic
is known, under OpenPCDet's names, are checked.
"""

from __future__ import annotations

import logging
from itertools import accumulate
from operator import mul
from typing import Any

from nsmae_plugin.errors import ConfigError

LIDAR_STRIDE = 8  # voxels per BEV cell of the 8x backbones
BACKBONES = ("VoxelBackBone8x", "VoxelResBackBone8x")
BACKBONE_CHANNELS = 128  # of their last convolution, on every level of height
# BEV backbone -> its key for the way back to finer cells
UPSAMPLING = {"BaseBEVBackbone": "UPSAMPLE_STRIDES", "GeneralizedResNetLSSFPN": "UPSAMPLE_STRIDE"}
RANGE_KEYS = ("POST_CENTER_RANGE", "POST_CENTER_LIMIT_RANGE")

logger = logging.getLogger(__name__)


def check_grids(model_cfg: Any, dataset: Any) -> None:
    """Refuse grids and widths that do not fit, from the branches to the head.

    Args:
        model_cfg: the section MODEL.
        dataset: gives ``point_cloud_range``, ``voxel_size`` and ``grid_size``.

    Raises:
        ConfigError: a camera grid of another range or other cells than the LiDAR's; numbers of
            voxels that the LiDAR backbone, MAP_TO_BEV or BACKBONE_2D cannot take;
            FUSER.IN_CHANNEL; or the head's FEATURE_MAP_STRIDE.
    """
    strides = {}
    if _name(model_cfg, "BACKBONE_3D") in BACKBONES:
        _check_voxels(dataset)
        _check_height(model_cfg, dataset)
        strides["BACKBONE_3D"] = LIDAR_STRIDE
    if "XBOUND" in (model_cfg.get("VTRANSFORM") or {}):
        strides["VTRANSFORM"] = camera_bev_stride(model_cfg.VTRANSFORM, dataset)
    _check_fuser(model_cfg)
    _check_output_range(model_cfg, dataset)
    if strides:
        stride = common_stride(strides, dataset)
        if _name(model_cfg, "BACKBONE_2D") in UPSAMPLING:
            x, y = (int(count) // stride for count in dataset.grid_size[:2])
            _check_backbone_2d(model_cfg, stride, (y, x))


def camera_bev_stride(config: Any, dataset: Any) -> int:
    """Voxels per cell of the camera's BEV features.

    Args:
        config: the section MODEL.VTRANSFORM.

    Raises:
        ConfigError: the camera's grid covers another range, or its cells are no whole voxels.
    """
    strides = set()
    for axis, key in enumerate(("XBOUND", "YBOUND")):
        start, stop, step = config[key]
        bounds = [float(dataset.point_cloud_range[axis + offset]) for offset in (0, 3)]
        if max(abs(start - bounds[0]), abs(stop - bounds[1])) > 1e-3:
            raise ConfigError(
                f"MODEL.VTRANSFORM.{key} covers {start:g} to {stop:g} m, but "
                f"DATA_CONFIG.POINT_CLOUD_RANGE {bounds[0]:g} to {bounds[1]:g} m: make them equal"
            )
        strides.add(round(step * config.get("DOWNSAMPLE", 1) / float(dataset.voxel_size[axis]), 3))
    stride = strides.pop()
    if strides or stride != int(stride):
        raise ConfigError(
            f"the camera's BEV cells (MODEL.VTRANSFORM.XBOUND and YBOUND step x DOWNSAMPLE) must "
            f"be squares of whole voxels of DATA_CONFIG VOXEL_SIZE {list(dataset.voxel_size)}"
        )
    return int(stride)


def common_stride(strides: dict[str, int], dataset: Any) -> int:
    """Voxels per BEV cell.

    Args:
        strides: of each branch, by its section of MODEL.

    Raises:
        ConfigError: the branches disagree, or the voxels do not divide into cells.
    """
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


def _check_voxels(dataset: Any) -> None:
    """Warn where voxels do not fill the range: grids are rounded to whole voxels."""
    for axis, name in enumerate("xyz"):
        low, high = (float(dataset.point_cloud_range[axis + offset]) for offset in (0, 3))
        edge, count = float(dataset.voxel_size[axis]), int(dataset.grid_size[axis])
        if abs((high - low) / edge - count) > 0.01:
            _logger(dataset).warning(
                "VOXEL_SIZE %g m does not divide POINT_CLOUD_RANGE along %s: %d voxels end at %g "
                "m and not at %g m; change one of them",
                edge,
                name,
                count,
                low + count * edge,
                high,
            )


def _check_height(model_cfg: Any, dataset: Any) -> None:
    """Check that MAP_TO_BEV gets as many levels of height as NUM_BEV_FEATURES expects.

    Warns where the backbone's strides do not come out even and the topmost voxels are lost.
    """
    voxels, last_pad = int(dataset.grid_size[2]), model_cfg.BACKBONE_3D.get("last_pad", 0)
    if _name(model_cfg, "MAP_TO_BEV") != "HeightCompression":
        return
    levels = _levels(voxels, last_pad)
    if levels < 1:
        raise ConfigError(
            f"{voxels} voxels along z are too few for MODEL.BACKBONE_3D, which needs 24 or more: "
            "choose a smaller VOXEL_SIZE or a higher DATA_CONFIG.POINT_CLOUD_RANGE"
        )
    features = model_cfg.MAP_TO_BEV.NUM_BEV_FEATURES
    if levels * BACKBONE_CHANNELS != features:
        raise ConfigError(
            f"{voxels} voxels along z leave {levels} levels of {BACKBONE_CHANNELS} channels, but "
            f"MODEL.MAP_TO_BEV.NUM_BEV_FEATURES is {features}: set it to "
            f"{levels * BACKBONE_CHANNELS}, or change VOXEL_SIZE or DATA_CONFIG.POINT_CLOUD_RANGE "
            "along z (40 voxels make 256 features)"
        )
    used = used_voxels(voxels, last_pad)
    if used < voxels:
        _logger(dataset).warning(
            "the topmost %d of %d voxels along z reach no output of MODEL.BACKBONE_3D; 24, 40 or "
            "56 use all (VOXEL_SIZE, DATA_CONFIG.POINT_CLOUD_RANGE)",
            voxels - used,
            voxels,
        )


def _levels(voxels: int, last_pad: Any) -> int:
    """Levels of height behind an 8x backbone, which starts with one level more than voxels."""
    levels = voxels + 1
    for padding in _paddings(last_pad):
        levels = (levels + 2 * padding - 3) // 2 + 1
    return levels


def used_voxels(voxels: int, last_pad: Any) -> int:
    """How many voxels along z, from below, reach a level behind an 8x backbone."""
    top = _levels(voxels, last_pad) - 1
    for padding in reversed(_paddings(last_pad)):
        top = 2 * top - padding + 2  # the last that its kernel of 3 covers
    return min(voxels, top + 1)


def _paddings(last_pad: Any) -> tuple[int, ...]:
    """Along z, of the convolutions of stride 2."""
    return (1, 1, 0, last_pad if isinstance(last_pad, int) else last_pad[0])


def _check_fuser(model_cfg: Any) -> None:
    sections = [model_cfg.get(key) for key in ("FUSER", "VTRANSFORM", "MAP_TO_BEV")]
    if any(one is None for one in sections) or _name(model_cfg, "FUSER") != "ConvFuser":
        return
    fuser, camera, lidar = sections
    widths = (camera.OUT_CHANNEL, lidar.NUM_BEV_FEATURES)
    if sum(widths) != fuser.IN_CHANNEL:
        raise ConfigError(
            f"MODEL.FUSER.IN_CHANNEL is {fuser.IN_CHANNEL}, but VTRANSFORM.OUT_CHANNEL "
            f"{widths[0]} and MAP_TO_BEV.NUM_BEV_FEATURES {widths[1]} make {sum(widths)}"
        )


def _check_output_range(model_cfg: Any, dataset: Any) -> None:
    """Warn where the head drops boxes that lie in the range of the points."""
    section = (model_cfg.get("DENSE_HEAD") or {}).get("POST_PROCESSING") or {}
    for key in RANGE_KEYS:
        if key not in section:
            continue
        points = [float(value) for value in dataset.point_cloud_range]
        limits = [float(value) for value in section[key]]
        within = all(
            limits[axis] <= points[axis] and points[axis + 3] <= limits[axis + 3]
            for axis in range(3)
        )
        if not within:
            _logger(dataset).warning(
                "MODEL.DENSE_HEAD.POST_PROCESSING.%s %s does not contain "
                "DATA_CONFIG.POINT_CLOUD_RANGE %s: boxes between the two are trained but never "
                "predicted; enlarge the former",
                key,
                _short(limits),
                _short(points),
            )


def _check_backbone_2d(model_cfg: Any, stride: int, cells: tuple[int, int]) -> None:
    """Check that the levels of the BEV backbone meet, on the grid of the detection head.

    Args:
        stride: voxels per BEV cell in front. cells: along y and x.
    """
    config = model_cfg.BACKBONE_2D
    key = UPSAMPLING[config.NAME]
    strides = list(accumulate(config.get("LAYER_STRIDES") or [], mul))
    if not strides:
        return
    if any(count % strides[-1] for count in cells):
        raise ConfigError(
            f"{cells[0]} x {cells[1]} BEV cells do not divide by {strides[-1]}, the product of "
            "MODEL.BACKBONE_2D.LAYER_STRIDES: change DATA_CONFIG.POINT_CLOUD_RANGE or VOXEL_SIZE"
        )
    if config.NAME == "BaseBEVBackbone":
        ups = config.get(key) or [1] * len(strides)
        if len(ups) > len(strides):
            return  # another resampling behind all levels
        made = {stride * down / up for down, up in zip(strides, ups, strict=False)}
    else:  # all levels meet on the first
        made = {stride * strides[0] / config[key]}
    voxels = ", ".join(f"{one:g}" for one in sorted(made))
    if len(made) > 1:
        raise ConfigError(
            f"the levels of MODEL.BACKBONE_2D end with cells of {voxels} voxels (LAYER_STRIDES, "
            f"{key}): make them equal"
        )
    assigner = (model_cfg.get("DENSE_HEAD") or {}).get("TARGET_ASSIGNER_CONFIG") or {}
    wanted = assigner.get("FEATURE_MAP_STRIDE")  # the map head and anchors take any grid
    if wanted is not None and made != {wanted}:
        raise ConfigError(
            f"the levels of MODEL.BACKBONE_2D end with cells of {voxels} voxels (LAYER_STRIDES, "
            f"{key}), but MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE "
            f"is {wanted}: make them equal"
        )


def _name(model_cfg: Any, section: str) -> str | None:
    return (model_cfg.get(section) or {}).get("NAME")


def _logger(dataset: Any) -> logging.Logger:
    """The run's, so that its log file has the warning."""
    return getattr(dataset, "logger", None) or logger


def _short(values: list[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
