"""The built-in host's registries: slot -> name -> class or function.

The host's own modules are named here by their import path and imported when first asked for, so a
camera-only model needs no spconv.
"""

import importlib
from collections.abc import Callable
from typing import Any

from nsmae_plugin.errors import HostError

SLOTS = (
    "detector",
    "dataset",
    "vfe",
    "backbone_3d",
    "map_to_bev",
    "image_backbone",
    "neck",
    "vtransform",
    "fuser",
    "backbone_2d",
    "dense_head",
    "augmentor",
    "processor",
)

#: Filled by :func:`register`; ``augmentor`` and ``processor`` hold functions, the rest classes.
REGISTRIES: dict[str, dict[str, object]] = {slot: {} for slot in SLOTS}

_MODULES = "nsmae_plugin.host.builtin.modules"
_VIEW_TRANSFORM = "nsmae_plugin.models.view_transform:FactorizedDepthLSSTransform"

_OWN = {
    ("vfe", "MeanVFE"): f"{_MODULES}.vfe:MeanVFE",
    ("backbone_3d", "VoxelResBackBone8x"): f"{_MODULES}.backbone_3d:VoxelResBackBone8x",
    ("map_to_bev", "HeightCompression"): f"{_MODULES}.map_to_bev:HeightCompression",
    ("image_backbone", "SwinTransformer"): f"{_MODULES}.swin:SwinTransformer",
    ("neck", "GeneralizedLSSFPN"): f"{_MODULES}.neck:GeneralizedLSSFPN",
    # Both names: a configuration of OpenPCDet's builds the same network here.
    ("vtransform", "DepthLSSTransform"): _VIEW_TRANSFORM,
    ("vtransform", "FactorizedDepthLSSTransform"): _VIEW_TRANSFORM,
    ("fuser", "ConvFuser"): f"{_MODULES}.fuser:ConvFuser",
    ("backbone_2d", "BaseBEVBackbone"): f"{_MODULES}.backbone_2d:BaseBEVBackbone",
}


def register(slot: str, name: str, obj: Callable[..., Any]) -> None:
    """Enter ``obj`` under ``name``; entering the same object again changes nothing.

    Raises:
        HostError: unknown slot, or another object holds the name.
    """
    present = _find(slot, name)
    if present is not None and present is not obj:
        raise HostError(
            f"{slot} {name!r} is already {_describe(present)} in the built-in host; "
            f"choose another name for {_describe(obj)}"
        )
    REGISTRIES[slot][name] = obj


def lookup(slot: str, name: str) -> Any:
    """The class (or step function) registered under ``name``.

    Raises:
        HostError: unknown slot or name (lists the names that exist), or a module of the host whose
            own requirement is not installed.
    """
    found = _find(slot, name)
    if found is None:
        names = {*REGISTRIES[slot], *(own for own_slot, own in _OWN if own_slot == slot)}
        raise HostError(
            f"the built-in host has no {slot} {name!r}; it has {', '.join(sorted(names)) or 'none'}"
        )
    return found


def _find(slot: str, name: str) -> Any | None:
    if slot not in REGISTRIES:
        raise HostError(f"unknown slot {slot!r}; the slots are {', '.join(SLOTS)}")
    if name not in REGISTRIES[slot] and (slot, name) in _OWN:
        REGISTRIES[slot][name] = _import(slot, name)
    return REGISTRIES[slot].get(name)


def _import(slot: str, name: str) -> Any:
    module, _, attribute = _OWN[slot, name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise HostError(
            f"{slot} {name!r} needs the package {error.name}, which is not installed; "
            "`pip install spconv`, or the spconv-cuXXX wheel of your CUDA version"
            if error.name in ("spconv", "cumm")
            else f"{slot} {name!r} cannot be imported: {error}"
        ) from error


def _describe(obj: Any) -> str:
    return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', obj)}"
