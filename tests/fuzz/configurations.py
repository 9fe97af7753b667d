"""Mutated configurations and ``--set`` values, which ``tools/train.py`` takes one step with.

A mutation may be harmless, and then a step is taken; with a number that is NaN or infinite it is
not.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from nsmae_plugin.config.load import plain, read
from tests.fuzz.command_lines import run_tool
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import INF, JUNK, NAN, mutate_bytes, mutate_value, places
from tests.helpers.paths import TINY
from tools import create_infos, make_synthetic_nuscenes, train

RECIPES = (
    *("nsmae_pretrain", "nsmae_pretrain_lidar", "bevfusion_det", "bevfusion_map"),
    *("transfusion_lidar", "centerpoint_lidar", "camera_det", "bevfusion_multitask"),
)
NUMBERS = (0, -1, -0.5, 1.5, NAN, INF, -INF, 1 << 40, 1e-9, True, "1", None)
TEXTS = (
    *("[]", "{}", "None", "-1", "0", "nan", "1e400", "[1, 2]", "x", "1e-3", "(1, 2)", "{1: 2}"),
    *("[" * 300, "\ud800", "a\nb", "'1'", "9" * 400, "1j", "{'NAME': 'x'}", "True"),
)
# Keys that no recipe has.
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "nsmae_pretrain": {"OPTIMIZATION": {"FREEZE": ["IMAGE_BACKBONE"], "LAYER_DECAY": 0.8}},
    "bevfusion_det": {
        "OPTIMIZATION": {"FREEZE": ["NECK"], "LAYER_DECAY": {"BACKBONE_3D": 0.8, "NECK": 0.9}}
    },
    "bevfusion_map": {
        "DATA_CONFIG": {"VALIDATION_FRACTION": 0.5, "VALIDATION_SEED": 1},
        "OPTIMIZATION": {"EARLY_STOPPING": {"METRIC": "mIoU", "MODE": "max", "PATIENCE": 2}},
    },
}
Mutation = Callable[[np.random.Generator, dict[str, Any]], tuple[str, bytes, list[str], bool]]


def configurations(folder: Path) -> Draw:
    data = _write_data(folder)
    recipes = {name: _recipe(name, data) for name in RECIPES}

    def draw(rng: np.random.Generator) -> Case:
        name = RECIPES[rng.integers(len(RECIPES))]
        mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
        what, text, overrides, must_fail = mutate(rng, copy.deepcopy(recipes[name]))

        def run() -> bool:
            return _train(folder, text, overrides) and not must_fail

        return Case(f"{name}, {what}"[:200], run)

    return draw


def _write_data(folder: Path) -> Path:
    """Three scenes of two frames, two of them for training."""
    data = folder / "data"
    size = ("--image_size", "128", "224", "--azimuths", "90", "--sweeps", "1", "--workers", "1")
    make_synthetic_nuscenes.main(
        ["--out", str(data), "--scenes", "3", "--keyframes", "2", *size, "--seed", "0", "--quiet"]
    )
    create_infos.main(
        ["--data_path", str(data), "--version", "v1.0-mini", "--max_sweeps", "1", "--with_cam"]
    )
    return data


def _recipe(name: str, data: Path) -> dict[str, Any]:
    recipe = plain(read(TINY / f"{name}.yaml"))
    recipe["DATA_CONFIG"] |= {
        "DATA_PATH": str(data),
        "MAX_SWEEPS": 1,
        "INFO_PATH": {
            mode: [f"nuscenes_infos_1sweeps_{split}.pkl"]
            for mode, split in (("train", "train"), ("test", "val"))
        },
    }
    for section, keys in MORE.get(name, {}).items():
        recipe[section] |= keys
    return recipe


def _value(rng: np.random.Generator, recipe: dict[str, Any]) -> tuple[str, bytes, list[str], bool]:
    what, damaged = mutate_value(rng, recipe, JUNK)
    return what, _dump(damaged), [], False


def _number(rng: np.random.Generator, recipe: dict[str, Any]) -> tuple[str, bytes, list[str], bool]:
    """Another number in the place of one."""
    ways = [way for way in places(recipe) if isinstance(_at(recipe, way), int | float)]
    way = ways[rng.integers(len(ways))]
    value = NUMBERS[rng.integers(len(NUMBERS))]
    _at(recipe, way[:-1])[way[-1]] = value
    must_fail = isinstance(value, float) and not math.isfinite(value)
    return f"{'.'.join(map(str, way))} is {value!r}", _dump(recipe), [], must_fail


def _order(rng: np.random.Generator, recipe: dict[str, Any]) -> tuple[str, bytes, list[str], bool]:
    """A list backwards, or without its last entry."""
    ways = [way for way in places(recipe) if isinstance(_at(recipe, way), list)]
    way = ways[rng.integers(len(ways))]
    values = _at(recipe, way)
    _at(recipe, way[:-1])[way[-1]] = values[::-1] if rng.random() < 0.5 else values[:-1]
    return f"{'.'.join(map(str, way))} backwards or shorter", _dump(recipe), [], False


def _key(rng: np.random.Generator, recipe: dict[str, Any]) -> tuple[str, bytes, list[str], bool]:
    """A key with a letter less."""
    ways = [way for way in places(recipe) if isinstance(way[-1], str)]
    *parents, key = ways[rng.integers(len(ways))]
    section = _at(recipe, tuple(parents))
    section[key[:-1]] = section.pop(key)
    return f"{'.'.join(map(str, (*parents, key)))} misspelt", _dump(recipe), [], False


def _text(rng: np.random.Generator, recipe: dict[str, Any]) -> tuple[str, bytes, list[str], bool]:
    what, text = mutate_bytes(rng, _dump(recipe))
    return what, text, [], False


def _override(
    rng: np.random.Generator, recipe: dict[str, Any]
) -> tuple[str, bytes, list[str], bool]:
    ways = list(places(recipe))
    way = ways[rng.integers(len(ways))]
    key = ".".join(str(one) for one in way if not isinstance(one, int))
    text = TEXTS[rng.integers(len(TEXTS))]
    return f"--set {key} {text!r}", _dump(recipe), [key, text], False


MUTATIONS: tuple[Mutation, ...] = (_value, _number, _number, _order, _key, _text, _override)


def _at(content: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        content = content[key]
    return content


def _dump(content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None).encode()


def _train(folder: Path, text: bytes, overrides: list[str]) -> bool:
    file, output = folder / "recipe.yaml", folder / "output"
    file.write_bytes(text)
    shutil.rmtree(output, ignore_errors=True)
    arguments = ["--cfg_file", str(file), "--output_dir", str(output), "--max_steps", "1"]
    arguments += ["--epochs", "1", "--batch_size", "1", "--workers", "0", "--eval_interval"]
    # The evaluation itself comes after an epoch, which takes more than a step.
    arguments += ["1" if b"EARLY_STOPPING" in text else "0"]
    arguments += ["--device", "cpu", "--seed", "0"]
    if overrides:
        arguments += ["--set", *overrides]
    with mock.patch("nsmae_plugin.training.loggers.SummaryWriter"):  # leaves a thread behind
        return run_tool(train, arguments)
