"""What a training step changes: into the content of a checkpoint, and out of it again.

A checkpoint holds OpenPCDet's keys ``epoch`` (epochs completed), ``it`` (optimiser steps),
``model_state``, ``optimizer_state`` and ``version``, so that stock OpenPCDet loads it; and, for an
exact resume, ``scheduler_state``, ``scaler_state``, ``random_states`` (one per process),
``batch_in_epoch`` (batches of the current epoch already used), ``plan`` (what must not change
between the parts of a run), ``config`` (merged, as plain containers), ``config_tag``, ``host``,
``precision`` and ``pretrained_model`` (what the run was started from, or None). Nothing in it needs
unpickling of objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from nsmae_plugin import __version__
from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.training import distributed, optim, random_state
from nsmae_plugin.training.checkpoint import COUNTS, load_model_state
from nsmae_plugin.training.optim import Schedule

_RESUME_KEYS = ("optimizer_state", "scheduler_state", "scaler_state", "random_states", "plan")


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


def capture(run: Run, plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint; all processes must call together.

    Args:
        facts: what else it tells of the run: ``config``, ``config_tag``, ``host``, ``precision``.
    """
    return {
        **facts,
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
    }


def restore(run: Run, plan: Plan, content: Mapping[str, Any], source: Path, rank: int = 0) -> None:
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
            f"{content.get('version')}); start from its weights with --pretrained_model"
        )
    _check_plan(plan, content["plan"], source)
    load_model_state(distributed.bare(run.model), content["model_state"], source)
    try:
        _restore_optimiser(run, content)
        run.progress.epoch = content["epoch"]
        run.progress.batch_in_epoch = content["batch_in_epoch"]
        run.progress.step = content["it"]
        random_state.set_random_state(content["random_states"][rank])
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"the state of the run in {source} does not fit: {error}") from error


def _restore_optimiser(run: Run, content: Mapping[str, Any]) -> None:
    groups = run.optimizer.param_groups
    rates = [{key: one for key, one in group.items() if key != "params"} for group in groups]
    schedule = run.scheduler.state_dict()
    run.optimizer.load_state_dict(content["optimizer_state"])
    for group, own in zip(run.optimizer.param_groups, rates, strict=True):
        group.update(own)
    saved = content["scheduler_state"]
    counters = {key: saved[key] for key in ("last_epoch", "_step_count")}
    run.scheduler.load_state_dict({**schedule, **counters})
    optim.set_rates(run.scheduler)
    if run.scaler.is_enabled() and content["scaler_state"]:  # empty without float16
        run.scaler.load_state_dict(content["scaler_state"])


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
