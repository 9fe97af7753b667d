"""The training loop: one for both hosts and for every detector with OpenPCDet's forward contract.

A *batch* is what the loader yields; a *step* is one update of the weights, from the gradients of
``accumulate_steps`` batches. In training mode a detector returns ``({'loss': loss}, tb_dict,
disp_dict)``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nsmae_plugin import host
from nsmae_plugin.errors import NonFiniteError
from nsmae_plugin.training import checkpoint, distributed, random_state
from nsmae_plugin.training.checkpoint import Keeper, Plan, Run
from nsmae_plugin.training.distributed import World
from nsmae_plugin.training.run_log import Curves, Meter, Pace

Batch = dict[str, Any]
Evaluate = Callable[[nn.Module], dict[str, float]]
PARAMETERS_NAMED = 3  # in the message on a non-finite gradient
LEAST_LOSS_SCALE = 1e-4  # of float16; what overflows below it is no matter of scale


@dataclass(frozen=True)
class Options:
    """How to train; intervals are in the unit that their name says.

    Attributes:
        amp_dtype: autocast to it, or None for float32. float16 scales the loss.
        max_steps: stop once this many steps are done, counted from the start of the run.
        save_epochs, save_seconds, save_steps: when to write a checkpoint; None is never. Epochs get
            a file each, the others share ``latest_model.pth``.
        eval_epochs: how often the evaluation runs; it also runs after the last epoch.
    """

    grad_norm_clip: float
    amp_dtype: torch.dtype | None = None
    max_steps: int | None = None
    log_steps: int = 50
    save_epochs: int = 1
    save_seconds: float | None = 300
    save_steps: int | None = None
    eval_epochs: int = 1


@dataclass
class Session:
    """What a process trains, and how it logs, saves and evaluates.

    Attributes:
        evaluate: metrics of the model on held-out data; says itself what they were.
        on_epoch: called with the number of completed epochs before every epoch.
    """

    run: Run
    plan: Plan
    options: Options
    world: World
    keeper: Keeper
    curves: Curves
    logger: logging.Logger
    config_tag: str
    evaluate: Evaluate | None = None
    on_epoch: Callable[[int], None] | None = None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def stopped(self) -> bool:
        limit = self.options.max_steps
        return limit is not None and self.run.progress.step >= limit

    def save(self, write: Callable[[dict[str, Any]], Path]) -> None:
        """Write a checkpoint from rank 0; all processes must call together."""
        content = checkpoint.capture(self.run, self.plan, self.config_tag, host.NAME)
        if self.world.is_main:
            self.logger.info("saved %s (step %d)", write(content), self.run.progress.step)
        self.saved_at = time.monotonic()

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
    with logging_redirect_tqdm([session.logger]):
        while progress.epoch < plan.epochs and not session.stopped:
            if session.on_epoch:
                session.on_epoch(progress.epoch)
            sampler.set_epoch(progress.epoch, progress.batch_in_epoch * plan.batch_size)
            try:
                train_one_epoch(session, loader)
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; {_last_good(session.keeper)}") from error
            if progress.batch_in_epoch == plan.batches_per_epoch:
                _finish_epoch(session)
            else:
                session.save(session.keeper.save_latest)


def _last_good(keeper: Keeper) -> str:
    path = checkpoint.latest(keeper.folder)
    return f"the last good checkpoint is {path}" if path else "there is no checkpoint before it"


def _finish_epoch(session: Session) -> None:
    progress, plan, options = session.run.progress, session.plan, session.options
    progress.epoch, progress.batch_in_epoch = progress.epoch + 1, 0
    last = progress.epoch == plan.epochs or session.stopped
    if last or progress.epoch % options.save_epochs == 0:
        session.save(session.keeper.save_epoch)
    if session.evaluate and (last or progress.epoch % options.eval_epochs == 0):
        # A run resumed from the checkpoint above skips this evaluation: it must leave no trace.
        with random_state.preserved_random_state():
            values = session.evaluate(distributed.bare(session.run.model))
        session.curves.scalars("test", values, progress.step)
        session.curves.record("test", progress.epoch, progress.step, values)


def train_one_epoch(session: Session, loader: Iterable[Batch]) -> None:
    """Train to the end of the current epoch, or to the step limit."""
    run, plan, options = session.run, session.plan, session.options
    run.model.train()
    meter, pace = Meter(), Pace()
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
        for group in _groups(pace.waiting(loader), plan.accumulate_steps, left):
            terms = train_step(run, group, options, session.world.device)
            run.progress.batch_in_epoch += len(group)
            meter.add(terms)
            pace.step()
            bar.update()
            bar.set_postfix({name: f"{value:.4g}" for name, value in terms.items()})
            session.curves.scalars("train", terms, run.progress.step)
            if run.progress.step % options.log_steps == 0:
                _log_training(session, meter, pace)
            if session.stopped or run.progress.batch_in_epoch == plan.batches_per_epoch:
                break
            if session.save_is_due():
                session.save(session.keeper.save_latest)
    _log_training(session, meter, pace)


def _groups(loader: Iterable[Batch], size: int, left: int) -> Iterator[list[Batch]]:
    """The epoch's batches in lists of ``size``; the last list may be shorter."""
    batches = islice(loader, left)
    for first in batches:
        yield [first, *islice(batches, size - 1)]


