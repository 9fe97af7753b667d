"""Checkpoints and weights: damaged as files, and damaged in what they say."""

from __future__ import annotations

import copy
import io
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import spconv.pytorch as spconv
import torch
from easydict import EasyDict
from safetensors.torch import save
from torch import nn

from nsmae_plugin.evaluation import checkpoints as evaluated
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.training import checkpoint, config_changes, export, run_state, transfer, weights
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import INF, JSON_JUNK, JUNK, NAN, mutate_bytes, mutate_value
from tests.helpers.toys import CONFIG, ToyDetector

LOGGER = logging.getLogger("fuzz.checkpoints")
PLAN = run_state.RunSettings(1, 2, 1, world_size=1, epochs=3, batches_per_epoch=5)
DATA = {
    "MAX_SWEEPS": 10,
    "POINT_CLOUD_RANGE": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
    "POINT_FEATURE_ENCODING": {"used_feature_list": ["x", "y", "z"]},
    "DATA_PROCESSOR": [{"NAME": "transform_points_to_voxels", "VOXEL_SIZE": [0.1, 0.1, 0.2]}],
}
MODEL = {"NAME": "Network", "VFE": {"NAME": "MeanVFE"}, "BACKBONE_3D": {"NAME": "Sparse"}}


class Network(ToyDetector):
    """Slots of a detector, one of them with a sparse convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone_3d = nn.Sequential(spconv.SubMConv3d(2, 3, 3, bias=False), nn.BatchNorm1d(3))
        self.dense_head = nn.Linear(2, 1)
        self.dataset = EasyDict(dataset_cfg=DATA, class_names=["car"])
        self.model_cfg = EasyDict(MODEL)


def new_run() -> run_state.Run:
    model, config = Network(), EasyDict(CONFIG["OPTIMIZATION"])
    optimizer = build_optimizer(model, config)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scheduler = build_scheduler(optimizer, config, 15, 5)
    return run_state.Run(model, optimizer, scheduler, scaler, run_state.Progress())


def take_step(run: run_state.Run) -> None:
    run.optimizer.zero_grad()
    sum(one.sum() for one in run.model.parameters()).backward()
    run.optimizer.step()


def good_content() -> dict[str, Any]:
    config = {"CLASS_NAMES": ["car"], "DATA_CONFIG": DATA, "MODEL": MODEL}
    facts = {"config": config, "config_tag": "toy", "host": "builtin", "precision": "float32"}
    run = new_run()
    take_step(run)
    run.progress.step = 1
    return run_state.capture(run, PLAN, {**facts, "pretrained_model": None})


def mutate_content(rng: np.random.Generator, good: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """One entry damaged, each of them as often as the others."""
    keys = list(good)
    key = keys[rng.integers(len(keys))]
    if key == "model_state" and rng.random() < 0.7:
        name, state = mutate_state(rng, good[key])
        return name, {**good, key: state}
    if isinstance(good[key], (dict, list)) and rng.random() < 0.7:
        name, damaged = mutate_value(rng, {key: good[key]})
        return name, {**{one: good[one] for one in keys if one != key}, **damaged}
    if rng.random() < 0.2:
        return f"without {key}", {one: good[one] for one in keys if one != key}
    value = JUNK[rng.integers(len(JUNK))]
    return f"{key} is {value!r}"[:80], {**good, key: value}


def mutate_state(rng: np.random.Generator, good: dict[str, Any]) -> tuple[str, dict[Any, Any]]:
    name = list(good)[rng.integers(len(good))]
    value = good[name].double()
    sparse = "backbone_3d.0.weight"
    others: list[tuple[str, dict[Any, Any]]] = [
        ("module. in front", {f"module.{one}": good[one] for one in good}),
        ("one name with module.", {**good, f"module.{name}": value}),
        ("spconv 1", {**good, sparse: good[sparse].permute(1, 2, 3, 4, 0).contiguous()}),
        (f"{name} NaN", {**good, name: torch.full_like(value, NAN)}),
        (f"{name} infinite", {**good, name: torch.full_like(value, INF)}),
        (f"{name} of another shape", {**good, name: value[..., None]}),
        (f"{name} without elements", {**good, name: value.flatten()[:0]}),
        (f"{name} double", {**good, name: value}),
        (f"{name} complex", {**good, name: value.to(torch.complex64)}),
        (f"{name} sparse", {**good, name: value.to_sparse()}),
        ("a number as name", {**good, 3: value}),
        ("None as name", {**good, None: value}),
        ("a name of two lines", {**good, "vfe.a\nb": value}),
        ("a long name", {**good, "dense_head." + "ü" * 400: value}),
        (f"without {name}", {one: good[one] for one in good if one != name}),
        ("nothing in it", {}),
    ]
    return others[rng.integers(len(others))]


def checkpoints(folder: Path) -> Draw:
    """A checkpoint that is read must be usable: a step can be taken, weights are finite."""
    good = good_content()
    config, own = good["config"], Network()
    run_folder, out = folder / "run/ckpt", folder / "out"
    run_folder.mkdir(parents=True)
    checkpoint.write(good, run_folder / "checkpoint_epoch_0.pth")
    state = good["model_state"]
    manifest = {"config": "toy", "epoch": 2, "modality": "lidar", "slots": {}}
    manifest |= {"inputs": weights.inputs_of(DATA), "model": weights.encoders_of(MODEL)}

    def restored(path: Path) -> bool:
        content, run = checkpoint.read(path), new_run()
        run_state.restore(run, PLAN, content, path)
        take_step(run)
        return all(bool(torch.isfinite(one).all()) for one in run.model.parameters())

    def compared(path: Path) -> bool:
        content = checkpoint.read(path)
        config_changes.check_resume(content, path, config, "float32", LOGGER)
        config_changes.check_use(content, path, config, LOGGER)
        return True

    readers: dict[str, Callable[[Path], bool]] = {
        "read": lambda path: bool(checkpoint.read(path)),
        "find": lambda path: checkpoint.find(path.parent).parent == path.parent,
        "names": lambda path: bool(evaluated.folder_name(path)),
        "epochs": lambda path: isinstance(evaluated.epoch_checkpoints(path.parent), dict),
        "resume": restored,
        "compare": compared,
        "evaluate": lambda path: bool(evaluated.load(copy.deepcopy(own), path, config)),
        "transfer": lambda path: bool(transfer.load_pretrained(copy.deepcopy(own), path, LOGGER)),
        "export": lambda path: bool(export.export(path, out / "w.pth", True)),
    }

    def draw(rng: np.random.Generator) -> Case:
        path = run_folder / "checkpoint_epoch_1.pth"
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        reader = list(readers)[rng.integers(len(readers))]
        kind = rng.random()
        if kind < 0.2:
            path, reader = folder / "weights.safetensors", ("transfer", "evaluate")[kind < 0.1]
            name, content = _damaged_safetensors(rng, state, manifest)
            path.write_bytes(content)
        elif kind < 0.22:
            name = "a folder"
            path.mkdir()
        else:
            name, content = _damaged_pth(rng, good)
            path.write_bytes(content)
        return Case(f"{reader}: {name}", lambda: readers[reader](path), (path.name, "run/ckpt"))

    return draw


def _damaged_pth(rng: np.random.Generator, good: dict[str, Any]) -> tuple[str, bytes]:
    legacy, of_bytes = rng.random() < 0.3, rng.random() < 0.3
    name, content = ("good", good) if of_bytes else mutate_content(rng, good)
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    if not of_bytes:
        return name, file.getvalue()
    return mutate_bytes(rng, file.getvalue())


def _damaged_safetensors(
    rng: np.random.Generator, state: dict[str, torch.Tensor], manifest: dict[str, Any]
) -> tuple[str, bytes]:
    choice = rng.random()
    if choice < 0.4:
        return mutate_bytes(rng, save(state, {"manifest": json.dumps(manifest)}))
    if choice < 0.6:
        name, text = mutate_bytes(rng, json.dumps(manifest).encode())
        return f"manifest {name}", save(state, {"manifest": text.decode("latin-1")})
    name, damaged = mutate_value(rng, manifest, JSON_JUNK)
    return name, save(state, {"manifest": json.dumps(damaged)})
