"""Writing folders: whole or not at all, as :mod:`nsmae_plugin.runtime.files` writes files."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nsmae_plugin.runtime.files import output_errors


@contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """A new folder that takes the place of ``path`` when the block ends without an exception.

    Until then, and after an exception or a kill, ``path`` holds what it held before. No system call
    exchanges two folders everywhere: the old one steps aside for a moment, under the name
    ``.NAME.previous``. After a kill in that moment the next call brings it back first.

    Raises:
        OutputError: no folder can be made beside ``path``, or it cannot take its place.
    """
    path = Path(path)
    previous = path.with_name(f".{path.name}.previous")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        restore(path)
        _remove_leftovers(path)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)  # who cannot lock it knows that it is being written
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        with output_errors(path):
            _swap(partial, path, previous)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    shutil.rmtree(previous, ignore_errors=True)


def restore(path: Path) -> None:
    """Bring back a folder that a killed process had moved aside."""
    previous = path.with_name(f".{path.name}.previous")
    if previous.is_dir():
        if path.exists():  # the new one was in place; only the old one was not yet removed
            shutil.rmtree(previous, ignore_errors=True)
        else:
            previous.rename(path)


def _swap(partial: Path, path: Path, previous: Path) -> None:
    if path.exists():
        path.rename(previous)
    try:
        partial.rename(path)
    except BaseException:
        if previous.exists():
            previous.rename(path)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes had begun in place of ``path``."""
    begun = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.partial")
    for folder in path.parent.iterdir():
        if begun.fullmatch(folder.name):
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while written
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(descriptor)
