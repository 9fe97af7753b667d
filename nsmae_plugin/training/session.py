"""The state of a training process, and when it logs, saves, evaluates and stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nsmae_plugin.errors import NonFiniteError
from nsmae_plugin.runtime import distributed, random_state, stopping
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training import run_state
from nsmae_plugin.training.checkpoint_manager import BEST, CheckpointManager
from nsmae_plugin.training.early_stopping import EarlyStopping
from nsmae_plugin.training.monitor import Monitor
from nsmae_plugin.training.run_log import Curves
from nsmae_plugin.training.run_state import Run, RunSettings
from nsmae_plugin.training.update import StepRecord

Evaluate = Callable[[nn.Module], dict[str, float]]
Pictures = Callable[[nn.Module], Mapping[str, np.ndarray]]  # (H, W, 3) uint8, by tag


@dataclass(frozen=True)
class LoopOptions:
    """Options of the training loop; names of intervals state their units.

    Attributes:
        clip_by_branch: camera encoder, LiDAR encoder and heads have ``grad_norm_clip`` each.
        amp_dtype: autocast to it, or None for float32. float16 scales the loss.
        max_steps: stop once this many steps are done, counted from the start of the run.
        save_epochs, save_seconds, save_steps: when to write a checkpoint; None is never. Epochs get
            a file each, the others share ``latest_model.pth``.
        eval_epochs: how often the evaluation runs; it also runs after the last epoch.
        check_steps: how often losses are read from the device and checked, which waits for it; at
            1, before the weights change. They are always read before anything is logged or saved.
            None: in every step on a CPU, where there is nothing to wait for, else as logged.
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
    """State of a training process: run, settings, logging, checkpoints and evaluation.

    Attributes:
        facts: what checkpoints record about the run, see ``run_state.capture``.
        evaluate: metrics of the model on held-out data; logs them itself.
        pictures: of a held-out sample, drawn after every evaluation by the main process.
        held_out: ``test`` or ``validation``, the name of that data in curves and records.
        early_stopping: follows the evaluations; None keeps no best checkpoint.
        before_epoch: called with the number of completed epochs before every epoch.
        command: continues the run, for the message when it is stopped.
    """

    run: Run
    settings: RunSettings
    options: LoopOptions
    world: World
    checkpoints: CheckpointManager
    curves: Curves
    logger: logging.Logger
    facts: Mapping[str, Any]
    evaluate: Evaluate | None = None
    pictures: Pictures | None = None
    held_out: str = "test"
    early_stopping: EarlyStopping | None = None
    before_epoch: Callable[[int], None] | None = None
    command: str = "start it again"
    saved_at: float = field(default_factory=time.monotonic)

    # ---- progress

    @property
    def at_step_limit(self) -> bool:
        limit = self.options.max_steps
        return limit is not None and self.run.progress.step >= limit

    @property
    def finished(self) -> bool:
        stopped = self.early_stopping is not None and self.early_stopping.stops
        return stopped or self.run.progress.epoch >= self.settings.epochs or self.at_step_limit

    @property
    def batches_left(self) -> int:
        """Batches of the current epoch that have not been used."""
        return self.settings.batches_per_epoch - self.run.progress.batch_in_epoch

    @property
    def epoch_is_over(self) -> bool:
        return self.batches_left <= 0 or self.at_step_limit

    @property
    def check_steps(self) -> int:
        """Steps between two checks of the losses."""
        on_cpu = self.world.device.type == "cpu"
        return self.options.check_steps or (1 if on_cpu else self.options.log_steps)

    # ---- the course of an epoch

    def start_epoch(self, sampler: Any) -> None:
        progress = self.run.progress
        if self.before_epoch:
            self.before_epoch(progress.epoch)
        sampler.set_epoch(progress.epoch, progress.batch_in_epoch * self.settings.batch_size)
        self.run.model.train()

    @contextmanager
    def monitoring(self) -> Iterator[Monitor]:
        """A monitor of the epoch's steps; those that are left are read and logged at its end."""
        progress, settings = self.run.progress, self.settings
        bar = tqdm(
            total=settings.steps_per_epoch,
            initial=progress.batch_in_epoch // settings.accumulate_steps,
            desc=f"epoch {progress.epoch + 1}/{settings.epochs}",
            # None: off where the output is no terminal, the log lines are enough there.
            disable=None if self.world.is_main else True,
            leave=False,
        )
        with bar:
            monitor = Monitor(self.curves, self.logger, bar, settings.total_steps)
            yield monitor
            monitor.read()
        monitor.log(progress)

    def after_step(self, record: StepRecord, monitor: Monitor) -> None:
        """Read, log and save what is due; all processes must call together."""
        monitor.add(record)
        if self.epoch_is_over or not self._read_is_due():
            return
        monitor.read()
        if self.run.progress.step % self.options.log_steps == 0:
            monitor.log(self.run.progress)
        if self._save_is_due():
            self._save(self.checkpoints.save_latest)

    def finish_epoch(self) -> None:
        """Save and evaluate; also where the epoch was not completed.

        Raises:
            Stopped: a process was asked to stop; the message says how to continue the run.
        """
        progress = self.run.progress
        complete = self.batches_left <= 0
        if not complete:
            self._save(self.checkpoints.save_latest)
            self._leave_if_asked()
            return
        progress.epoch, progress.batch_in_epoch = progress.epoch + 1, 0
        saved = self.finished or progress.epoch % self.options.save_epochs == 0
        if saved:
            self._save(self.checkpoints.save_epoch)
        self._leave_if_asked()
        if self._evaluation_is_due():
            self._evaluate()
        if self.finished and not saved:  # stopped early
            self._save(self.checkpoints.save_epoch)

    def catch_up_evaluation(self) -> None:
        """Take in the evaluation after the step that a run resumes from; repeat a missing one."""
        recorded = distributed.from_main(self.curves.evaluated)
        if recorded is not None:
            self._follow(recorded)
        elif self._evaluation_is_due():
            epoch = self.run.progress.epoch
            self.logger.info("evaluating epoch %d: no evaluation is recorded", epoch)
            self._evaluate()

    def report_best(self) -> None:
        """Log the best evaluation of the run, if it is known."""
        best = self.early_stopping.best if self.early_stopping else None
        if best and best.value is not None:
            self.logger.info("best: %s, in %s", best, self.checkpoints.folder / BEST)

    def with_last_good_checkpoint(self, error: NonFiniteError) -> NonFiniteError:
        """The same error for all processes, naming the checkpoint to go back to."""
        path = self.checkpoints.newest
        known = (
            f"the last good checkpoint is {path}" if path else "there is no checkpoint before it"
        )
        message = f"{error}; {known}"
        return distributed.of_all(NonFiniteError(message))  # type: ignore[return-value]

    # ---- what is due

    def _read_is_due(self) -> bool:
        """Return whether the losses up to the current step should be read now."""
        step, options = self.run.progress.step, self.options
        intervals = (self.check_steps, options.log_steps, options.save_steps)
        return any(every is not None and step % every == 0 for every in intervals)

    def _save_is_due(self) -> bool:
        """Return whether a checkpoint between epochs is due; all processes must call together."""
        every, seconds = self.options.save_steps, self.options.save_seconds
        if every and self.run.progress.step % every == 0:
            return True
        # Clocks differ between processes, but all must save together.
        due = seconds is not None and time.monotonic() - self.saved_at >= seconds
        return distributed.any_process(due)[0]

    def _evaluation_is_due(self) -> bool:
        """Return whether an evaluation is due after the epoch that this step has completed."""
        progress = self.run.progress
        if self.evaluate is None or progress.epoch == 0 or progress.batch_in_epoch:
            return False
        return self.finished or progress.epoch % self.options.eval_epochs == 0

    # ---- for all processes together

    def _save(self, write: Callable[[dict[str, Any]], Path]) -> None:
        """Write a checkpoint from rank 0."""
        distributed.share_buffers(self.run.model)
        early = {"early_stopping": self.early_stopping.state()} if self.early_stopping else {}
        content = run_state.capture(self.run, self.settings, {**self.facts, **early})
        if self.world.is_main:
            self.logger.info("saved %s (step %d)", write(content), self.run.progress.step)
        self.saved_at = time.monotonic()

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        progress = self.run.progress
        distributed.share_buffers(self.run.model)
        # A run resumed from the checkpoint before may have evaluated: it must leave no trace.
        with random_state.preserved_random_state(), stopping.at_once():
            values = self.evaluate(distributed.unwrap(self.run.model))
        self._follow(distributed.from_main(values))
        self.curves.scalars(self.held_out, values, progress.step)
        self.curves.record(self.held_out, progress.epoch, progress.step, values)
        if self.pictures is not None and self.world.is_main:
            self._show(self.pictures)

    def _show(self, pictures: Pictures) -> None:
        """Draw the network's predictions for the loggers; after a failure, no more."""
        try:
            with random_state.preserved_random_state():
                drawn = pictures(distributed.unwrap(self.run.model))
        except Exception as error:  # the training itself is sound
            words = "no more pictures, as drawing failed: %s: %s"
            self.logger.warning(words, type(error).__name__, " ".join(str(error).split()))
            self.pictures = None
            return
        for tag, picture in drawn.items():
            self.curves.image(tag, picture, self.run.progress.step)

    def _follow(self, values: Mapping[str, float]) -> None:
        """Save the network if the evaluation is the best so far."""
        early, progress = self.early_stopping, self.run.progress
        if early is None:
            return
        if early.update(values, progress.epoch, progress.step):
            self._save(self.checkpoints.save_best)
        elif early.stops:
            words = "early stopping: the last %d evaluations were not better than %s"
            self.logger.info(words, early.best.without_progress, early.best)

    def _leave_if_asked(self) -> None:
        """End a run whose state is saved, if any process was asked to stop.

        Raises:
            Stopped: saying where the state is, and how to continue.
        """
        if not distributed.any_process(stopping.received() is not None)[0]:
            return
        signum = next(one for one in distributed.gather(stopping.received()) if one is not None)
        message = f"stopped by {stopping.name_of(signum)} at step {self.run.progress.step}"
        if self.checkpoints.newest:
            message += f", saved {self.checkpoints.newest}"
        message += f"; to go on: {self.command}"
        raise stopping.Stopped(signum, message, told_elsewhere=not self.world.is_main)
