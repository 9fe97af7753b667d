"""The plugin's classes in OpenPCDet's registries: its ``__all__`` dicts and method namespaces."""

import importlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

from nsmae_plugin.config import sections
from nsmae_plugin.errors import HostError

# slot -> the OpenPCDet module whose ``__all__`` dict (name -> class) its builders read
DICT_SLOTS = {
    "detector": "pcdet.models.detectors",
    "dataset": "pcdet.datasets",
    "vfe": "pcdet.models.backbones_3d.vfe",
    "backbone_3d": "pcdet.models.backbones_3d",
    "map_to_bev": "pcdet.models.backbones_2d.map_to_bev",
    "image_backbone": "pcdet.models.backbones_image",
    "neck": "pcdet.models.backbones_image.img_neck",
    "vtransform": "pcdet.models.view_transforms",
    "fuser": "pcdet.models.backbones_2d.fuser",
    "backbone_2d": "pcdet.models.backbones_2d",
    "dense_head": "pcdet.models.dense_heads",
}

# slots that OpenPCDet does not have -> name -> class
OWN_SLOTS: dict[str, dict[str, Callable[..., Any]]] = {"render_head": {}}

# section of MODEL -> the slot in which OpenPCDet looks up its NAME
SECTIONS = {slot.upper(): slot for slot in DICT_SLOTS if slot not in ("detector", "dataset")}

# slot -> (module, class) whose methods OpenPCDet looks up by the NAME in the YAML
METHOD_SLOTS = {
    "augmentor": ("pcdet.datasets.augmentor.data_augmentor", "DataAugmentor"),
    "processor": ("pcdet.datasets.processor.data_processor", "DataProcessor"),
}

# methods of those classes that are no steps
_NOT_STEPS = {"forward", "disable_augmentation", "double_flip"}


def register(slot: str, name: str, obj: Callable[..., Any]) -> None:
    """Enter ``obj`` under ``name``; entering the same object again changes nothing.

    Raises:
        HostError: unknown slot, or another object holds the name.
    """
    in_dict = slot not in METHOD_SLOTS
    present = _table(slot).get(name) if in_dict else getattr(_holder(slot), name, None)
    if present is not None and present is not obj:
        raise HostError(
            f"{slot} {name!r} is already {_describe(present)} in OpenPCDet; "
            f"choose another name for {_describe(obj)}"
        )
    if in_dict:
        _table(slot)[name] = obj
    else:
        setattr(_holder(slot), name, obj)
    sections.declare(slot, name, obj)


def lookup(slot: str, name: str) -> Any:
    """The class (or step function) registered under ``name``.

    Raises:
        HostError: unknown slot or name; lists the names that exist.
    """
    entries = _steps(_holder(slot)) if slot in METHOD_SLOTS else _table(slot)
    if name not in entries:
        raise HostError(f"OpenPCDet has no {slot} {name!r}; it has {', '.join(sorted(entries))}")
    return entries[name]


def is_own(slot: str, name: str | None) -> bool:
    """Return whether ``name`` is registered for a class of the plugin."""
    module = getattr(_table(slot).get(str(name)), "__module__", "")
    return module.partition(".")[0] == __name__.partition(".")[0]


def check_names(model_cfg: Any) -> None:
    """Raise HostError for a NAME that is not registered; OpenPCDet's builders raise a KeyError."""
    lookup("detector", model_cfg.NAME)
    for section, slot in SECTIONS.items():
        if model_cfg.get(section) is not None:
            lookup(slot, model_cfg[section].NAME)


def _table(slot: str) -> dict[str, Callable[..., Any]]:
    if slot in OWN_SLOTS:
        return OWN_SLOTS[slot]
    if slot not in DICT_SLOTS:
        slots = ", ".join([*DICT_SLOTS, *OWN_SLOTS, *METHOD_SLOTS])
        raise HostError(f"unknown slot {slot!r}; the slots are {slots}")
    return importlib.import_module(DICT_SLOTS[slot]).__dict__["__all__"]


def _holder(slot: str) -> type:
    module, name = METHOD_SLOTS[slot]
    return getattr(importlib.import_module(module), name)


def _steps(holder: type) -> dict[str, FunctionType]:
    return {
        name: value
        for name, value in vars(holder).items()
        if isinstance(value, FunctionType) and name[0] != "_" and name not in _NOT_STEPS
    }


def _describe(obj: Any) -> str:
    return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', obj)}"
