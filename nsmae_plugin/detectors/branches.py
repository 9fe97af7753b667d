"""The camera and the LiDAR branch of a configuration, and the BEV grid that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsmae_plugin.config.bev_grids import bev_stride
from nsmae_plugin.config.known_modules import LIDAR_STRIDE
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.models.lift_splat import GEOMETRY

CAMERA_SECTIONS = ("IMAGE_BACKBONE", "NECK", "VTRANSFORM")
LIDAR_SECTIONS = ("VFE", "BACKBONE_3D", "MAP_TO_BEV")


def find_branches(
    model_cfg: Any, camera_sections: Sequence[str] = CAMERA_SECTIONS
) -> tuple[bool, bool]:
    """Return whether MODEL has a camera branch, and whether it has a LiDAR branch.

    Raises:
        ConfigError: half a branch, or none.
    """
    branches = {"camera": camera_sections, "LiDAR": LIDAR_SECTIONS}
    camera, lidar = (_has_branch(model_cfg, *branch) for branch in branches.items())
    if not camera and not lidar:
        either = ", ".join(f"a {k} branch (MODEL.{', '.join(v)})" for k, v in branches.items())
        raise ConfigError(f"{model_cfg.NAME} needs {either} or both")
    return camera, lidar


def _has_branch(model_cfg: Any, name: str, sections: Sequence[str]) -> bool:
    found = [f"MODEL.{key}" for key in sections if model_cfg.get(key) is not None]
    missing = [f"MODEL.{key}" for key in sections if model_cfg.get(key) is None]
    if found and missing:
        raise ConfigError(
            f"the {name} branch lacks {', '.join(missing)}: add it, or leave the branch out by "
            f"removing {', '.join(found)}"
        )
    return bool(found)


def require_inputs(batch_dict: Mapping[str, Any], detector: Any) -> None:
    """Check that the batch has the inputs of the branches.

    Raises:
        ConfigError: ``camera_imgs`` or ``voxels`` is missing.
    """
    needs = {"camera_imgs": detector.image_backbone, "voxels": detector.backbone_3d}
    for key, module in needs.items():
        if module is not None and key not in batch_dict:
            raise ConfigError(
                f"{type(module).__name__} is in MODEL, but the data has no {key}: set "
                "DATA_CONFIG.CAMERA_CONFIG.USE_CAMERA, USE_LIDAR and DATA_PROCESSOR for it"
            )


def prepare_geometry(batch_dict: dict[str, Any], detector: Any) -> None:
    """Add the geometry of the view transform to the batch before any module runs."""
    if hasattr(detector.vtransform, "prepare"):
        batch_dict[GEOMETRY] = detector.vtransform.prepare(batch_dict)


def bev_grid(model_cfg: Any, dataset: Any) -> BEVGrid:
    """The BEV grid shared by the branches.

    Raises:
        ConfigError: the branches disagree, or the grid does not divide.
    """
    stride = bev_stride(model_cfg, dataset) or LIDAR_STRIDE
    return BEVGrid.of_voxels(dataset.point_cloud_range, dataset.voxel_size, stride)
