"""Stand-ins for third-party packages that OpenPCDet imports and our path does not need.

Using one raises :class:`HostError` naming the package; importing one does not. torchvision must
match the installed torch exactly, which often breaks an environment: the three of its transforms
that OpenPCDet uses are served with the same results.
"""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image

from nsmae_plugin.errors import HostError

logger = logging.getLogger(__name__)


def _refuse(what: str, package: str) -> NoReturn:
    raise HostError(f"OpenPCDet asked for {what}, which needs `pip install {package}`")


class _MissingAttribute:
    """An attribute of a placeholder module; any use of it raises HostError."""

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


class Compose:
    """Applies transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    """An 8-bit image (H, W, C), PIL or array, to a float32 tensor (C, H, W) in [0, 1].

    Arrays of another type than uint8 keep their values, as in torchvision.
    """

    def __call__(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        array = np.array(image)
        if array.ndim == 2:
            array = array[:, :, None]
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
        return tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts ``mean`` and divides by ``std``, per channel of a (C, H, W) tensor."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = mean, std

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype).view(-1, 1, 1)
        return (tensor - mean) / std


def _torchvision() -> dict[str, ModuleType]:
    transforms = PlaceholderModule(
        "torchvision.transforms",
        "torchvision",
        Compose=Compose,
        ToTensor=ToTensor,
        Normalize=Normalize,
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
