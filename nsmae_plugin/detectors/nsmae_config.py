"""What the configuration of the pre-training detector says about grids, and what it may not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nsmae_plugin.detectors.branches import CAMERA_SECTIONS, LIDAR_SECTIONS, has_branch
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.intervals import count_steps
from nsmae_plugin.models.targets import CameraGrid

MASKED_CAMERA = ("MASK_TOKEN", *CAMERA_SECTIONS)


def check_sections(model_cfg: Any) -> None:
    """Whether the sections of MODEL make a network in which every parameter learns.

    Raises:
        ConfigError: half a branch, no branch, no head, or a loss that ends before the training.
    """
    camera = has_branch(model_cfg, "camera", MASKED_CAMERA)
    lidar = has_branch(model_cfg, "LiDAR", LIDAR_SECTIONS)
    if not camera and not lidar:
        raise ConfigError(
            f"NSMAE needs a camera branch (MODEL.{', '.join(MASKED_CAMERA)}), a LiDAR branch "
            f"(MODEL.{', '.join(LIDAR_SECTIONS)}) or both"
        )
    if model_cfg.get("BEV_HEAD") is None:
        raise ConfigError("NSMAE needs MODEL.BEV_HEAD: all BEV features learn through it")
    perspective = model_cfg.get("PERSPECTIVE_HEAD") is not None
    if perspective and not camera:
        raise ConfigError("MODEL.PERSPECTIVE_HEAD needs the camera branch; remove it")
    if not perspective:
        _check_stops(model_cfg.LOSS_CONFIG)


def _check_stops(loss_config: Any) -> None:
    """Check that the view from above, the only one, trains to the end."""
    where = "without MODEL.PERSPECTIVE_HEAD depth from above is the only loss"
    if loss_config.get("BEV_DEPTH_STOP_EPOCH") is not None:
        raise ConfigError(
            f"{where}, and nothing is left to learn after "
            "MODEL.LOSS_CONFIG.BEV_DEPTH_STOP_EPOCH: set it to null"
        )
    if loss_config.get("DEPTH_STOP_EPOCH") is not None:
        raise ConfigError(
            f"{where}: MODEL.LOSS_CONFIG.DEPTH_STOP_EPOCH ends a term that is not there; set it to "
            "null"
        )


def check_heads(model_cfg: Any, grid: BEVGrid) -> None:
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
    levels, bins = grid.size[2], model_cfg.BEV_HEAD.NUM_BINS
    if bins != levels + 1:
        raise ConfigError(
            f"MODEL.BEV_HEAD.NUM_BINS is {bins}, but the range has {levels} voxels along z: set it "
            f"to {levels + 1}, one bin for each and one below"
        )


def depth_edges(bound: Sequence[float]) -> Tensor:
    """(D + 1,) boundaries in metres of the depth bins, which sit at start, start + step, …"""
    bins = count_steps(bound, "MODEL.VTRANSFORM.DBOUND")
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
