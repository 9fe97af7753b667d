"""Modules known by NAME, and helpers that fill in sections of MODEL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsmae_plugin.errors import ConfigError

LIFT_SPLAT = ("FactorizedLSSTransform", "FactorizedDepthLSSTransform", "DepthLSSTransform")
SWIN_STRIDE = 4  # pixels per token of the first stage
LIDAR_STRIDE = 8  # voxels per BEV cell of the 8x backbones
BACKBONES = ("VoxelBackBone8x", "VoxelResBackBone8x")
LEVEL_CHANNELS = 128  # of the last convolution of these backbones, on every level of height


def name_of(model_cfg: Any, section: str) -> str | None:
    """The NAME of a section of MODEL; None without the section."""
    return (model_cfg.get(section) or {}).get("NAME")


def voxel_size(data_cfg: Mapping[str, Any]) -> list[float] | None:
    """VOXEL_SIZE, x, y, z in metres, of the step of DATA_PROCESSOR that has it; None without."""
    steps = data_cfg.get("DATA_PROCESSOR") or []
    return next((step["VOXEL_SIZE"] for step in steps if "VOXEL_SIZE" in step), None)


def settle(model_cfg: Any, path: str, value: Any, reason: str) -> None:
    """Write what a key must be, or check that it is.

    Args:
        path: dotted, below MODEL.
        value: None where it does not follow from the rest of the configuration.
        reason: why, for the message, such as "A.B is 3".

    Raises:
        ConfigError: the key has another value, or has none and needs one.
    """
    *sections, key = path.split(".")
    section = model_cfg
    for name in sections:
        section = section[name]
    given = section.get(key)
    if given is None and value is None:
        raise ConfigError(f"missing key MODEL.{path}: {reason}")
    if given is None:
        section[key] = value
    elif value is not None and given != value:
        raise ConfigError(
            f"MODEL.{path} is {given}, but {reason}: set it to {value}, or leave it out"
        )


def height_levels(voxels: int, last_pad: Any) -> int:
    """Levels of height behind an 8x backbone, which starts with one level more than voxels."""
    levels = voxels + 1
    for padding in _paddings(last_pad):
        levels = (levels + 2 * padding - 3) // 2 + 1
    return levels


def used_voxels(voxels: int, last_pad: Any) -> int:
    """Number of voxels along z, from below, that reach a level behind an 8x backbone."""
    top = height_levels(voxels, last_pad) - 1
    for padding in reversed(_paddings(last_pad)):
        top = 2 * top - padding + 2  # the last that its kernel of 3 covers
    return min(voxels, top + 1)


def _paddings(last_pad: Any) -> tuple[int, ...]:
    """Along z, of the convolutions of stride 2."""
    return (1, 1, 0, last_pad if isinstance(last_pad, int) else last_pad[0])