def train_step(
    run: Run, batches: list[Batch], options: Options, device: torch.device
) -> dict[str, float]:
    """One update of the weights from the mean gradient of ``batches``.

    Equal to one batch with all the samples as far as the loss is a mean over samples; BatchNorm
    and masked means still see each batch for itself.

    Returns:
        ``loss`` and the terms of ``tb_dict``, averaged over the batches, ``lr``, and ``grad_norm``
        before clipping unless a float16 overflow made it infinite.

    Raises:
        NonFiniteError: before the weights change, in every process when it happens in one.
    """
    meter = Meter()
    run.optimizer.zero_grad(set_to_none=True)
    for position, batch in enumerate(batches):
        last = position == len(batches) - 1
        # The processes exchange gradients once per step, with the last batch.
        with nullcontext() if last else distributed.no_sync(run.model):
            meter.add(_backward(run, batch, len(batches), options, device))
    learning_rate = run.optimizer.param_groups[0]["lr"]
    norm = _update(run, batches, options)
    distributed.bare(run.model).update_global_step()
    run.progress.step += 1
    terms = {**meter.take(), "lr": learning_rate}
    return {**terms, "grad_norm": norm} if math.isfinite(norm) else terms


def _backward(
    run: Run, batch: Batch, count: int, options: Options, device: torch.device
) -> dict[str, float]:
    with torch.autocast(device.type, options.amp_dtype, enabled=options.amp_dtype is not None):
        result, terms, _ = run.model(host.to_device(batch, device))
    loss: Tensor = result["loss"].mean()
    values = {"loss": loss.item(), **{name: float(value) for name, value in terms.items()}}
    bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
    _raise_together(f"the loss is not finite: {', '.join(bad)}" if bad else None, [batch])
    run.scaler.scale(loss / count).backward()
    return values


def _raise_together(problem: str | None, batches: Iterable[Batch]) -> None:
    """Raise in every process when one has a problem: the others would wait for its gradients."""
    if not distributed.any_process(problem is not None)[0]:
        return
    frames = chain.from_iterable(batch.get("frame_id", ["unnamed"]) for batch in batches)
    mine = problem and f"{problem} for the samples {', '.join(map(str, frames))}"
    raise NonFiniteError("; ".join(one for one in distributed.gather(mine) if one))


def _update(run: Run, batches: list[Batch], options: Options) -> float:
    """Clip the gradients and step optimiser and schedule; returns the norm before clipping."""
    run.scaler.unscale_(run.optimizer)
    gradients = {
        name: parameter.grad
        for name, parameter in distributed.bare(run.model).named_parameters()
        if parameter.grad is not None
    }
    norms = torch.stack([torch.linalg.vector_norm(one) for one in gradients.values()])
    norm = torch.linalg.vector_norm(norms).item()
    finite = math.isfinite(norm)
    # Overflows are how the float16 scaler finds its scale (it skips the step), down to a point.
    excused = run.scaler.is_enabled() and run.scaler.get_scale() > LEAST_LOSS_SCALE
    _raise_together(None if finite or excused else _bad_gradients(gradients, norms), batches)
    # Not clip_grad_norm_, which would spread one bad gradient over all before it can be named.
    if finite and norm > options.grad_norm_clip:
        for gradient in gradients.values():
            gradient.mul_(options.grad_norm_clip / norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if finite and run.scheduler.last_epoch + 1 < run.scheduler.total_steps:
        run.scheduler.step()
    return norm


def _bad_gradients(gradients: Mapping[str, Tensor], norms: Tensor) -> str:
    finite = norms.isfinite().tolist()
    bad = [name for name, good in zip(gradients, finite, strict=True) if not good]
    shown = ", ".join(bad[:PARAMETERS_NAMED])
    return f"the gradient is not finite in {len(bad)} parameters ({shown})"


def _log_training(session: Session, meter: Meter, pace: Pace) -> None:
    values = meter.take()
    if values:
        progress, total = session.run.progress, session.plan.epochs * steps_per_epoch(session.plan)
        session.curves.record("train", progress.epoch, progress.step, values)
        words = f"{_words(values)}  {pace.report(total - progress.step)}"
        session.logger.info("step %d/%d: %s", progress.step, total, words)


def _words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
