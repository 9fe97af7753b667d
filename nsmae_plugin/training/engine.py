"""The training loop: one for both hosts and for every detector with OpenPCDet's forward contract.

A *batch* is what the loader yields; a *step* is one update of the weights, from the gradients of
``accumulate_steps`` batches. In training mode a detector returns ``({'loss': loss}, tb_dict,
disp_dict)``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nsmae_plugin.errors import NonFiniteError
from nsmae_plugin.runtime import distributed, random_state, stopping
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training import feeding, run_state
from nsmae_plugin.training.keeper import Keeper
from nsmae_plugin.training.run_log import Curves, Meter, Pace
from nsmae_plugin.training.run_state import Plan, Run
from nsmae_plugin.training.update import StepRecord, read_records, update_weights

Batch = dict[str, Any]
Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Options:
    """How to train; intervals are in the unit that their name says.

    Attributes:
        clip_by_branch: camera encoder, LiDAR encoder and heads have ``grad_norm_clip`` each.
        amp_dtype: autocast to it, or None for float32. float16 scales the loss.
        max_steps: stop once this many steps are done, counted from the start of the run.
        save_epochs, save_seconds, save_steps: when to write a checkpoint; None is never. Epochs get
            a file each, the others share ``latest_model.pth``.
        eval_epochs: how often the evaluation runs; it also runs after the last epoch.
        check_steps: how often losses come to the host and are checked, which waits for the device;
            at 1, before the weights change. They are always read before anything is logged or
            saved. None: in every step on a CPU, where there is nothing to wait for, else as logged.
    """

    grad_norm_clip: float
    clip_by_branch: bool = False
    amp_dtype: torch.dtype | None = None
    max_steps: int | None = None
    log_steps: int = 50
    save_epochs: int = 1
    save_seconds: float | None = 300
    save_steps: int | None = None
    eval_epochs: int = 1
    check_steps: int | None = None


@dataclass
class Session:
    """What a process trains, and how it logs, saves and evaluates.

    Attributes:
        facts: what checkpoints tell of the run, see ``run_state.capture``.
        evaluate: metrics of the model on held-out data; says itself what they were.
        command: what goes on with the run, for the message when it is stopped.
        on_epoch: called with the number of completed epochs before every epoch.
    """

    run: Run
    plan: Plan
    options: Options
    world: World
    keeper: Keeper
    curves: Curves
    logger: logging.Logger
    facts: Mapping[str, Any]
    evaluate: Evaluate | None = None
    on_epoch: Callable[[int], None] | None = None
    command: str = "start it again"
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def stopped(self) -> bool:
        limit = self.options.max_steps
        return limit is not None and self.run.progress.step >= limit

    @property
    def check_steps(self) -> int:
        """Steps between two looks at the losses."""
        on_cpu = self.world.device.type == "cpu"
        return self.options.check_steps or (1 if on_cpu else self.options.log_steps)

    def evaluation_is_due(self) -> bool:
        """Return whether an evaluation is due after the epoch that this step has completed."""
        progress = self.run.progress
        if self.evaluate is None or progress.epoch == 0 or progress.batch_in_epoch:
            return False
        last = progress.epoch == self.plan.epochs or self.stopped
        return last or progress.epoch % self.options.eval_epochs == 0

    def look_is_due(self) -> bool:
        """Whether the losses up to the current step should be read now."""
        step, options = self.run.progress.step, self.options
        intervals = (self.check_steps, options.log_steps, options.save_steps)
        return any(every is not None and step % every == 0 for every in intervals)

    def save(self, write: Callable[[dict[str, Any]], Path]) -> None:
        """Write a checkpoint from rank 0; all processes must call together."""
        distributed.share_buffers(self.run.model)
        content = run_state.capture(self.run, self.plan, self.facts)
        if self.world.is_main:
            self.logger.info("saved %s (step %d)", write(content), self.run.progress.step)
        self.saved_at = time.monotonic()

    def leave_if_asked(self) -> None:
        """End a run whose state is saved, if any process was asked to stop; for all together.

        Raises:
            Stopped: saying where the state is, and how to go on.
        """
        if not distributed.any_process(stopping.received() is not None)[0]:
            return
        signum = next(one for one in distributed.gather(stopping.received()) if one is not None)
        message = f"stopped by {stopping.name_of(signum)} at step {self.run.progress.step}"
        if self.keeper.newest:
            message += f", saved {self.keeper.newest}"
        message += f"; to go on: {self.command}"
        raise stopping.Stopped(signum, message, told_elsewhere=not self.world.is_main)

    def save_is_due(self) -> bool:
        """Whether a checkpoint between epochs is due; all processes must call together."""
        every, seconds = self.options.save_steps, self.options.save_seconds
        if every and self.run.progress.step % every == 0:
            return True
        # Clocks differ between processes, and saving needs them all.
        due = seconds is not None and time.monotonic() - self.saved_at >= seconds
        return distributed.any_process(due)[0]


def steps_per_epoch(plan: Plan) -> int:
    """Optimiser steps of an epoch; the last one may have fewer batches than the others."""
    return math.ceil(plan.batches_per_epoch / plan.accumulate_steps)


def train(session: Session, loader: Iterable[Batch], sampler: Any) -> None:
    """Train from ``session.run.progress`` to the planned number of epochs.

    Args:
        loader: yields collated batches; iterated once per epoch.
        sampler: ``set_epoch(epoch, start)`` makes the next iteration give epoch ``epoch`` without
            its first ``start`` samples of this process.

    Raises:
        NonFiniteError: when a loss or gradient is NaN or infinite. Nothing is saved then; the
            message names the samples, the term and the last good checkpoint.
    """
    progress, plan = session.run.progress, session.plan
    if progress.epoch >= plan.epochs or session.stopped:
        session.logger.info("nothing left to train: step %d is the last", progress.step)
    distributed.bare(session.run.model).steps_per_epoch = steps_per_epoch(plan)
    launched = session.world.size > 1
    with logging_redirect_tqdm([session.logger]), stopping.deferred(launched):
        if session.evaluation_is_due() and not distributed.from_main(session.curves.evaluated):
            session.logger.info("evaluating epoch %d: no evaluation is recorded", progress.epoch)
            _evaluate(session)
        while progress.epoch < plan.epochs and not session.stopped:
            if session.on_epoch:
                session.on_epoch(progress.epoch)
            sampler.set_epoch(progress.epoch, progress.batch_in_epoch * plan.batch_size)
            try:
                train_one_epoch(session, loader)
            except NonFiniteError as error:
                message = f"{error}; {_last_good(session.keeper)}"
                raise distributed.of_all(NonFiniteError(message)) from error
            if progress.batch_in_epoch == plan.batches_per_epoch:
                _finish_epoch(session)
            else:
                session.save(session.keeper.save_latest)
            session.leave_if_asked()


def _last_good(keeper: Keeper) -> str:
    path = keeper.newest
    return f"the last good checkpoint is {path}" if path else "there is no checkpoint before it"


def _finish_epoch(session: Session) -> None:
    progress, plan, options = session.run.progress, session.plan, session.options
    progress.epoch, progress.batch_in_epoch = progress.epoch + 1, 0
    last = progress.epoch == plan.epochs or session.stopped
    if last or progress.epoch % options.save_epochs == 0:
        session.save(session.keeper.save_epoch)
    session.leave_if_asked()
    if session.evaluation_is_due():
        _evaluate(session)


def _evaluate(session: Session) -> None:
    assert session.evaluate is not None
    progress = session.run.progress
    distributed.share_buffers(session.run.model)
    # A run that is resumed from the checkpoint before it may have had it: it must leave no trace.
    with random_state.preserved_random_state(), stopping.at_once():
        values = session.evaluate(distributed.bare(session.run.model))
    session.curves.scalars("test", values, progress.step)
    session.curves.record("test", progress.epoch, progress.step, values)


def train_one_epoch(session: Session, loader: Iterable[Batch]) -> None:
    """Train to the end of the current epoch, or to the step limit."""
    run, plan, options = session.run, session.plan, session.options
    run.model.train()
    meter, pace = Meter(), Pace()
    pending: list[StepRecord] = []
    bar = tqdm(
        total=steps_per_epoch(plan),
        initial=run.progress.batch_in_epoch // plan.accumulate_steps,
        desc=f"epoch {run.progress.epoch + 1}/{plan.epochs}",
        # None: off where the output is no terminal, the log lines are enough there.
        disable=None if session.world.is_main else True,
        leave=False,
    )
    left = plan.batches_per_epoch - run.progress.batch_in_epoch
    with bar:
        groups = feeding.groups_of(pace.waiting(loader), plan.accumulate_steps, left)
        for group in feeding.until_asked_to_stop(groups):
            pending.append(_update(session, group))
            run.progress.batch_in_epoch += len(group)
            pace.step()
            bar.update()
            last = session.stopped or run.progress.batch_in_epoch == plan.batches_per_epoch
            if not last and not session.look_is_due():
                continue
            _read(session, pending, meter, bar)
            if run.progress.step % options.log_steps == 0:
                _log_training(session, meter, pace)
            if last:
                break
            if session.save_is_due():
                session.save(session.keeper.save_latest)
        _read(session, pending, meter, bar)  # of a loader that ends before the epoch does
    _log_training(session, meter, pace)


def _update(session: Session, batches: list[Batch]) -> StepRecord:
    return update_weights(
        session.run,
        batches,
        session.world.device,
        clip=session.options.grad_norm_clip,
        clip_by_branch=session.options.clip_by_branch,
        amp_dtype=session.options.amp_dtype,
        check=session.check_steps == 1,
    )


def _read(session: Session, pending: list[StepRecord], meter: Meter, bar: tqdm) -> None:
    """Take the numbers of the pending steps to the curves, the meter and the progress bar."""
    for record, terms in zip(pending, read_records(pending), strict=True):
        meter.add(terms)
        session.curves.scalars("train", terms, record.step)
        bar.set_postfix({name: f"{value:.4g}" for name, value in terms.items()}, refresh=False)
    pending.clear()


def train_step(
    run: Run, batches: list[Batch], options: Options, device: torch.device
) -> dict[str, float]:
    """One update of the weights, checked and read at once.

    Returns, raises: as :func:`~nsmae_plugin.training.update.read_records` for this step, before the
    weights change.
    """
    record = update_weights(
        run,
        batches,
        device,
        clip=options.grad_norm_clip,
        clip_by_branch=options.clip_by_branch,
        amp_dtype=options.amp_dtype,
    )
    return read_records([record])[0]


def _log_training(session: Session, meter: Meter, pace: Pace) -> None:
    values = meter.take()
    if values:
        progress, total = session.run.progress, session.plan.epochs * steps_per_epoch(session.plan)
        session.curves.record("train", progress.epoch, progress.step, values)
        words = f"{_words(values)}  {pace.report(total - progress.step)}"
        session.logger.info("step %d/%d: %s", progress.step, total, words)


def _words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
