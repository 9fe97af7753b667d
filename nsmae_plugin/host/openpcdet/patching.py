"""Patching of functions of OpenPCDet."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

MARK = "_nsmae_replacement"  # of a function that stands in the place of another


def replace(module: ModuleType | type, name: str, replacement: Callable[..., Any]) -> None:
    """Let a function or method call ``replacement(original, *args, **kwargs)``; idempotent.

    Modules that have imported the original by name, a script among them, get the new one as well:
    it does not matter whether they did so before or after this call.
    """
    original = getattr(module, name)
    if hasattr(original, MARK):
        return

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    setattr(call, MARK, True)
    static = isinstance(vars(module).get(name), staticmethod)
    setattr(module, name, staticmethod(call) if static else call)
    for other in list(sys.modules.values()):
        names = getattr(other, "__dict__", {})
        for key in [key for key, value in names.items() if value is original]:
            setattr(other, key, call)


class _Finder(importlib.abc.MetaPathFinder):
    """Import hook that runs an action after the import of some modules."""

    def __init__(self) -> None:
        self.actions: dict[str, Callable[[ModuleType], None]] = {}

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = None
        if fullname in self.actions:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute, action = spec.loader.exec_module, self.actions[fullname]

            def exec_module(module: ModuleType) -> None:
                execute(module)
                action(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    """Run ``action`` after the import of a module, or now if it is imported."""
    if name in sys.modules:
        action(sys.modules[name])
        return
    finder = next((one for one in sys.meta_path if isinstance(one, _Finder)), None)
    if finder is None:
        finder = _Finder()
        sys.meta_path.insert(0, finder)
    finder.actions[name] = action
