"""Files that info files name and that are not there: found at once, not when a batch reads them."""

from collections.abc import Iterable
from os import listdir
from os.path import split
from pathlib import Path

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.runtime.reading import MOST_LETTERS


def check_files(root: Path, files: Iterable[tuple[str, str, str]]) -> None:
    """Check that all files exist. Each folder is listed once, which is fast on network disks.

    Args:
        files: path below ``root``, what it is, and the token of the sample that reads it.

    Raises:
        DataError: naming the first that is missing, and how many are.
    """
    folders: dict[str, set[str]] = {}
    missing: dict[str, str] = {}
    for path, what, token in files:
        folder, name = split(path)
        if folder not in folders:
            folders[folder] = _names(root / folder)
        if name not in folders[folder] and path not in missing:
            shown = brief(root / path, MOST_LETTERS)
            missing[path] = f"{what} {shown} of sample {brief(token)}"
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
