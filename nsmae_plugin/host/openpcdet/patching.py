"""Putting a function of ours in the place of one of OpenPCDet's."""

import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any


def replace(module: ModuleType, name: str, replacement: Callable[..., Any]) -> None:
    """Let ``module.name`` call ``replacement(original, *args, **kwargs)``; idempotent.

    Modules that have imported the original by name, a script among them, get the new one as well:
    it does not matter whether they did so before or after this call.
    """
    original = getattr(module, name)
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    for other in [module, *sys.modules.values()]:
        names = getattr(other, "__dict__", {})
        for key in [key for key, value in names.items() if value is original]:
            setattr(other, key, call)
