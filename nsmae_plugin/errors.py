"""Errors of the plugin; each message names the problem and the remedy."""

import os
import reprlib

#: After "pip install", for the module ``spconv``: one build for CPUs, one for each CUDA version.
INSTALL_SPCONV = (
    "spconv (without a GPU), or pip install spconv-cu126 (CUDA 12.6; also cu118, cu121, cu124)"
)


class NSMAEError(Exception):
    """Base class of all errors raised on purpose by nsmae_plugin.

    Attributes:
        told_elsewhere: another process of the same run reports it.
    """

    told_elsewhere = False

    def __str__(self) -> str:
        """The message, without torch's traceback from a loader process."""
        message = super().__str__()
        if message.startswith("Caught ") and " in DataLoader worker process " in message:
            return message.rpartition(f"{type(self).__name__}: ")[2].rstrip()
        return message


class ConfigError(NSMAEError):
    """A YAML key or value, or a combination of them, that cannot work."""


class DataError(NSMAEError):
    """A missing, truncated, malformed or non-finite file or sample."""


class CheckpointError(NSMAEError):
    """A checkpoint that cannot be read, or does not fit the model."""


class OutputError(NSMAEError):
    """A file or folder that cannot be written."""


class HostError(NSMAEError):
    """The detection framework underneath is absent, broken, or refuses a registration."""


class NonFiniteError(NSMAEError):
    """A loss or gradient became NaN or infinite."""


def brief(what: object, most: int = 120) -> str:
    """A foreign value or exception as one short line for a message.

    The text of an exception may hold all of a damaged file, and a name in a file may hold anything.
    """
    if isinstance(what, KeyError):
        text = f"no entry {what}"
    elif isinstance(what, BaseException):
        text = str(what) or type(what).__name__
    else:
        text = str(what) if isinstance(what, str | os.PathLike) else reprlib.repr(what)
    text = text[: 4 * most]  # it may be megabytes long
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"
