"""The camera and the LiDAR branch of a configuration, and the BEV grid that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.lift_splat import GEOMETRY, LiftSplatTransform
from nsmae_plugin.models.targets import Columns

CAMERA_SECTIONS = ("IMAGE_BACKBONE", "NECK", "VTRANSFORM")
LIDAR_SECTIONS = ("VFE", "BACKBONE_3D", "MAP_TO_BEV")
LIDAR_STRIDE = 8  # voxels per BEV cell of the 8x backbones


def has_branch(model_cfg: Any, name: str, sections: Sequence[str]) -> bool:
    """Whether MODEL has all sections of a branch, as against none.

    Raises:
        ConfigError: it has some of them.
    """
    found = [f"MODEL.{key}" for key in sections if model_cfg.get(key) is not None]
    missing = [f"MODEL.{key}" for key in sections if model_cfg.get(key) is None]
    if found and missing:
        raise ConfigError(
            f"the {name} branch lacks {', '.join(missing)}: add it, or leave the branch out by "
            f"removing {', '.join(found)}"
        )
    return bool(found)


def require_inputs(batch_dict: Mapping[str, Any], detector: Any) -> None:
    """Whether the data has what the branches of a detector read.

    Raises:
        ConfigError: ``camera_imgs`` or ``voxels`` is missing.
    """
    needs = {"camera_imgs": detector.vtransform, "voxels": detector.backbone_3d}
    for key, module in needs.items():
        if module is not None and key not in batch_dict:
            raise ConfigError(
                f"{type(module).__name__} is in MODEL, but the data has no {key}: set "
                "DATA_CONFIG.CAMERA_CONFIG.USE_CAMERA, USE_LIDAR and DATA_PROCESSOR for it"
            )


def prepare_geometry(batch_dict: dict[str, Any], detector: Any) -> None:
    """Put what calibration and points alone decide into the batch, before any module runs."""
    if isinstance(detector.vtransform, LiftSplatTransform):
        batch_dict[GEOMETRY] = detector.vtransform.prepare(batch_dict)


def bev_columns(model_cfg: Any, dataset: Any) -> Columns:
    """The grid of the view from above, common to the branches that there are.

    Raises:
        ConfigError: the branches disagree, or the grid does not divide.
    """
    voxel_size = tuple(float(value) for value in dataset.voxel_size)
    size = tuple(int(count) for count in dataset.grid_size)
    strides = {}
    if model_cfg.get("BACKBONE_3D") is not None:
        strides["BACKBONE_3D"] = LIDAR_STRIDE
    if model_cfg.get("VTRANSFORM") is not None:
        strides["VTRANSFORM"] = camera_bev_stride(model_cfg.VTRANSFORM, dataset)
    if len(set(strides.values())) != 1:
        cells = ", ".join(f"MODEL.{k}: {v * voxel_size[0]:g} m" for k, v in strides.items())
        raise ConfigError(
            f"the BEV grids of camera and LiDAR differ in their cells ({cells}): choose XBOUND, "
            "YBOUND and DOWNSAMPLE of MODEL.VTRANSFORM accordingly"
        )
    stride = next(iter(strides.values()))
    if size[0] % stride or size[1] % stride:
        raise ConfigError(
            f"{size[0]} x {size[1]} voxels do not divide into BEV cells of {stride} x {stride}: "
            "change DATA_CONFIG.POINT_CLOUD_RANGE or VOXEL_SIZE"
        )
    lower = tuple(float(value) for value in dataset.point_cloud_range[:3])
    return Columns(lower, voxel_size, size, stride)


def camera_bev_stride(config: Any, dataset: Any) -> int:
    """Voxels per cell of the camera's BEV features.

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
        strides.add(round(step * config.DOWNSAMPLE / float(dataset.voxel_size[axis]), 3))
    stride = strides.pop()
    if strides or stride != int(stride):
        raise ConfigError(
            f"the camera's BEV cells (MODEL.VTRANSFORM.XBOUND and YBOUND step x DOWNSAMPLE) must "
            f"be squares of whole voxels of DATA_CONFIG VOXEL_SIZE {list(dataset.voxel_size)}"
        )
    return int(stride)
