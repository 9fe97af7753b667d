"""The options of the tools, as their parsers know them."""

import argparse
import importlib
from contextlib import suppress
from types import ModuleType
from unittest import mock

TOOLS = (
    *("train", "test", "infer", "visualize", "evaluate_pretrain", "export_weights", "plot_curves"),
    *("create_infos", "make_synthetic_nuscenes", "label_efficiency"),
)


class _Parsed(Exception):
    pass


def options_of(tool: str) -> dict[str, dict]:
    """Option, or name of a positional argument -> how many values ``tools/<tool>.py`` takes for it,
    whether it must be given, and the values it may have."""
    found: list[argparse.ArgumentParser] = []

    def parse_args(self, *_):
        found.append(self)
        raise _Parsed

    module = module_of(tool)
    with mock.patch("argparse.ArgumentParser.parse_args", parse_args), suppress(_Parsed):
        module.main([])
    actions = [one for one in found[0]._actions if one.dest != "help"]
    return {name: _summary(one) for one in actions for name in one.option_strings or [one.dest]}


def module_of(tool: str) -> ModuleType:
    """``tools/<tool>.py``."""
    return importlib.import_module(f"tools.{tool}")


def _summary(action: argparse.Action) -> dict:
    summary = {"values": 1 if action.nargs is None else action.nargs, "required": action.required}
    if action.choices is not None:
        summary["choices"] = sorted(map(str, action.choices))
    return summary
