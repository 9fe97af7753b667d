"""Safe reading of regular files, text and JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from nsmae_plugin.errors import DataError, brief

GIB = 1 << 30
MOST_LETTERS = 250  # of a path in a message
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(path: Path | str, what: str, remedy: str, most: int, owner: str = "") -> BinaryIO:
    """Open a regular file of at most ``most`` bytes.

    Opening never waits, as it would for a named pipe without a writer, and nothing of a file that
    is too large is read.

    Args:
        what, owner: words for the file in messages, before and after its path: "the LiDAR file",
            " of sample 3".
        remedy: end of the messages.

    Raises:
        DataError: the file cannot be opened, is not a regular file, or is larger.
    """
    name = f"{what} {brief(path, MOST_LETTERS)}{owner}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = _kind(path) or error.strerror
        raise DataError(f"cannot read {name}: {reason}; {remedy}") from error
    except ValueError as error:  # invalid names
        raise DataError(f"cannot read {name}: {brief(error)}; {remedy}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{name} is {_words(status.st_mode)}, no file; {remedy}")
        if status.st_size > most:
            raise DataError(
                f"{name} has {status.st_size} bytes, more than the {most} that such a file "
                f"may have; {remedy}"
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str, what: str, remedy: str, most: int) -> bytes:
    """All of a regular file of at most ``most`` bytes; arguments as :func:`open_regular`.

    Raises:
        DataError: see :func:`open_regular`; or reading fails.
    """
    with open_regular(path, what, remedy, most) as file:
        try:
            return file.read(os.fstat(file.fileno()).st_size)  # /proc aside, all of it
        except OSError as error:
            raise DataError(f"cannot read {what} {path}: {error.strerror}; {remedy}") from error
        except MemoryError as error:
            raise DataError(f"{what} {path} does not fit into memory; {remedy}") from error


def read_json(path: Path | str, what: str, remedy: str, most: int = GIB) -> Any:
    """Content of a JSON file; arguments as :func:`open_regular`.

    Raises:
        DataError: see :func:`open_regular`; or the file is not valid JSON in UTF-8.
    """
    content = read_bytes(path, what, remedy, most)
    try:
        return json.loads(content)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{what} {path} is not valid JSON: {brief(error)}; {remedy}") from error


def _kind(path: Path | str) -> str | None:
    """The kind of thing at ``path`` if it is not a regular file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else f"it is {_words(mode)}"


def _words(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a special file")
