"""What the configuration of a detector on bird's-eye view may not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsmae_plugin.detectors.branches import (
    CAMERA_SECTIONS,
    LIDAR_SECTIONS,
    has_branch,
)
from nsmae_plugin.errors import ConfigError

PRETRAINING_SECTIONS = ("MASK_TOKEN", "RENDER_HEADS")
HEADS = ("DENSE_HEAD", "MAP_HEAD")


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
