"""Evaluate the checkpoints of a run one after the other."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.detectors.outputs import RENDERINGS, outputs_of
from nsmae_plugin.errors import CheckpointError, ConfigError
from nsmae_plugin.evaluation import checkpoints, history, prediction_loop
from nsmae_plugin.formats.nuscenes import devkit
from nsmae_plugin.runs.loaded_model import VALIDATION, data_of_split
from nsmae_plugin.runs.options import RunOptions
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training import checkpoint, run_log

POLL_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class TestOptions(RunOptions):
    """Options of :func:`test`, named as the flags of ``nsmae test``, which describe them."""

    split: str = "test"
    eval_tag: str = "default"
    eval_all: bool = False
    ckpt_dir: Path | None = None
    start_epoch: int = 0
    max_waiting_mins: float = 30
    save_to_file: bool = False
    infer_time: bool = False
    results: Path | None = None


def test(options: TestOptions) -> None:
    """Evaluate one checkpoint, or with ``eval_all`` every epoch's; or score a file of ``results``.

    Raises:
        ConfigError: the configuration cannot be evaluated, or not so.
        CheckpointError: there is no checkpoint, or it does not fit.
        DataError: from the dataset, or the split is not what the benchmark is defined on.
        NonFiniteError: a prediction is NaN or infinite.
    """
    config = load_config(options.cfg_file, options.overrides)
    _check(options, config)
    try:
        if options.results:
            print(score_file(options, config, options.results))
            return
        world = options.start_processes()
        nsmae_plugin.register()
        session = _build(options, config, world)
        if options.eval_all:
            _evaluate_all(session)
        else:
            session.evaluate(checkpoint.find(options.ckpt or options.folder / "ckpt"))
    finally:
        distributed.stop()


def score_file(options: TestOptions, config: Any, results: Path) -> str:
    """Evaluate an existing results file without running a network.

    Writes ``metrics_summary.json`` and ``metrics_details.json`` beside the file.

    Raises:
        ConfigError, DataError: the file or the split cannot be evaluated.
    """
    nsmae_plugin.register()
    detector = host.lookup("detector", config.MODEL.NAME)
    if RENDERINGS in outputs_of(detector, config.MODEL):
        raise ConfigError(f"--results is a file of boxes, but {options.cfg_file} finds no boxes")
    data = data_of_split(config.DATA_CONFIG, options.split)
    root = Path(data.DATA_PATH) / data.VERSION
    found = devkit.find(root, data.VERSION, data.DATA_SPLIT["test"])
    if not found.has_labels:
        raise ConfigError(f"{data.VERSION} has no annotations: nothing can be scored here")
    text, _ = devkit.score(found, results, results.parent)
    return text


@dataclass
class TestSession:
    """A network, the data that it is evaluated on, and where the results go."""

    options: TestOptions
    config: Any
    world: World
    logger: logging.Logger
    loader: DataLoader
    model: nn.Module

    @property
    def split(self) -> str:
        """Name of the data, in paths and records."""
        if self.options.split == VALIDATION:
            return VALIDATION
        return self.config.DATA_CONFIG.DATA_SPLIT["test"]

    def results_folder(self, name: str) -> Path:
        """Where the results of a checkpoint go; ``name`` as ``checkpoints.folder_name`` gives."""
        return self.options.folder / "eval" / name / self.split / self.options.eval_tag

    def evaluate(self, path: Path) -> dict[str, float]:
        """Load and evaluate one checkpoint; log and write the metrics.

        Raises:
            CheckpointError, ConfigError, DataError, NonFiniteError: it does not fit or cannot be
                evaluated.
        """
        options = self.options
        content = checkpoints.load(self.model, path, self.config, options.pretrained_model)
        folder = self.results_folder(checkpoints.folder_name(path))
        self.logger.info("evaluating %s on %s", path, self.split)
        how = options.save_to_file, options.infer_time
        text, metrics = prediction_loop.evaluate(self.model, self.loader, self.world, folder, *how)
        self.logger.info("%s\n%s\nresults in %s", path.name, text, folder)
        if self.world.is_main:
            place = options.folder / "eval", self.split, options.eval_tag
            history.record(*place, content.get("epoch", 0), content.get("it", 0), metrics)
        return metrics


def _check(options: TestOptions, config: Any) -> None:
    if "DATA_SPLIT" not in config.DATA_CONFIG:
        raise ConfigError("DATA_CONFIG has no DATA_SPLIT: add it")
    if config.DATA_CONFIG.DATASET == "NuScenesDataset" and options.split != "test":
        raise ConfigError(
            "OpenPCDet's NuScenesDataset evaluates the validation split only; use "
            f"DATA_CONFIG.DATASET MultiModalNuScenesDataset for --split {options.split}"
        )


def _build(options: TestOptions, config: Any, world: World) -> TestSession:
    if options.split != "test":
        config.DATA_CONFIG = data_of_split(config.DATA_CONFIG, options.split)
    folder = options.folder / "eval"
    distributed.on_main(lambda: files.make_folder(folder))
    logger = run_log.start_log(folder, f"log_eval_{datetime.now():%Y%m%d-%H%M%S}.txt", world)
    dataset, loader, _ = options.load_data(config, world, logger, training=False)
    if not hasattr(dataset, "evaluation"):
        raise ConfigError(f"the dataset {type(dataset).__name__} has no evaluation")
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).to(world.device)
    prediction_loop.check_data(dataset, model)
    return TestSession(options, config, world, logger, loader, model)


def _evaluate_all(session: TestSession) -> None:
    """Evaluate all epoch checkpoints, and wait for new ones until a timeout.

    An epoch whose results are newer than its checkpoint is left out.

    Raises:
        CheckpointError: there is no checkpoint at all, or one does not fit.
    """
    options = session.options
    folder = options.ckpt_dir or options.folder / "ckpt"
    limit = 60.0 * options.max_waiting_mins
    waited = 0.0
    while True:
        # Only rank 0 searches, so that all processes take the same file.
        path = distributed.on_main(lambda: _next(session, folder))
        if path is not None:
            session.evaluate(path)
            waited = 0.0
        elif waited >= limit:
            break
        else:
            session.logger.info("waited %.0f s for new checkpoints in %s", waited, folder)
            pause = min(POLL_SECONDS, limit - waited)
            time.sleep(pause)
            waited += pause
    if not checkpoints.epoch_checkpoints(folder, options.start_epoch):
        raise CheckpointError(
            f"{folder} holds no checkpoint_epoch_N.pth from epoch {options.start_epoch} on"
        )
    session.logger.info("all checkpoints in %s are evaluated", folder)


def _next(session: TestSession, folder: Path) -> Path | None:
    """The first checkpoint without results, or with older ones."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder of checkpoints {folder}")
    for epoch, path in checkpoints.epoch_checkpoints(folder, session.options.start_epoch).items():
        result = session.results_folder(f"epoch_{epoch}") / prediction_loop.RESULT
        if not result.is_file() or result.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return path
    return None
