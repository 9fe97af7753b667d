"""What a run writes beside its checkpoints: log file, effective configuration, curves."""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import yaml
from tensorboardX import SummaryWriter

from nsmae_plugin.config.load import plain
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.command_line import RUN_LOGGER
from nsmae_plugin.training import metrics_file

T = TypeVar("T")
FORMAT = "%(asctime)s  %(levelname)5s  %(message)s"


def run_folder(root: Path, config_file: Path, extra_tag: str) -> Path:
    """``root/<group>/<config>/<extra_tag>``, the group being the folders below ``cfgs``.

    ``cfgs/tiny/lidar.yaml`` -> ``root/tiny/lidar/<extra_tag>``; a file outside any ``cfgs`` has no
    group.
    """
    folders = config_file.parent.parts
    group: tuple[str, ...] = ()
    if "cfgs" in folders:
        last = len(folders) - 1 - folders[::-1].index("cfgs")
        group = folders[last + 1 :]
    return root.joinpath(*group, config_file.stem, extra_tag)


def create_logger(
    file: Path | None = None, rank: int = 0, name: str = RUN_LOGGER
) -> logging.Logger:
    """Logger to the console and to ``file``; other ranks than 0 only pass warnings on.

    Of those, the file gets the errors alone, see :func:`nsmae_plugin.runtime.command_line.report`.
    """
    logger = logging.getLogger(name)
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if file is not None:
        with files.output_errors(file):
            handlers.append(logging.FileHandler(file, encoding="utf-8", delay=rank > 0))
        handlers[-1].setLevel(logging.INFO if rank == 0 else logging.ERROR)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    return logger


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Write the merged configuration as YAML that ``load_config`` reads without any base file."""
    text = yaml.safe_dump(plain(config), sort_keys=False, default_flow_style=None)
    files.write_text(path, text)


class Curves:
    """TensorBoard scalars, and ``metrics.jsonl`` with one record a line.

    A record is ``{"epoch", "step", "split", ...values}``: epochs and optimiser steps done, split
    ``train`` (means since the previous record) or ``test``.

    Args:
        folder: the run's directory; None writes nothing, for the ranks that do not log.
        step: steps done so far. What a killed run wrote after its last checkpoint is taken out, as
            the resumed run writes it again.

    Attributes:
        evaluated: there is a record of the test split for ``step``.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self._board: SummaryWriter | None = None
        self.evaluated = False
        if folder is None:
            return
        self._board = SummaryWriter(
            logdir=str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )
        self._file = folder / "metrics.jsonl"
        records = metrics_file.rewrite(self._file, lambda one: one["step"] <= step)
        self.evaluated = any((one["step"], one.get("split")) == (step, "test") for one in records)

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Add ``prefix/name`` to TensorBoard for every value."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{prefix}/{name}", value, step)

    def record(self, split: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Append one record to ``metrics.jsonl``."""
        if self._board is not None:
            facts = {"epoch": epoch, "step": step, "split": split}
            metrics_file.append(self._file, {**facts, **values})

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


class Meter:
    """Means of named numbers."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._values[name].append(value)

    def take(self) -> dict[str, float]:
        """Means since the last call, which empties the meter."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values.clear()
        return means


class Pace:
    """Seconds per step, and the share of them spent waiting for data, since the last report."""

    def __init__(self) -> None:
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, timing how long each one takes to come."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - before
            yield batch

    def step(self) -> None:
        self._steps += 1

    def report(self, steps_left: int) -> str:
        """Words for a log line; starts anew."""
        elapsed = time.monotonic() - self._start
        seconds = elapsed / max(self._steps, 1)
        left = timedelta(seconds=round(seconds * steps_left))
        words = f"{seconds:.3g} s/step ({self._waited / elapsed:.0%} waiting for data), {left} left"
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0
        return words
