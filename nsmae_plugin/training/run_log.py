"""Files of a run besides its checkpoints: log, effective configuration, curves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nsmae_plugin import host
from nsmae_plugin.config.load import plain
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.command_line import RUN_LOGGER
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training import loggers, metrics_file

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


def create_logger(file: Path, rank: int) -> logging.Logger:
    """Logger to the console and to ``file``; other ranks than 0 only pass warnings on.

    Of those, the file gets the errors alone, see :func:`nsmae_plugin.runtime.command_line.report`.
    """
    logger = logging.getLogger(RUN_LOGGER)
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    with files.output_errors(file):
        to_file = logging.FileHandler(file, encoding="utf-8", delay=rank > 0)
    to_file.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    for handler in (logging.StreamHandler(sys.stdout), to_file):
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    return logger


def start_log(folder: Path, name: str, world: World) -> logging.Logger:
    """Logger of a run, to rank 0's ``name`` in ``folder``; its first lines describe the process.

    All processes must call together.
    """
    logger = create_logger(folder / distributed.from_main(name), world.rank)
    logger.info("command: %s", " ".join(sys.argv))
    logger.info("host %s, %d x %s", host.NAME, world.size, world.device)
    return logger


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Write the merged configuration as YAML that ``load_config`` reads without any base file."""
    text = yaml.safe_dump(plain(config), sort_keys=False, default_flow_style=None)
    files.write_text(path, text)


class Curves:
    """The loggers of a run, and ``metrics.jsonl`` with one record a line.

    A record is ``{"epoch", "step", "split", ...values}``: epochs and optimiser steps done, split
    ``train`` (means since the previous record), ``validation`` or ``test``.

    Args:
        folder: the run's directory; None writes nothing, for the ranks that do not log.
        step: steps done so far. What a killed run wrote after its last checkpoint is taken out, as
            the resumed run writes it again.
        names: of the loggers, see :data:`nsmae_plugin.training.loggers.LOGGERS`.

    Attributes:
        evaluated: the record of an evaluation after ``step``, if there is one.
    """

    def __init__(
        self, folder: Path | None, step: int = 0, names: Sequence[str] = loggers.DEFAULT
    ) -> None:
        self._file: Path | None = None
        self.evaluated: metrics_file.Record | None = None
        self._loggers = loggers.Loggers(names if folder else (), folder or Path(), step)
        if folder is None:
            return
        self._file = folder / "metrics.jsonl"
        records = metrics_file.rewrite(self._file, lambda one: one["step"] <= step)
        for one in records:
            if one["step"] == step and one.get("split") in ("validation", "test"):
                self.evaluated = one

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Show ``prefix/name`` for every value."""
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        self._loggers.each(lambda logger: logger.scalars(named, step))

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Show a picture, (H, W, 3) uint8."""
        self._loggers.each(lambda logger: logger.image(tag, picture, step))

    def begin(self, config: Mapping[str, Any], command: str) -> None:
        """Show the configuration and the command of a run that begins."""
        self._loggers.each(lambda logger: logger.config(config))
        self._loggers.each(lambda logger: logger.text("command", command, 0))

    def record(self, split: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Append one record to ``metrics.jsonl``."""
        if self._file is not None:
            facts = {"epoch": epoch, "step": step, "split": split}
            metrics_file.append(self._file, {**facts, **values})

    def close(self) -> None:
        self._loggers.each(lambda logger: logger.close())
