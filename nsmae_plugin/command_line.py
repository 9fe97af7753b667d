"""What the command-line tools share."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from nsmae_plugin.errors import NSMAEError

P = ParamSpec("P")
PREFIX = "error: "  # of the line that a tool ends with


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(f"{value} is not positive")
    return value


def errors_in_one_line(main: Callable[P, int]) -> Callable[P, int]:
    """Print errors of the plugin and of files instead of a traceback; return exit status 1."""

    @wraps(main)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except NSMAEError as error:
            print(f"{PREFIX}{error}", file=sys.stderr)
        except OSError as error:  # of a file that no message was made for
            if error.errno is None:  # no file at all: a mistake in a program
                raise
            where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
            print(f"{PREFIX}{where}{error.strerror}", file=sys.stderr)
        return 1

    return reporting
