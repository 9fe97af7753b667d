"""Stand-ins for third-party packages that OpenPCDet imports and our path does not need.

Using one raises :class:`HostError` naming the package; importing one does not.
"""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from nsmae_plugin.errors import HostError
from nsmae_plugin.host.openpcdet import image_transforms

logger = logging.getLogger(__name__)


def _refuse(what: str, package: str) -> NoReturn:
    raise HostError(f"OpenPCDet asked for {what}, which needs `pip install {package}`")


class _MissingAttribute:
    """What a placeholder module hands out; any use of it raises HostError."""

    def __init__(self, name: str, package: str):
        self._name, self._package = name, package

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(self._name, self._package)

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):  # probes by copy, inspect and the like
            raise AttributeError(attribute)
        _refuse(f"{self._name}.{attribute}", self._package)


class PlaceholderModule(ModuleType):
    """A module that can be imported; its attributes raise HostError when they are used."""

    def __init__(self, name: str, package: str, **attributes: Any):
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        self.__path__: list[str] = []
        self._package = package
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> _MissingAttribute:
        if name.startswith("__"):
            raise AttributeError(name)
        return _MissingAttribute(f"{self.__name__}.{name}", self._package)


def _torchvision() -> dict[str, ModuleType]:
    transforms = PlaceholderModule(
        "torchvision.transforms",
        "torchvision",
        Compose=image_transforms.Compose,
        ToTensor=image_transforms.ToTensor,
        Normalize=image_transforms.Normalize,
    )
    top = PlaceholderModule("torchvision", "torchvision", transforms=transforms)
    return {"torchvision": top, "torchvision.transforms": transforms}


def _skimage() -> dict[str, ModuleType]:
    names = ("skimage", "skimage.io", "skimage.transform")
    return {name: PlaceholderModule(name, "scikit-image") for name in names}


def _shared_array() -> dict[str, ModuleType]:
    return {"SharedArray": PlaceholderModule("SharedArray", "SharedArray")}


# Package -> its stand-in. OpenPCDet imports these at the top of files on the common path.
PACKAGES: dict[str, Callable[[], dict[str, ModuleType]]] = {
    "torchvision": _torchvision,
    "skimage": _skimage,
    "SharedArray": _shared_array,
}


def install() -> dict[str, str]:
    """Put stand-ins for absent or broken packages into ``sys.modules``; returns why, by name."""
    replaced = {}
    for package, build in PACKAGES.items():
        reason = _unusable(package)
        if reason:
            logger.info("OpenPCDet host: %s replaced by a stand-in (%s)", package, reason)
            sys.modules.update(build())
            replaced[package] = reason
    return replaced


def _unusable(package: str) -> str | None:
    """Why ``package`` cannot be imported, or None when it can."""
    if sys.modules.get(package) is not None:
        return None
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        importlib.import_module(package)
    # torchvision built for another torch raises RuntimeError when it registers its operators, a
    # missing shared library OSError, a package for another NumPy AttributeError.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def argo2_obstacle() -> str | None:
    """Why ``pcdet.datasets.argo2`` cannot be imported, or None.

    It needs av2 and pandas, and compiles functions with ``torch.jit.script`` against
    ``kornia.geometry.conversions.QuaternionCoeffOrder``, which newer kornia has removed.
    """
    reasons = {name: _unusable(name) for name in ("av2", "pandas", "kornia")}
    obstacles = [f"{name} {reason}" for name, reason in reasons.items() if reason]
    if obstacles:
        return ", ".join(obstacles)
    conversions = importlib.import_module("kornia.geometry.conversions")
    if not hasattr(conversions, "QuaternionCoeffOrder"):
        return "kornia is too new (needs kornia<0.7)"
    return None


def argo2_stand_in(obstacle: str) -> ModuleType:
    """The module ``pcdet.datasets.argo2.argo2_dataset`` with a dataset that refuses to be built."""

    class Argo2Dataset:
        def __init__(self, *args: Any, **kwargs: Any):
            raise HostError(
                f"Argo2Dataset cannot be used: {obstacle}; `pip install av2 pandas 'kornia<0.7'`"
            )

    name = "pcdet.datasets.argo2.argo2_dataset"
    return PlaceholderModule(name, "av2 pandas 'kornia<0.7'", Argo2Dataset=Argo2Dataset)
