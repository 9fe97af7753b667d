"""Evaluating the checkpoints of a run one after the other: what tools/test.py does."""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from nsmae_plugin import host
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.errors import CheckpointError, ConfigError
from nsmae_plugin.evaluation import checkpoints, prediction_loop
from nsmae_plugin.evaluation.history import History
from nsmae_plugin.formats.nuscenes import devkit
from nsmae_plugin.runs.prepare import data_of_split
from nsmae_plugin.runs.train import per_process_batch
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training import checkpoint, run_log

POLL_SECONDS = 30.0


@dataclass
class TestSession:
    """A network, the data that it is tried on, and where the results go.

    Attributes:
        run: folder of the run; ``<run>/eval/epoch_N/<split>/<eval_tag>`` gets the results.
    """

    args: Namespace
    config: Any
    world: World
    run: Path
    logger: logging.Logger
    dataset: Any
    loader: DataLoader
    model: nn.Module
    history: History

    @property
    def split(self) -> str:
        return self.config.DATA_CONFIG.DATA_SPLIT["test"]

    def results_folder(self, name: str) -> Path:
        """Where the results of a checkpoint go; ``name`` as ``checkpoints.folder_name`` gives."""
        return self.run / "eval" / name / self.split / self.args.eval_tag

    def evaluate(self, path: Path) -> dict[str, float]:
        """Load one checkpoint, evaluate it, log and write what came out.

        Raises:
            CheckpointError, ConfigError, DataError, NonFiniteError: it does not fit or cannot be
                evaluated.
        """
        content = checkpoints.load(self.model, path, self.config, self.args.pretrained_model)
        folder = self.results_folder(checkpoints.folder_name(path))
        self.logger.info("evaluating %s on %s", path, self.split)
        text, metrics = prediction_loop.evaluate(
            self.model,
            self.loader,
            self.world,
            folder,
            self.args.save_to_file,
            self.args.infer_time,
        )
        self.logger.info("%s\n%s\nresults in %s", path.name, text, folder)
        self.history.add(content.get("epoch", 0), content.get("it", 0), metrics)
        return metrics


def build(args: Namespace, config: Any, world: World) -> TestSession:
    """Data, network and log for the arguments of ``tools/test.py``.

    Raises:
        ConfigError: the configuration cannot be evaluated, or not so.
        DataError: from the data set, or the split is not what the benchmark is defined on.
    """
    _check(args, config)
    if args.split != "test":
        config.DATA_CONFIG = data_of_split(config.DATA_CONFIG, args.split)
    run = run_log.run_folder(args.output_dir, args.cfg_file, args.extra_tag)
    logger = _start_log(args, world, run / "eval")
    dataset, loader, _ = build_dataloader(
        config.DATA_CONFIG,
        config.CLASS_NAMES,
        per_process_batch(args, config, world),
        args.workers,
        training=False,
        rank=world.rank,
        world_size=world.size,
        logger=logger,
    )
    if not hasattr(dataset, "evaluation"):
        raise ConfigError(f"the data set {type(dataset).__name__} has no evaluation")
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).to(world.device)
    prediction_loop.check_data(dataset, model)
    split = config.DATA_CONFIG.DATA_SPLIT["test"]
    history = History(run / "eval" if world.is_main else None, split, args.eval_tag)
    return TestSession(args, config, world, run, logger, dataset, loader, model, history)


def _check(args: Namespace, config: Any) -> None:
    needed = ("DATA_SPLIT",) if args.split == "test" else ("DATA_SPLIT", "INFO_PATH")
    missing = [key for key in needed if key not in config.DATA_CONFIG]
    if missing:
        raise ConfigError(f"DATA_CONFIG has no {', '.join(missing)}: it is not known what to read")
    if config.DATA_CONFIG.DATASET == "NuScenesDataset" and args.split == "train":
        raise ConfigError(
            "OpenPCDet's NuScenesDataset evaluates the validation split only; use "
            "DATA_CONFIG.DATASET MultiModalNuScenesDataset for --split train"
        )


def _start_log(args: Namespace, world: World, folder: Path) -> logging.Logger:
    distributed.on_main(lambda: files.make_folder(folder))
    file = folder / distributed.from_main(f"log_eval_{datetime.now():%Y%m%d-%H%M%S}.txt")
    logger = run_log.create_logger(file, world.rank)
    logger.info("command: %s", " ".join(sys.argv))
    logger.info("host %s, %d x %s", host.NAME, world.size, world.device)
    return logger


def evaluate_one(session: TestSession) -> dict[str, float]:
    """Evaluate ``--ckpt`` (file or folder), by default the newest checkpoint of the run.

    Raises:
        CheckpointError: there is none, or it does not fit.
    """
    return session.evaluate(checkpoint.find(session.args.ckpt or session.run / "ckpt"))


def evaluate_all(session: TestSession) -> None:
    """Evaluate every epoch's checkpoint, and those that appear until none has for a while.

    An epoch whose results are newer than its checkpoint is left out.

    Raises:
        CheckpointError: there is no checkpoint at all, or one does not fit.
    """
    folder = session.args.ckpt_dir or session.run / "ckpt"
    limit = 60.0 * session.args.max_waiting_mins
    waited = 0.0
    while True:
        # Rank 0 alone looks, so that all go on with the same file.
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
    if not checkpoints.epoch_checkpoints(folder, session.args.start_epoch):
        raise CheckpointError(
            f"{folder} holds no checkpoint_epoch_N.pth from epoch {session.args.start_epoch} on"
        )
    session.logger.info("all checkpoints in %s are evaluated", folder)


def _next(session: TestSession, folder: Path) -> Path | None:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder of checkpoints {folder}")
    for epoch, path in checkpoints.epoch_checkpoints(folder, session.args.start_epoch).items():
        result = session.results_folder(f"epoch_{epoch}") / prediction_loop.RESULT
        if not result.is_file() or result.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return path
    return None


def score_file(args: Namespace, config: Any, results: Path) -> str:
    """Text of the benchmark for a results file from anywhere; no network runs.

    Writes ``metrics_summary.json`` and ``metrics_details.json`` beside the file.

    Raises:
        ConfigError, DataError: the file or the split cannot be evaluated.
    """
    _check(args, config)
    if config.MODEL.NAME == "NSMAE":
        raise ConfigError(f"--results is a file of boxes, but {args.cfg_file} finds no boxes")
    data = data_of_split(config.DATA_CONFIG, args.split)
    root = Path(data.DATA_PATH) / data.VERSION
    found = devkit.find(root, data.VERSION, data.DATA_SPLIT["test"])
    if not found.has_labels:
        raise ConfigError(f"{data.VERSION} has no annotations: nothing can be scored here")
    text, _ = devkit.score(found, results, results.parent)
    return text
