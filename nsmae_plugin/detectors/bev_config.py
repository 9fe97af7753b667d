"""What the configuration of a detector on bird's-eye view may not say."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Any

from nsmae_plugin.detectors.branches import (
    CAMERA_SECTIONS,
    LIDAR_SECTIONS,
    bev_columns,
    has_branch,
)
from nsmae_plugin.errors import ConfigError

PRETRAINING_SECTIONS = ("MASK_TOKEN", "PERSPECTIVE_HEAD", "BEV_HEAD")
HEADS = ("DENSE_HEAD", "MAP_HEAD")
# BEV backbone -> its key for the way back to finer cells; others are left to themselves
UPSAMPLING = {"BaseBEVBackbone": "UPSAMPLE_STRIDES", "GeneralizedResNetLSSFPN": "UPSAMPLE_STRIDE"}


def check_sections(model_cfg: Any, heads: Mapping[str, bool]) -> None:
    """Whether the sections of MODEL make a detector.

    Args:
        heads: sections of the heads that the detector has a place for, and whether it needs them.

    Raises:
        ConfigError: half a branch, no branch, a FUSER for one branch or none for two, no backbone,
            no head, heads of another detector, or sections of pre-training.
    """
    camera = has_branch(model_cfg, "camera", CAMERA_SECTIONS)
    lidar = has_branch(model_cfg, "LiDAR", LIDAR_SECTIONS)
    if not camera and not lidar:
        raise ConfigError(
            f"{model_cfg.NAME} needs a camera branch (MODEL.{', '.join(CAMERA_SECTIONS)}), a LiDAR "
            f"branch (MODEL.{', '.join(LIDAR_SECTIONS)}) or both"
        )
    fuser = model_cfg.get("FUSER") is not None
    if fuser and not (camera and lidar):
        raise ConfigError("MODEL.FUSER joins a camera and a LiDAR branch: remove it, or add both")
    if camera and lidar and not fuser:
        raise ConfigError(
            f"{model_cfg.NAME} needs MODEL.FUSER to join the camera and the LiDAR branch"
        )
    _check_heads(model_cfg, heads)


def _check_heads(model_cfg: Any, heads: Mapping[str, bool]) -> None:
    for section in ("BACKBONE_2D", *(name for name, needed in heads.items() if needed)):
        if model_cfg.get(section) is None:
            raise ConfigError(f"{model_cfg.NAME} needs MODEL.{section}")
    for section in HEADS:
        if section not in heads and model_cfg.get(section) is not None:
            raise ConfigError(
                f"{model_cfg.NAME} has no place for MODEL.{section}: remove it, or set MODEL.NAME "
                "to BEVFusionMap"
            )
    foreign = [f"MODEL.{key}" for key in PRETRAINING_SECTIONS if model_cfg.get(key) is not None]
    if foreign:
        raise ConfigError(f"{', '.join(foreign)} belong to pre-training (NSMAE): remove them")


def check_sizes(model_cfg: Any, dataset: Any) -> None:
    """Whether widths and BEV grids fit from the branches to the head.

    Raises:
        ConfigError: FUSER.IN_CHANNEL, a grid that the backbone cannot halve, or the head's
            FEATURE_MAP_STRIDE.
    """
    columns = bev_columns(model_cfg, dataset)
    fuser = model_cfg.get("FUSER")
    if fuser is not None:
        widths = (model_cfg.VTRANSFORM.OUT_CHANNEL, model_cfg.MAP_TO_BEV.NUM_BEV_FEATURES)
        if sum(widths) != fuser.IN_CHANNEL:
            raise ConfigError(
                f"MODEL.FUSER.IN_CHANNEL is {fuser.IN_CHANNEL}, but VTRANSFORM.OUT_CHANNEL "
                f"{widths[0]} and MAP_TO_BEV.NUM_BEV_FEATURES {widths[1]} make {sum(widths)}"
            )
    if model_cfg.BACKBONE_2D.NAME in UPSAMPLING:
        _check_backbone(model_cfg, columns.stride, columns.cells)


def _check_backbone(model_cfg: Any, stride: int, cells: tuple[int, int]) -> None:
    """Whether the levels of the BEV backbone meet, on the grid of the detection head.

    Args:
        stride: voxels per BEV cell in front. cells: along y and x.
    """
    config = model_cfg.BACKBONE_2D
    key = UPSAMPLING[config.NAME]
    strides = list(accumulate(config.LAYER_STRIDES, mul))
    if any(count % strides[-1] for count in cells):
        raise ConfigError(
            f"{cells[0]} x {cells[1]} BEV cells do not divide by {strides[-1]}, the product of "
            "MODEL.BACKBONE_2D.LAYER_STRIDES: change DATA_CONFIG.POINT_CLOUD_RANGE or VOXEL_SIZE"
        )
    if config.NAME == "BaseBEVBackbone":
        ups = config.get(key) or [1] * len(strides)
        made = {stride * down / up for down, up in zip(strides, ups, strict=False)}
    else:  # all levels meet on the first
        made = {stride * strides[0] / config[key]}
    voxels = ", ".join(f"{one:g}" for one in sorted(made))
    if len(made) > 1:
        raise ConfigError(
            f"the levels of MODEL.BACKBONE_2D end with cells of {voxels} voxels (LAYER_STRIDES, "
            f"{key}): make them equal"
        )
    if model_cfg.get("DENSE_HEAD") is None:
        return  # the map head takes any grid
    wanted = model_cfg.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE
    if made != {wanted}:
        raise ConfigError(
            f"the levels of MODEL.BACKBONE_2D end with cells of {voxels} voxels (LAYER_STRIDES, "
            f"{key}), but MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE "
            f"is {wanted}: make them equal"
        )
