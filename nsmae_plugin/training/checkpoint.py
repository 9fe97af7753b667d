"""Checkpoints in OpenPCDet's layout: written whole or not at all, read or refused.

A file holds OpenPCDet's keys ``epoch`` (epochs completed), ``it`` (optimiser steps),
``model_state``, ``optimizer_state`` and ``version``, so that stock OpenPCDet loads it; and, for an
exact resume, ``scheduler_state``, ``scaler_state``, ``random_states`` (one per process),
``batch_in_epoch`` (batches of the current epoch already used), ``plan`` (what must not change
between the parts of a run), ``config_tag`` and ``host``. It can be read with ``weights_only=True``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from nsmae_plugin import __version__, files
from nsmae_plugin.errors import CheckpointError, ConfigError
from nsmae_plugin.training import distributed, random_state
from nsmae_plugin.training.optim import Schedule

LATEST = "latest_model.pth"
SHOWN = 3  # differing keys that an error message spells out
_EPOCH_NAME = re.compile(r"checkpoint_epoch_(\d+)\.pth")
_RESUME_KEYS = ("optimizer_state", "scheduler_state", "scaler_state", "random_states", "plan")
# OpenPCDet's optimiser leaves NumPy scalars in its state; they are plain numbers, and harmless.
_SAFE_GLOBALS: list[Any] = [np.float64(0).__reduce__()[0], np.dtype, type(np.dtype(np.float64))]


@dataclass(frozen=True)
class Plan:
    """What the parts of an interrupted run must share to be one run."""

    seed: int
    batch_size: int
    accumulate_steps: int
    world_size: int
    epochs: int
    batches_per_epoch: int


@dataclass
class Progress:
    """How far a run is: completed epochs, batches used of the next one, optimiser steps."""

    epoch: int = 0
    batch_in_epoch: int = 0
    step: int = 0


@dataclass
class Run:
    """Everything that a training step changes."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Schedule
    scaler: GradScaler
    progress: Progress


def capture(run: Run, plan: Plan, config_tag: str, host: str) -> dict[str, Any]:
    """The content of a checkpoint; all processes must call together."""
    return {
        "epoch": run.progress.epoch,
        "it": run.progress.step,
        "model_state": distributed.bare(run.model).state_dict(),
        "optimizer_state": run.optimizer.state_dict(),
        "version": f"nsmae_plugin+{__version__}",
        "scheduler_state": run.scheduler.state_dict(),
        "scaler_state": run.scaler.state_dict(),
        "random_states": distributed.gather(random_state.get_random_state()),
        "batch_in_epoch": run.progress.batch_in_epoch,
        "plan": asdict(plan),
        "config_tag": config_tag,
        "host": host,
    }


