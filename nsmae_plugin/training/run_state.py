"""The state of a run, written to the content of a checkpoint and restored from it.

A checkpoint holds OpenPCDet's keys ``epoch`` (epochs completed), ``it`` (optimiser steps),
``model_state``, ``optimizer_state`` and ``version``, so that stock OpenPCDet loads it; and, for an
exact resume, ``scheduler_state``, ``scaler_state``, ``random_states`` (one per process),
``batch_in_epoch`` (batches of the current epoch already used), ``plan`` (:class:`RunSettings`),
``config`` (merged, as plain containers), ``config_tag``, ``host``, ``precision`` and
``pretrained_model`` (what the run was started from, or None), and ``early_stopping`` (the best
evaluation so far) where the configuration asks for it. It holds no pickled objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from nsmae_plugin import __version__
from nsmae_plugin.errors import CheckpointError, brief
from nsmae_plugin.optimization import optim
from nsmae_plugin.optimization.optim import Schedule
from nsmae_plugin.runtime import distributed, random_state
from nsmae_plugin.training.checkpoint import COUNTS, load_model_state

# Exceptions of torch, NumPy and Python for invalid states.
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_RESUME_KEYS = ("optimizer_state", "scheduler_state", "scaler_state", "random_states", "plan")


@dataclass(frozen=True)
class RunSettings:
    """Settings that cannot change when a run resumes; ``plan`` in a checkpoint."""

    seed: int
    batch_size: int
    accumulate_steps: int
    world_size: int
    epochs: int
    batches_per_epoch: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; the last one may have fewer batches than the others."""
        return math.ceil(self.batches_per_epoch / self.accumulate_steps)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass
class Progress:
    """Progress of a run: completed epochs, batches used of the next one, optimiser steps."""

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


def capture(run: Run, settings: RunSettings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint; all processes must call together.

    Args:
        facts: further entries: ``config``, ``config_tag``, ``host``, ``precision``.
    """
    return {
        **facts,
        "epoch": run.progress.epoch,
        "it": run.progress.step,
        "model_state": distributed.unwrap(run.model).state_dict(),
        "optimizer_state": run.optimizer.state_dict(),
        "version": f"nsmae_plugin+{__version__}",
        "scheduler_state": run.scheduler.state_dict(),
        "scaler_state": run.scaler.state_dict(),
        "random_states": distributed.gather(random_state.get_random_state()),
        "batch_in_epoch": run.progress.batch_in_epoch,
        "plan": asdict(settings),
    }


def restore(
    run: Run, settings: RunSettings, content: Mapping[str, Any], source: Path, rank: int = 0
) -> None:
    """Put ``run`` and the random generators back to where ``content`` was captured.

    Learning rate, its schedule and weight decay follow the configuration that ``run`` was built
    with, at the step of ``content``: they may have changed.

    Raises:
        CheckpointError: when the checkpoint lacks what a resume needs or holds something else
            there, belongs to another architecture, or was planned differently.
    """
    wanted = (*COUNTS, *_RESUME_KEYS)
    missing = [key for key in wanted if content.get(key) is None]
    if missing:
        raise CheckpointError(
            f"{source} cannot be resumed, it holds no {', '.join(missing)} (written by "
            f"{brief(str(content.get('version')))}); start from its weights with --pretrained_model"
        )
    _check_settings(settings, content["plan"], source)
    load_model_state(distributed.unwrap(run.model), content["model_state"], source)
    try:
        _restore_optimiser(run, content)
        run.progress.epoch = content["epoch"]
        run.progress.batch_in_epoch = content["batch_in_epoch"]
        run.progress.step = content["it"]
        random_state.set_random_state(content["random_states"][rank])
    except _MISFITS as error:
        raise CheckpointError(
            f"the state of the run in {source} does not fit: {brief(error, 250)}"
        ) from error


def _restore_optimiser(run: Run, content: Mapping[str, Any]) -> None:
    groups = run.optimizer.param_groups
    rates = [{key: one for key, one in group.items() if key != "params"} for group in groups]
    schedule = run.scheduler.state_dict()
    run.optimizer.load_state_dict(content["optimizer_state"])
    _check_moments(run.optimizer)
    for group, own in zip(run.optimizer.param_groups, rates, strict=True):
        group.update(own)
    saved = content["scheduler_state"]
    counters = {key: saved[key] for key in ("last_epoch", "_step_count")}
    for key, value in counters.items():
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{key} of the schedule is {value!r}, not a count")
    run.scheduler.load_state_dict({**schedule, **counters})
    optim.set_rates(run.scheduler)
    if run.scaler.is_enabled() and content["scaler_state"]:  # empty without float16
        run.scaler.load_state_dict(content["scaler_state"])


def _check_moments(optimizer: Optimizer) -> None:
    """Refuse optimiser states on which the next step would fail or become NaN.

    Raises:
        ValueError: naming the entry.
    """
    known = set().union(*optimizer.state.values())
    for parameter, state in optimizer.state.items():
        if state.keys() != known:
            raise ValueError(f"the optimiser holds no {known - state.keys()} for some weights")
        for key, value in state.items():
            if value is None:  # the momentum of SGD without momentum
                continue
            if key != "step" and not isinstance(value, Tensor):
                raise ValueError(f"the optimiser's {key} is {type(value).__name__}, not a tensor")
            number = torch.as_tensor(value)
            shape = () if key == "step" else parameter.shape
            if number.shape != shape or not torch.isfinite(number).all():
                raise ValueError(f"the optimiser's {key} has another shape, or is not finite")
            if (key == "step" or key.endswith("_sq")) and (number < 0).any():
                raise ValueError(f"the optimiser's {key} is negative")


def _check_settings(settings: RunSettings, saved: Mapping[str, Any], source: Path) -> None:
    now = asdict(settings)
    changed = [
        f"{name} {brief(str(saved.get(name)), 40)} -> {now[name]}"
        for name in now
        if saved.get(name) != now[name]
    ]
    if changed:
        raise CheckpointError(
            f"{source} belongs to a run planned differently ({'; '.join(changed)}), so its "
            "schedule and its place in the epoch do not fit; resume with the same settings, or "
            "start a new run from its weights with --pretrained_model and another --extra_tag"
        )
