"""The built-in host's registries: slot -> name -> class or function.

The host's own modules are named here by their import path and imported when first asked for, so a
camera-only model needs no spconv.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from nsmae_plugin.config import sections
from nsmae_plugin.errors import INSTALL_SPCONV, ConfigError, HostError

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
    "render_head",
    "augmentor",
    "processor",
)

#: Filled by :func:`register`; ``augmentor`` and ``processor`` hold functions, the rest classes.
REGISTRIES: dict[str, dict[str, object]] = {slot: {} for slot in SLOTS}

_MODULES = "nsmae_plugin.host.builtin.modules"
_VIEW_TRANSFORM = "nsmae_plugin.models.view_transform:FactorizedDepthLSSTransform"
_DETECTORS = ("BevFusion", "CenterPoint", "TransFusion")
_OWN = {
    "detector": {name: f"nsmae_plugin.host.builtin.detector:{name}" for name in _DETECTORS},
    "vfe": {"MeanVFE": f"{_MODULES}.bev:MeanVFE"},
    "backbone_3d": {"VoxelResBackBone8x": f"{_MODULES}.backbone_3d:VoxelResBackBone8x"},
    "map_to_bev": {"HeightCompression": f"{_MODULES}.bev:HeightCompression"},
    "image_backbone": {"SwinTransformer": f"{_MODULES}.swin:SwinTransformer"},
    "neck": {"GeneralizedLSSFPN": f"{_MODULES}.neck:GeneralizedLSSFPN"},
    # Both names: a configuration of OpenPCDet's builds the same network here.
    "vtransform": dict.fromkeys(
        ("DepthLSSTransform", "FactorizedDepthLSSTransform"), _VIEW_TRANSFORM
    ),
    "fuser": {"ConvFuser": f"{_MODULES}.bev:ConvFuser"},
    "backbone_2d": {"BaseBEVBackbone": f"{_MODULES}.bev:BaseBEVBackbone"},
    "dense_head": {
        "CenterHead": f"{_MODULES}.center_head:CenterHead",
        "TransFusionHead": f"{_MODULES}.transfusion_head:TransFusionHead",
    },
}

# The classes whose methods, listed in their STEPS, are the host's own steps.
_PIPELINES = {
    "augmentor": "nsmae_plugin.host.builtin.augmentor:DataAugmentor",
    "processor": "nsmae_plugin.host.builtin.processor:DataProcessor",
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
    if present is None:
        REGISTRIES[slot][name] = obj
        sections.declare(slot, name, obj)


def lookup(slot: str, name: str) -> Any:
    """The class (or step function) registered under ``name``.

    Raises:
        HostError: unknown slot or name (lists the names that exist), or a module of the host whose
            own requirement is not installed.
    """
    found = _find(slot, name)
    if found is None:
        names = ", ".join(sorted({*REGISTRIES[slot], *_own(slot)})) or "none"
        raise HostError(f"the built-in host has no {slot} {name!r}; it has {names}")
    return found


def _find(slot: str, name: str) -> Any | None:
    if slot not in REGISTRIES:
        raise HostError(f"unknown slot {slot!r}; the slots are {', '.join(SLOTS)}")
    if name in REGISTRIES[slot]:
        return REGISTRIES[slot][name]
    path = _own(slot).get(name)
    return None if path is None else _import(path)


def _own(slot: str) -> dict[str, str]:
    """The host's own entries of a slot: name -> import path, ``module:attribute.attribute``."""
    if slot in _PIPELINES:
        path = _PIPELINES[slot]
        return {step: f"{path}.{step}" for step in _import(path).STEPS}
    return _OWN.get(slot, {})


def _import(path: str) -> Any:
    module, _, attributes = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("spconv", "cumm"):
            raise
        raise HostError(
            f"{package} is not installed, and {module} needs it: pip install {INSTALL_SPCONV}"
        ) from error
    return attrgetter(attributes)(found)


def _describe(obj: Any) -> str:
    return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', obj)}"


class StepPipeline:
    """Named steps applied to a sample one after the other.

    A step is a method of the subclass that is listed in ``STEPS``, or what a function registered
    under ``SLOT`` returns when it is called with a config alone. Called with a sample it returns
    the processed sample and leaves the one it was given as it was.
    """

    SLOT: str
    STEPS: Sequence[str]

    def build_step(self, config: Any) -> Callable[..., dict[str, Any]]:
        """The configured step.

        Raises:
            ConfigError: no step has that NAME; lists the known ones.
        """
        name = config["NAME"]
        registered: dict[str, Any] = REGISTRIES[self.SLOT]
        if name in registered:
            return registered[name](self, config=config)
        if name in self.STEPS:
            return partial(getattr(self, name), config=config)
        known = ", ".join(sorted({*self.STEPS, *registered}))
        raise ConfigError(f"unknown {self.SLOT} {name!r}; known: {known}")
