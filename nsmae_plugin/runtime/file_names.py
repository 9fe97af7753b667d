"""Safe file names."""

from __future__ import annotations

import os
import re

from nsmae_plugin.errors import DataError, brief

MOST_BYTES = 200  # file systems take 255; an ending or the suffix of a temporary file may follow
_SEPARATORS = re.compile(r"[/\\\x00]")


def file_name(name: object, what: str) -> str:
    """``name`` if it can be the name of a file or folder inside a given folder.

    Tokens, classes and scenes come from files that anybody may have made; ``../../x`` would lead
    out of the folder.

    Args:
        what: words for the name, such as "the token of a sample".

    Raises:
        DataError: it is no string, is empty, is or holds a way into another folder, is too long, or
            has characters that cannot be shown.
    """
    if not isinstance(name, str):
        problem = "is no string"
    elif name in ("", ".", "..") or _SEPARATORS.search(name):
        problem = "would lead into another folder"
    elif not name.isprintable():
        problem = "has characters that cannot be shown"
    elif len(os.fsencode(name)) > MOST_BYTES:
        problem = f"is longer than {MOST_BYTES} bytes"
    else:
        return str(name)
    raise DataError(f"{what}, {brief(repr(name))}, cannot name a file: it {problem}; rename it")
