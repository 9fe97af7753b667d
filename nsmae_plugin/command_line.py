"""What the command-line tools share."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from nsmae_plugin.errors import NSMAEError

P = ParamSpec("P")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(f"{value} is not positive")
    return value


def errors_in_one_line(main: Callable[P, int]) -> Callable[P, int]:
    """Print the plugin's errors instead of a traceback, and return the exit status 1."""

    @wraps(main)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except NSMAEError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return reporting
