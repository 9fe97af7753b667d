"""Configurations that come with the package, found by name from any directory."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import nsmae_plugin
from nsmae_plugin.errors import ConfigError, brief

PACKAGE = Path(nsmae_plugin.__file__).parent


def shipped_folder() -> Path:
    """The folder ``cfgs``: inside the package in a wheel, beside it in a checkout."""
    inside = PACKAGE / "cfgs"
    return inside if inside.is_dir() else PACKAGE.parent / "cfgs"


def shipped_names() -> list[str]:
    """The configurations that can be run, as paths below ``cfgs``: ``tiny/nsmae_pretrain.yaml``.

    What others take sections from, in folders ``*_configs``, is left out.
    """
    root = shipped_folder()
    paths = (path.relative_to(root) for path in root.rglob("*.yaml"))
    return sorted(path.as_posix() for path in paths if not path.parts[0].endswith("_configs"))


def find_config(name: str | Path) -> Path:
    """The file that a name stands for.

    A file that the name leads to from the working directory comes first, then the configuration
    of the package with that path below ``cfgs``. ``cfgs/`` and ``.yaml`` may be left out.

    Raises:
        ConfigError: there is neither; lists the nearest names.
    """
    path = Path(name)
    if os.path.isfile(path):  # also False for impossible names
        return path
    stem = path.as_posix().removeprefix("cfgs/").removesuffix(".yaml")
    names = shipped_names()
    if f"{stem}.yaml" in names:
        return shipped_folder() / f"{stem}.yaml"
    if os.path.exists(path):
        return path  # the reader tells that it is a folder, or a pipe
    near = difflib.get_close_matches(f"{stem}.yaml", names, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"the configuration {brief(name)} is neither a file nor comes with the package; {meant}"
        "`nsmae configs` lists those that do"
    )