def restore(run: Run, plan: Plan, content: Mapping[str, Any], source: Path, rank: int = 0) -> None:
    """Put ``run`` and the random generators back to where ``content`` was captured.

    Raises:
        CheckpointError: when the checkpoint lacks what a resume needs, belongs to another
            architecture, or was planned differently.
    """
    missing = [key for key in _RESUME_KEYS if key not in content]
    if missing:
        raise CheckpointError(
            f"{source} cannot be resumed, it holds no {', '.join(missing)} (written by "
            f"{content.get('version')}); start from its weights with --pretrained_model"
        )
    _check_plan(plan, content["plan"], source)
    load_model_state(distributed.bare(run.model), content["model_state"], source)
    try:
        run.optimizer.load_state_dict(content["optimizer_state"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the optimiser state of {source} does not fit: {error}") from error
    run.scheduler.load_state_dict(content["scheduler_state"])
    run.scaler.load_state_dict(content["scaler_state"])
    run.progress.epoch = content["epoch"]
    run.progress.batch_in_epoch = content["batch_in_epoch"]
    run.progress.step = content["it"]
    random_state.set_random_state(content["random_states"][rank])


def _check_plan(plan: Plan, saved: Mapping[str, Any], source: Path) -> None:
    now = asdict(plan)
    changed = [
        f"{name} {saved.get(name)} -> {now[name]}" for name in now if saved.get(name) != now[name]
    ]
    if changed:
        raise CheckpointError(
            f"{source} belongs to a run planned differently ({'; '.join(changed)}), so its "
            "schedule and its place in the epoch do not fit; resume with the same settings, or "
            "start a new run from its weights with --pretrained_model and another --extra_tag"
        )


def read(path: Path | str) -> dict[str, Any]:
    """Content of a checkpoint on the CPU; executes nothing that the file may hold.

    Raises:
        CheckpointError: for a missing, truncated or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    # Leaving the context takes its types off torch's list, also those that stood there before.
    allowed = torch.serialization.get_safe_globals()
    missing = [kind for kind in _SAFE_GLOBALS if kind not in allowed]
    try:
        with torch.serialization.safe_globals(missing):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling garbage raises has no common base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot read the checkpoint {path}, it may be truncated ({reason}); move it away to "
            "go on from the one before it"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), Mapping):
        raise CheckpointError(f"{path} is no checkpoint: it holds no 'model_state'")
    return content


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write ``content`` so that ``path`` is either the old file or the whole new one."""
    with files.replacing(path) as file:
        torch.save(dict(content), file)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run by modification time, or None."""
    return max(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns, default=None)


def find(path: Path | str) -> Path:
    """``path`` itself, or the newest checkpoint in it when it is a directory.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(path)
    found = latest(path) if path.is_dir() else path
    if found is None or not found.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    return found


def to_resume(folder: Path, ckpt: Path | None, pretrained: Path | None) -> Path | None:
    """Which checkpoint a run goes on from: the one asked for, else the newest of its folder.

    Args:
        folder: where the run keeps its checkpoints.
        ckpt, pretrained: ``--ckpt`` and ``--pretrained_model``.

    Raises:
        ConfigError: when both a checkpoint and pre-trained weights would start the run.
        CheckpointError: when ``ckpt`` does not exist.
    """
    if ckpt is not None and pretrained is not None:
        raise ConfigError(
            "--ckpt goes on with a run and --pretrained_model starts one from weights: give one"
        )
    found = latest(folder)
    if found is not None and pretrained is not None:
        raise ConfigError(
            f"{folder} holds checkpoints of an earlier run ({found.name}), so --pretrained_model "
            "would be overwritten by them; give another --extra_tag to start a new run, or --ckpt "
            "instead of --pretrained_model to go on"
        )
    return find(ckpt) if ckpt is not None else found


class Keeper:
    """Writes the checkpoints of a run into ``folder`` and keeps the newest of them.

    Args:
        max_kept: how many ``checkpoint_epoch_*.pth`` stay.
    """

    def __init__(self, folder: Path, max_kept: int) -> None:
        if max_kept < 1:
            raise ConfigError(f"--max_ckpt_save_num must be at least 1, not {max_kept}")
        self.folder, self.max_kept = folder, max_kept

    def save_epoch(self, content: Mapping[str, Any]) -> Path:
        """Write ``checkpoint_epoch_<epochs completed>.pth``, then remove the oldest epochs."""
        path = self.folder / f"checkpoint_epoch_{content['epoch']}.pth"
        write(content, path)
        epochs = sorted(
            (int(match[1]), one)
            for one in self.folder.iterdir()
            if (match := _EPOCH_NAME.fullmatch(one.name))
        )
        for _, old in epochs[: -self.max_kept]:
            old.unlink()
        return path

    def save_latest(self, content: Mapping[str, Any]) -> Path:
        """Write ``latest_model.pth``, replacing the one before."""
        path = self.folder / LATEST
        write(content, path)
        return path


def load_model(model: nn.Module, path: Path | str) -> dict[str, Any]:
    """Load all weights of a checkpoint file (or of the newest one in a directory) into ``model``.

    Returns:
        The content of the checkpoint.

    Raises:
        CheckpointError: when it cannot be read, or a name or shape differs.
    """
    source = find(path)
    content = read(source)
    load_model_state(model, content["model_state"], source)
    return content


def load_model_state(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load ``state`` when it has exactly the names and shapes of ``model``.

    Raises:
        CheckpointError: naming the first differences.
    """
    own = model.state_dict()
    differences = [f"{key} is missing" for key in own if key not in state]
    differences += [f"{key} is not in the model" for key in state if key not in own]
    differences += [
        f"{key} has shape {tuple(state[key].shape)}, the model {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if differences:
        raise CheckpointError(
            f"{source} belongs to another architecture than {type(model).__name__}: "
            f"{len(differences)} differences, first: {'; '.join(differences[:SHOWN])}"
        )
    model.load_state_dict(dict(state))
