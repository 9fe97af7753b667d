"""What the configuration of the pre-training detector says about grids, and what it may not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.bev_pool import bin_count
from nsmae_plugin.models.targets import CameraGrid, Columns

CAMERA_SECTIONS = ("MASK_TOKEN", "IMAGE_BACKBONE", "NECK", "VTRANSFORM")
LIDAR_SECTIONS = ("VFE", "BACKBONE_3D", "MAP_TO_BEV")
LIDAR_STRIDE = 8  # voxels per BEV cell of the 8x backbones


def check_sections(model_cfg: Any) -> None:
    """Whether the sections of MODEL make a network in which every parameter learns.

    Raises:
        ConfigError: half a branch, no branch, no head, or a loss that ends before the training.
    """
    camera = _has_branch(model_cfg, "camera", CAMERA_SECTIONS)
    lidar = _has_branch(model_cfg, "LiDAR", LIDAR_SECTIONS)
    if not camera and not lidar:
        raise ConfigError(
            f"NSMAE needs a camera branch (MODEL.{', '.join(CAMERA_SECTIONS)}), a LiDAR branch "
            f"(MODEL.{', '.join(LIDAR_SECTIONS)}) or both"
        )
    if model_cfg.get("BEV_HEAD") is None:
        raise ConfigError("NSMAE needs MODEL.BEV_HEAD: all BEV features learn through it")
    perspective = model_cfg.get("PERSPECTIVE_HEAD") is not None
    if perspective and not camera:
        raise ConfigError("MODEL.PERSPECTIVE_HEAD needs the camera branch; remove it")
    if not perspective and model_cfg.LOSS_CONFIG.get("DEPTH_STOP_EPOCH") is not None:
        raise ConfigError(
            "without MODEL.PERSPECTIVE_HEAD depth is the only loss, and nothing is left to learn "
            "after MODEL.LOSS_CONFIG.DEPTH_STOP_EPOCH: set it to null"
        )


def _has_branch(model_cfg: Any, name: str, sections: Sequence[str]) -> bool:
    """Whether all sections of a branch are there; some of them are an error."""
    found = [f"MODEL.{key}" for key in sections if model_cfg.get(key) is not None]
    missing = [f"MODEL.{key}" for key in sections if model_cfg.get(key) is None]
    if found and missing:
        raise ConfigError(
            f"the {name} branch lacks {', '.join(missing)}: add it, or leave the branch out by "
            f"removing {', '.join(found)}"
        )
    return bool(found)


def check_heads(model_cfg: Any, columns: Columns) -> None:
    """Whether the heads fit the features and the range.

    Raises:
        ConfigError: IN_CHANNELS or NUM_BINS is wrong.
    """
    perspective = model_cfg.get("PERSPECTIVE_HEAD")
    if perspective is not None:
        channels = model_cfg.VTRANSFORM.OUT_CHANNEL
        if channels != perspective.IN_CHANNELS:
            raise ConfigError(
                f"MODEL.PERSPECTIVE_HEAD.IN_CHANNELS is {perspective.IN_CHANNELS}, but "
                f"MODEL.VTRANSFORM.OUT_CHANNEL is {channels}: make them equal"
            )
    levels, bins = columns.size[2], model_cfg.BEV_HEAD.NUM_BINS
    if bins != levels + 1:
        raise ConfigError(
            f"MODEL.BEV_HEAD.NUM_BINS is {bins}, but the range has {levels} voxels along z: set it "
            f"to {levels + 1}, one bin for each and one below"
        )


def depth_edges(bound: Sequence[float]) -> Tensor:
    """(D + 1,) boundaries in metres of the depth bins, which sit at start, start + step, …"""
    bins = bin_count(bound, "MODEL.VTRANSFORM.DBOUND")
    start, _, step = bound
    return (start + step * (torch.arange(bins + 1, dtype=torch.float64) - 0.5)).float()


def camera_grid(model_cfg: Any) -> CameraGrid | None:
    """The grid of the camera targets; None without cameras.

    Raises:
        ConfigError: the feature grid does not divide the image.
    """
    config = model_cfg.get("VTRANSFORM")
    if config is None:
        return None
    image, features = config.IMAGE_SIZE, config.FEATURE_SIZE
    stride = image[0] // features[0]
    if [stride * side for side in features] != list(image):
        raise ConfigError(
            f"MODEL.VTRANSFORM.IMAGE_SIZE {list(image)} must be one multiple of FEATURE_SIZE "
            f"{list(features)} along both sides"
        )
    edges = depth_edges(config.DBOUND)
    return CameraGrid(stride, near=float(edges[0]), far=float(edges[-1]))


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
