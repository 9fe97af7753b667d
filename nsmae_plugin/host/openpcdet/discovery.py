"""Finding OpenPCDet: the checkout named by ``OPENPCDET_ROOT``, or an installed ``pcdet``."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from nsmae_plugin.errors import HostError


def checkout_root() -> Path | None:
    """The source checkout that ``OPENPCDET_ROOT`` names, or None when it is not set.

    Raises:
        HostError: the variable is set but the directory holds no ``pcdet`` package.
    """
    value = os.environ.get("OPENPCDET_ROOT")
    if not value:
        return None
    root = Path(value).expanduser().resolve()
    if not (root / "pcdet" / "__init__.py").is_file():
        raise HostError(
            f"OPENPCDET_ROOT={value} holds no pcdet/__init__.py; point it at the root of an "
            "OpenPCDet checkout (git clone https://github.com/open-mmlab/OpenPCDet), or unset it"
        )
    return root


def import_package() -> ModuleType:
    """Import the top-level package ``pcdet``; its compiled parts are not touched yet.

    The checkout wins over an installed package, because it was named on purpose. It is loaded by
    its path and ``sys.path`` stays as it is: the checkout's root also holds directories called
    ``tools`` and ``data``, which would become importable.

    Raises:
        HostError: nothing was found, or another copy has been imported already.
    """
    root = checkout_root()
    if "pcdet" in sys.modules:
        return _already_imported(root)
    if root is None:
        return _import_installed()
    directory = root / "pcdet"
    spec = importlib.util.spec_from_file_location(
        "pcdet", directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pcdet"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["pcdet"]
        raise
    return module


def _already_imported(root: Path | None) -> ModuleType:
    module = sys.modules["pcdet"]
    location = Path(str(module.__file__)).resolve().parent
    if root is not None and location != root / "pcdet":
        raise HostError(
            f"pcdet was imported from {location} before nsmae_plugin, but OPENPCDET_ROOT names "
            f"{root}; import nsmae_plugin first, or unset OPENPCDET_ROOT"
        )
    return module


def _import_installed() -> ModuleType:
    if importlib.util.find_spec("pcdet") is None:
        raise HostError(
            "the openpcdet host was asked for, but pcdet is not installed and OPENPCDET_ROOT is "
            "not set; set OPENPCDET_ROOT to an OpenPCDet checkout (no compilation is needed), or "
            "use NSMAE_HOST=builtin"
        )
    return importlib.import_module("pcdet")
