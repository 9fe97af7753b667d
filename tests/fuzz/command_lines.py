"""Argument lists of the tools: other values, missing ones, unknown flags, paths that are not there.

A good line ends soon: it names data that does not exist, or the one border where work would start
is stubbed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import nsmae_plugin
from nsmae_plugin.errors import NSMAEError
from tests.fuzz.harness import Case, Draw
from tests.helpers import toys
from tests.helpers.paths import TINY

USAGE, LONGEST_USAGE = 2, 4000
VALUES = (
    *("", " ", "x", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "--", "None", "[1, 2]"),
    *("a\nb", "ü" * 300, "../../absent", "-x", "9" * 30, "{'a': 1}", "\udcff"),
)
OVERRIDES = (
    *(["MODEL.NAME"], ["A.B", "1"], ["MODEL.NAME.X", "1"], ["", "1"], ["..", "x"]),
    *(["OPTIMIZATION.LR", "x"], ["OPTIMIZATION.LR", "nan"], ["CLASS_NAMES", "3"]),
    *(["OPTIMIZATION", "1"], ["MODEL", "None"], ["DATA_CONFIG.X", "{"]),
    *(["OPTIMIZATION.LR", "(" * 300], ["OPTIMIZATION.LR", "\udcff"], ["a\nb", "1"]),
)


class Told(NSMAEError):
    """The line that a tool ended with."""


def command_lines(folder: Path) -> Draw:
    lines = _good_lines(folder)
    tools = {name: importlib.import_module(f"tools.{name}") for name in lines}

    def draw(rng: np.random.Generator) -> Case:
        name = list(lines)[rng.integers(len(lines))]
        arguments = _mutate(rng, list(lines[name]), folder)
        line = f"{name} {arguments!r}"
        return Case(line[:300], lambda: _run(tools[name], arguments, folder))

    return draw


def _good_lines(folder: Path) -> dict[str, list[str]]:
    """Tool -> arguments that it understands."""
    recipe = str(TINY / "nsmae_pretrain.yaml")
    absent, out = str(folder / "absent"), str(folder / "written/out")
    toy = ["--cfg_file", str(toys.write_config(folder))]
    data = ["--set", "DATA_CONFIG.DATA_PATH", absent]
    trial = ["--cfg_file", recipe, "--device", "cpu", "--seed", "0", "--split", "test"]
    log = folder / "metrics.jsonl"
    log.write_text('{"split": "train", "step": 1, "loss": 0.5}\n')
    ckpt = folder / "weights.pth"
    torch.save({"model_state": {"vfe.weight": torch.ones(2)}, "epoch": 1}, ckpt)
    label = ["--fractions", "0.1", "1.0", "--seeds", "0", "--only", "scratch", "--jobs", "1"]
    return {
        "train": [
            *(*toy, "--output_dir", out, "--workers", "0", "--epochs", "1", "--seed", "1"),
            *("--batch_size", "2", "--eval_interval", "0", "--ckpt_save_time_interval", "300"),
            *("--max_steps", "2", "--device", "cpu", "--set", "DATA_CONFIG.DATA_PATH", "."),
        ],
        "test": [
            *("--cfg_file", recipe, "--output_dir", out, "--workers", "0", "--batch_size", "1"),
            *("--eval_all", "--max_waiting_mins", "0", "--start_epoch", "0", "--device", "cpu"),
            *("--eval_tag", "a", "--extra_tag", "b", *data),
        ],
        "infer": [
            *("--index", "0", "--ckpt", str(ckpt), "--score_threshold", "0.3"),
            *("--map_threshold", "0.5", "--seconds_per_frame", "0.5", "--output_dir", out),
            *(*trial, *data),
        ],
        "evaluate_pretrain": ["--batch_size", "1", "--workers", "0", "--json", *trial, *data],
        "export_weights": ["--ckpt", str(ckpt), "--out", out + ".pth", "--safetensors"],
        "create_infos": [
            *("--data_path", absent, "--version", "v1.0-mini", "--max_sweeps", "10"),
            *("--workers", "0", "--lidar_dtype", "float32", "--out_dir", out),
        ],
        "visualize": ["--index", "0", "--output_dir", out, *trial, *data],
        "plot_curves": [str(log), "--output", out + ".png", "--metrics", "loss"],
        "make_synthetic_nuscenes": [
            *("--out", out, "--scenes", "2", "--keyframes", "2", "--sweeps", "0", "--seed", "0"),
            *("--image_size", "32", "64", "--azimuths", "36", "--workers", "1", "--quiet"),
        ],
        "probe": [
            *("--cfg_file", recipe, "--networks", "a=untrained:1", f"b={ckpt}", "--reference", "a"),
            *("--fractions", "0.5", "--seeds", "1", "--tasks", "centers", "--heads", "linear"),
            *("--metrics", "centers=mAP@2m", "--label_fraction_by", "frames", "--workers", "0"),
            *(
                "--output_dir",
                out,
                "--extra_tag",
                "c",
                "--channels",
                "8",
                "--statistics_batches",
                "1",
                "--device",
                "cpu",
            ),
            *data,
        ],
        "label_efficiency": [
            *("--dry_run", *toy, *label, "--output_dir", out, "--extra_tag", "c"),
            *("--train_args=--use_amp", "--set", "OPTIMIZATION.LR", "0.01"),
        ],
    }


def _mutate(rng: np.random.Generator, arguments: list[str], folder: Path) -> list[str]:
    values = [number for number, one in enumerate(arguments) if not one.startswith("--")]
    place = values[rng.integers(len(values))]
    file = str(folder / "metrics.jsonl")
    choice = rng.integers(10)
    if choice < 3:
        arguments[place] = VALUES[rng.integers(len(VALUES))]
    elif choice == 3:
        del arguments[place]
    elif choice == 4:
        arguments.insert(place, VALUES[rng.integers(len(VALUES))])
    elif choice == 5:
        others = (file, file + "/below", str(folder), "/dev/null", "/proc/self/absent")
        arguments[place] = others[rng.integers(len(others))]
    elif choice == 6:
        arguments.insert(place, ("--help", "--unknown", "--cfg", "-h=3")[rng.integers(4)])
    elif choice < 9:
        if "--set" not in arguments:
            arguments.append("--set")
        arguments += OVERRIDES[rng.integers(len(OVERRIDES))]
    else:  # a flag and its value left out
        del arguments[max(place - 1, 0) : place + 1]
    return arguments


def _run(tool: Any, arguments: list[str], folder: Path) -> bool:
    with _borders(tool, folder):
        return run_tool(tool, arguments)


def run_tool(tool: Any, arguments: list[str]) -> bool:
    """True after exit status 0.

    Raises:
        Told: with what the tool printed instead.
    """
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = tool.main(arguments)
        except SystemExit as end:
            status = end.code
    text = errors.getvalue()
    if status == USAGE and text.startswith("usage: ") and len(text) < LONGEST_USAGE:
        raise Told("a usage error")  # in the words of argparse, with the value as it is
    told = [line for line in text.splitlines() if line.startswith("error: ")]
    if status == 1:
        raise Told(text[text.index(told[0]) :].rstrip("\n"))
    return status == 0


def register() -> None:
    _register()
    toys.register()


_register = nsmae_plugin.register


@contextlib.contextmanager
def _borders(tool: Any, folder: Path) -> Iterator[None]:
    """The place where the work would begin is empty; no file outside ``folder`` is written."""
    before = os.getcwd()
    place = folder / "here"
    place.mkdir(exist_ok=True)
    os.chdir(place)
    environment = mock.patch.dict(os.environ)
    stubbed = tool.__name__ == "tools.train"
    stub = "nsmae_plugin.training.engine.train"
    border = mock.patch(stub) if stubbed else contextlib.nullcontext()
    try:
        with environment, border, mock.patch("nsmae_plugin.register", register):
            yield
    finally:
        os.chdir(before)
