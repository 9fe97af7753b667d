"""Metrics of the training steps for the curves, the log and the progress bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

from nsmae_plugin.training.run_log import Curves
from nsmae_plugin.training.run_state import Progress
from nsmae_plugin.training.update import Meter, StepRecord, read_records

T = TypeVar("T")


class Monitor:
    """Collects the records of an epoch's steps, which stay on the device until :meth:`read`.

    Args:
        bar: of the epoch.
        total_steps: of the whole run.
    """

    def __init__(self, curves: Curves, logger: logging.Logger, bar: tqdm, total_steps: int) -> None:
        self._curves, self._logger, self._bar = curves, logger, bar
        self._total_steps = total_steps
        self._meter, self._pending = Meter(), list[StepRecord]()
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def timing(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; measures the waiting time for each."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - before
            yield batch

    def add(self, record: StepRecord) -> None:
        """Count a step, whose numbers stay on the device."""
        self._pending.append(record)
        self._steps += 1
        self._bar.update()

    def read(self) -> None:
        """Read and check the numbers of the pending steps; all processes must call together.

        Raises:
            NonFiniteError: see :func:`~nsmae_plugin.training.update.read_records`.
        """
        for record, terms in zip(self._pending, read_records(self._pending), strict=True):
            self._meter.add(terms)
            self._curves.scalars("train", terms, record.step)
            words = {name: f"{value:.4g}" for name, value in terms.items()}
            self._bar.set_postfix(words, refresh=False)
        self._pending.clear()

    def log(self, progress: Progress) -> None:
        """Record the means since the last call, if anything was read."""
        values = self._meter.take()
        if values:
            self._curves.record("train", progress.epoch, progress.step, values)
            words = f"{_words(values)}  {self._pace(self._total_steps - progress.step)}"
            self._logger.info("step %d/%d: %s", progress.step, self._total_steps, words)

    def _pace(self, steps_left: int) -> str:
        """Seconds per step since the last call, the share spent waiting for data, time left."""
        elapsed = time.monotonic() - self._start
        seconds = elapsed / max(self._steps, 1)
        left = timedelta(seconds=round(seconds * steps_left))
        words = f"{seconds:.3g} s/step ({self._waited / elapsed:.0%} waiting for data), {left} left"
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0
        return words


def _words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
