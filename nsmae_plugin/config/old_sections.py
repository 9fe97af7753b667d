"""Conversion of sections and names of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nsmae_plugin.config.known_modules import voxel_size
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import PositiveInt
from nsmae_plugin.errors import ConfigError

# Section of MODEL -> NAME of the entry of RENDER_HEADS that it has become.
RENDER_HEADS = {"PERSPECTIVE_HEAD": "PerspectiveRenderHead", "BEV_HEAD": "BEVRenderHead"}
# Step of DATA_PROCESSOR -> its name today.
STEPS = {"mask_depth_hints": "mask_depth_points"}


class OldPerspectiveHead(Section):
    """MODEL.PERSPECTIVE_HEAD; on top of a newer base it may hold what differs."""

    NAME: Literal["PerspectiveRenderHead"] = "PerspectiveRenderHead"
    IN_CHANNELS: PositiveInt | None = None


class OldBEVHead(Section):
    """MODEL.BEV_HEAD; on top of a newer base it may hold what differs."""

    NAME: Literal["BEVRenderHead"] = "BEVRenderHead"
    NUM_BINS: PositiveInt | None = None


def update_sections(config: Any) -> None:
    """Rewrite the sections of earlier versions in place, in a configuration that is valid.

    MODEL.PERSPECTIVE_HEAD and MODEL.BEV_HEAD become entries of MODEL.RENDER_HEADS, or change those
    that are there; null removes one. IN_CHANNELS and NUM_BINS follow from the rest of the
    configuration now, and are checked. The step mask_depth_hints is called mask_depth_points.

    Raises:
        ConfigError: IN_CHANNELS or NUM_BINS contradicts the rest.
    """
    for step in (config.get("DATA_CONFIG") or {}).get("DATA_PROCESSOR") or []:
        if isinstance(step, Mapping) and step.get("NAME") in STEPS:
            step["NAME"] = STEPS[step["NAME"]]  # type: ignore[index]
    model = config.get("MODEL")
    if not isinstance(model, Mapping) or not any(section in model for section in RENDER_HEADS):
        return
    heads = {head["NAME"]: head for head in model.get("RENDER_HEADS") or []}
    for section, name in RENDER_HEADS.items():
        if section not in model:
            continue
        content = model.pop(section)  # type: ignore[attr-defined]
        if content is None:
            heads.pop(name, None)
        else:
            known = {"NAME": name, **heads.get(name, {}), **content}
            heads[name] = _derive(known, f"MODEL.{section}", config)
    order = [*RENDER_HEADS.values(), *heads]  # in which they were built
    model["RENDER_HEADS"] = [  # type: ignore[index]
        heads[name] for name in dict.fromkeys(order) if name in heads
    ]


def _derive(head: dict[str, Any], where: str, config: Any) -> dict[str, Any]:
    channels, bins = head.pop("IN_CHANNELS", None), head.pop("NUM_BINS", None)
    given = (config["MODEL"].get("VTRANSFORM") or {}).get("OUT_CHANNEL")
    if channels is not None and given is not None and channels != given:
        raise ConfigError(
            f"{where}.IN_CHANNELS is {channels}, but MODEL.VTRANSFORM.OUT_CHANNEL {given}: leave "
            "it out"
        )
    if bins is not None:
        head["BIN_HEIGHT"] = _bin_height(bins, where, config.get("DATA_CONFIG") or {})
    return head


def _bin_height(bins: Any, where: str, data: Mapping[str, Any]) -> float:
    """The height of a voxel; earlier versions had one bin per voxel and one below."""
    voxels, extent = voxel_size(data), data.get("POINT_CLOUD_RANGE")
    if voxels is None or extent is None:  # a dataset that is not ours
        raise ConfigError(f"{where}.NUM_BINS: set MODEL.RENDER_HEADS.BEVRenderHead.BIN_HEIGHT")
    height = voxels[2]
    levels = round((extent[5] - extent[2]) / height)
    if bins != levels + 1:
        raise ConfigError(
            f"{where}.NUM_BINS is {bins}, but {levels} voxels along z make {levels + 1}: set "
            "MODEL.RENDER_HEADS.BEVRenderHead.BIN_HEIGHT in metres instead"
        )
    return height
