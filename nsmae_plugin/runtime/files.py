"""Writing files and folders: whole or not at all, whoever else writes them, errors in one line.

A file is written under a temporary name in its own folder, ``.NAME.<random>.tmp``, and takes its
place when it is complete and on the disk. The process that writes holds a lock on the temporary
file, so that one without a lock was left by a process that was killed, and can be removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from nsmae_plugin.errors import NSMAEError, OutputError

logger = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends without an exception.

    Until then, and after an exception or a kill, ``path`` is what it was before. Nothing but the
    writing belongs into the block: its OSErrors are taken for failures to write.

    Raises:
        OutputError: ``path`` cannot be written (permissions, a full disk), or is no regular file.
    """
    path = Path(path)
    with output_errors(path):
        if path.exists() and not path.is_file():
            raise OutputError(f"cannot write {path}: it is not a regular file; choose another name")
        remove_leftovers(path.parent)
        with _temporary(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)  # (while it is still locked)
        _sync_folder(path.parent)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a whole file, see :func:`replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path | str, content: str) -> None:
    """Write a whole file in UTF-8, see :func:`replacing`."""
    write_bytes(path, content.encode("utf-8"))


def append_text(path: Path | str, content: str) -> None:
    """Add to the end of a file.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(content)


def make_folder(path: Path | str) -> None:
    """Make a folder and those above it, unless they exist.

    Raises:
        OutputError: it cannot be made.
    """
    with output_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)


@contextmanager
def held(path: Path | str, message: str, patience: float = 0) -> Iterator[None]:
    """Hold a lock that no other process holds; it ends with the process at the latest.

    Args:
        message: of the error when another process holds it.
        patience: seconds to wait for its end.

    Raises:
        OutputError: another process holds it, or the file cannot be written.
    """
    lock = FileLock(path)
    with output_errors(path):
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise OutputError(message) from None
        except NotImplementedError:
            logger.warning("%s is on a file system without locks: start only one run", path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def output_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block, also one behind another exception, into an OutputError."""
    try:
        yield
    except NSMAEError:
        raise
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        raise OutputError(
            f"cannot write {path}: {cause.strerror or cause}; check permissions and free space, "
            "or choose another place"
        ) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError that led to ``error``: torch.save raises a RuntimeError on a full disk."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


@cache  # once per process: folders may hold many files, and be written to often
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError), open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while it is written
                path.unlink()


@contextmanager
def _temporary(path: Path) -> Iterator[BinaryIO]:
    """A new locked file beside ``path``, which an exception removes."""
    while True:
        with open(path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp"), "xb") as file:
            with suppress(OSError):  # a file system without locks: nobody can remove it either
                fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # another process removed it before it was locked
            try:
                yield file
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise
            return


def _sync_folder(folder: Path) -> None:
    """Make the new name last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        _remove_folders(path)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)  # a folder that is locked is being written
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


def _remove_folders(path: Path) -> None:
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
