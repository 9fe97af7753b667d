"""Files that info files name and that are not there: found at once, not when a batch reads them."""

from collections.abc import Iterable
from os import listdir
from pathlib import Path

from nsmae_plugin.errors import DataError


def check_files(root: Path, files: Iterable[tuple[str, str]]) -> None:
    """Whether all files are there; every folder is listed once, which is fast on network disks.

    Args:
        files: path below ``root``, and words for it with {} for the path.

    Raises:
        DataError: naming the first that is missing, and how many are.
    """
    folders: dict[Path, set[str]] = {}
    missing: dict[str, str] = {}
    for name, words in files:
        path = root / name
        if path.parent not in folders:
            folders[path.parent] = _names(path.parent)
        if path.name not in folders[path.parent]:
            missing.setdefault(name, words.format(path))
    if missing:
        more = f" ({len(missing)} files are missing)" if len(missing) > 1 else ""
        raise DataError(
            f"cannot read {next(iter(missing.values()))}: No such file or directory{more}; check "
            "DATA_PATH and VERSION, and that the archive was unpacked completely"
        )


def _names(folder: Path) -> set[str]:
    try:
        return set(listdir(folder))
    except OSError:  # not there, or no folder: nothing in it can be read
        return set()
