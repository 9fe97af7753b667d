"""Loggers that show a run: TensorBoard, Weights & Biases and MLflow behind one protocol."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from tensorboardX import SummaryWriter

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.command_line import RUN_LOGGER

PROJECT = "nsmae"  # of Weights & Biases, and the experiment of MLflow


class Logger(Protocol):
    """Shows the numbers, pictures and texts of one run."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by their tags."""

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Add a picture: (H, W, 3) uint8, RGB."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Add a text."""

    def config(self, config: Mapping[str, Any]) -> None:
        """Add the configuration, in plain dictionaries and lists; once, when a run begins."""

    def close(self) -> None:
        """Write what is pending."""


class TensorBoard:
    """Event files in ``<folder>/tensorboard``.

    Args:
        folder: of the run.
        step: that the run goes on from; TensorBoard hides what an earlier process wrote later.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # Files are named by the second: without the suffix, a run that is resumed at once would
        # overwrite the file that it goes on from.
        self._board = SummaryWriter(
            logdir=str(folder / "tensorboard"),
            purge_step=step + 1 if step else None,
            filename_suffix=f".step{step}" if step else "",
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._board.add_scalar(tag, value, step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        self._board.add_image(tag, picture, step, dataformats="HWC")

    def text(self, tag: str, text: str, step: int) -> None:
        self._board.add_text(tag, f"```\n{text}\n```", step)  # Markdown, as it stands

    def config(self, config: Mapping[str, Any]) -> None:
        self.text("config", as_yaml(config), 0)

    def close(self) -> None:
        self._board.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in ``<folder>/wandb``; ``WANDB_MODE=offline`` needs no account.

    A resumed run goes on under the same id. Steps that were sent before are not sent again: the
    steps of a run may only grow there.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._wandb = importlib.import_module("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(folder),
            id=_known_id(folder / "wandb_id", step) or _remember(folder / "wandb_id", new_id()),
            resume="allow",
            dir=str(folder),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        self._run.log({tag: self._wandb.Image(picture)}, step=step)

    def text(self, tag: str, text: str, step: int) -> None:
        table = self._wandb.Table(columns=["text"], data=[[text]])
        self._run.log({tag: table}, step=step)

    def config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` points to; MLflow's own default is a local
    store in the working directory.

    A resumed run goes on under the same id. Numbers that it has already are not added again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        known = _known_id(folder / "mlflow_id", step)
        if known:
            self._run = self._mlflow.start_run(run_id=known).info.run_id
        else:
            started = self._mlflow.start_run(run_name=run_name(folder))
            self._run = _remember(folder / "mlflow_id", started.info.run_id)
        self._last: dict[str, int] | None = {} if known else None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        new = {tag: value for tag, value in values.items() if step > self._last_step(tag)}
        if new:
            self._mlflow.log_metrics(new, step=step)

    def _last_step(self, tag: str) -> int:
        """The last step of a tag before this process; -1 without any."""
        if self._last is None:
            return -1
        if tag not in self._last:
            history = self._mlflow.MlflowClient().get_metric_history(self._run, tag)
            self._last[tag] = max((one.step for one in history), default=-1)
        return self._last[tag]

    def image(self, tag: str, picture: np.ndarray, step: int) -> None:
        self._mlflow.log_image(picture, f"{tag}/step_{step:07d}.png")

    def text(self, tag: str, text: str, step: int) -> None:
        self._mlflow.log_text(text, f"{tag}/step_{step:07d}.txt")

    def config(self, config: Mapping[str, Any]) -> None:
        self._mlflow.log_text(as_yaml(config), "config.yaml")

    def close(self) -> None:
        self._mlflow.end_run()


#: By the names of ``--logger``: the class, and the package to install, if it is an extra one.
LOGGERS: dict[str, tuple[Callable[[Path, int], Logger], str | None]] = {
    "tensorboard": (TensorBoard, None),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}
DEFAULT = ("tensorboard",)


def require(names: Sequence[str]) -> None:
    """Check before a run that the packages of its loggers are installed.

    Raises:
        ConfigError: naming the command that installs the missing one, or for an unknown name.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"there is no logger {name!r}, only {', '.join(LOGGERS)}")
        package = LOGGERS[name][1]
        if package is None:
            continue
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"--logger {name} needs a package ({error}): pip install {package}"
            ) from error


class Loggers:
    """Several loggers as one. One that fails is left out from then on, with a warning.

    Args:
        names: keys of :data:`LOGGERS`.
        folder: of the run.
        step: that the run goes on from, 0 for a new one.
    """

    def __init__(self, names: Sequence[str], folder: Path, step: int) -> None:
        self._open: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            start = LOGGERS[name][0]
            try:
                self._open[name] = start(folder, step)
            except Exception as error:
                _warn(name, error)

    def each(self, action: Callable[[Logger], None]) -> None:
        """Apply ``action`` to every logger that still works."""
        for name, logger in list(self._open.items()):
            try:
                action(logger)
            except Exception as error:  # a server or a full disk: the training goes on
                del self._open[name]
                _warn(name, error)


def run_name(folder: Path) -> str:
    """``tiny/nsmae_pretrain/default`` for ``output/tiny/nsmae_pretrain/default``."""
    return "/".join(folder.absolute().parts[-3:])


def as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, default_flow_style=None)


def new_id() -> str:
    return secrets.token_hex(4)


def _known_id(file: Path, step: int) -> str | None:
    """The id that an earlier process of the same run wrote down; None for a new run."""
    return file.read_text(encoding="utf-8").strip() if step and file.is_file() else None


def _remember(file: Path, run: str) -> str:
    files.write_text(file, run + "\n")
    return run


def _warn(name: str, error: Exception) -> None:
    words = "the logger %s failed and is left out from here on: %s: %s"
    summary = " ".join(str(error).split())
    logging.getLogger(RUN_LOGGER).warning(words, name, type(error).__name__, summary)
