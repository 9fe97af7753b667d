"""Train a detector: from the options of ``nsmae train`` to the training loop."""

from __future__ import annotations

import copy
import logging
import math
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config, plain
from nsmae_plugin.data.loader import EpochSampler, RestartableLoader
from nsmae_plugin.detectors.outputs import outputs_of
from nsmae_plugin.evaluation.between_epochs import build_evaluation
from nsmae_plugin.host import hooks
from nsmae_plugin.optimization import freezing, optim, rates
from nsmae_plugin.runs.loaded_model import VALIDATION, data_of_split
from nsmae_plugin.runs.options import RunOptions
from nsmae_plugin.runs.training_pictures import build_pictures
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.command_line import command_to_resume
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.runtime.random_state import FIXED_SEED, seed_everything
from nsmae_plugin.training import (
    checkpoint,
    config_changes,
    early_stopping,
    engine,
    loggers,
    run_log,
    run_state,
    transfer,
)
from nsmae_plugin.training.checkpoint_manager import CheckpointManager, to_resume
from nsmae_plugin.training.early_stopping import EarlyStopping
from nsmae_plugin.training.precision import fit_precision
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from nsmae_plugin.training.session import Evaluate, LoopOptions, Pictures, Session

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Options of :func:`train`, named as the flags of ``nsmae train``, which describe them.

    Attributes:
        epochs, accumulate_steps: None takes the configuration's.
        seed: None draws one, or takes that of the run to resume.
    """

    epochs: int | None = None
    max_steps: int | None = None
    accumulate_steps: int | None = None
    partial_weights: bool = False
    sync_bn: bool = False
    fix_random_seed: bool = False
    seed: int | None = None
    use_amp: bool = False
    amp_dtype: str = "bfloat16"
    ckpt_save_interval: int = 1
    max_ckpt_save_num: int = 30
    ckpt_save_time_interval: float = 300
    ckpt_save_step_interval: int | None = None
    logger_iter_interval: int = 50
    eval_interval: int = 1
    logger: Sequence[str] = loggers.DEFAULT


def train(options: TrainOptions, evaluate: Evaluate | None = None) -> None:
    """Train to the last epoch; a run with checkpoints in its folder is resumed.

    Args:
        evaluate: what to run between epochs, instead of what the configuration asks for.

    Raises:
        ConfigError: for options that contradict each other, the configuration or the processes.
        CheckpointError: for a checkpoint that cannot be read or does not fit.
        DataError: from the dataset.
        NonFiniteError: when a loss or gradient is NaN or infinite.
        OutputError: another process is training in the folder, or it cannot be written.
        Stopped: the process was asked to stop, and the state of the run is saved.
    """
    try:
        config = load_config(options.cfg_file, options.overrides)
        early_stopping.check(config, options.eval_interval, own_evaluation=evaluate is not None)
        loggers.require(options.logger)
        world = options.start_processes()
        nsmae_plugin.register()
        with _locked(options.folder):
            session, loader, sampler = _Setup(options, config, world).build(evaluate)
            try:
                engine.train(session, loader, sampler)
            finally:
                session.curves.close()
    finally:
        distributed.stop()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; all processes must call together."""
    message = (
        f"another process is training in {folder}, and both would overwrite each other's "
        "checkpoints: wait for its end, or give another --extra_tag"
    )
    with ExitStack() as stack:

        def take() -> None:
            files.make_folder(folder / "ckpt")
            stack.enter_context(files.held(folder / ".lock", message))

        distributed.on_main(take)
        yield


class _Setup:
    """A training as options and configuration describe it, and the run that it resumes, if any."""

    def __init__(self, options: TrainOptions, config: Any, world: World) -> None:
        self.options, self.config, self.world = options, config, world
        self.folder, self.loop = options.folder, loop_options(options, config)
        log = f"train_{datetime.now():%Y%m%d-%H%M%S}.log"
        self.logger = run_log.start_log(self.folder, log, world)
        self.logger.info("output in %s", self.folder)
        if "tensorboard" in options.logger:
            self.logger.info("curves and pictures: tensorboard --logdir %s", self.folder)
        self.source = distributed.on_main(
            lambda: to_resume(self.folder / "ckpt", options.ckpt, options.pretrained_model)
        )
        self.content = checkpoint.read(self.source) if self.source else {}
        self.seed = _choose_seed(options, self.content)
        seed_everything(self.seed, world.rank)
        self.logger.info("seed %d", self.seed)
        precision = str(self.loop.amp_dtype or torch.float32).removeprefix("torch.")
        self.facts = {
            "config": plain(config),
            "config_tag": options.cfg_file.stem,
            "host": host.NAME,
            "pretrained_model": self.content.get("pretrained_model"),
            "precision": precision,
        }
        if self.source:
            config_changes.check_resume(self.content, self.source, config, precision, self.logger)

    def build(self, evaluate: Evaluate | None) -> tuple[Session, RestartableLoader, EpochSampler]:
        """Build data, model and optimiser, and restore the run that is to be resumed."""
        dataset, loader, sampler = self.options.load_data(
            self.config, self.world, self.logger, training=True, seed=self.seed
        )
        settings = self._settings(len(loader))
        model = self._build_model(dataset)
        run = self._build_run(model, settings)
        # Only now that the run can be resumed.
        copy = self.folder / f"{self.options.cfg_file.stem}.yaml"
        distributed.on_main(lambda: run_log.write_config(self.config, copy))
        _log_settings(settings, run, self.logger)
        hook = hooks.build_hook(
            self.config.get("HOOK"), dataset, loader.restart_workers, settings.epochs, self.logger
        )
        evaluation, pictures = (evaluate, None) if evaluate else self._evaluation(model)
        session = Session(
            run=run,
            settings=settings,
            options=self.loop,
            world=self.world,
            checkpoints=CheckpointManager(
                self.folder / "ckpt", self.options.max_ckpt_save_num, self.source
            ),
            curves=self._curves(run.progress.step),
            logger=self.logger,
            facts=self.facts,
            command=command_to_resume(self.options.launcher, sys.argv),
            evaluate=evaluation,
            pictures=pictures,
            held_out=self.held_out,
            early_stopping=self._early_stopping(model),
            before_epoch=hook,
        )
        return session, loader, sampler

    def _curves(self, step: int) -> run_log.Curves:
        """The curves of the run, which the main process alone writes."""
        folder = self.folder if self.world.is_main else None
        curves = run_log.Curves(folder, step, self.options.logger)
        if step == 0:
            curves.begin(self.facts["config"], " ".join(sys.argv))
        return curves

    def _settings(self, batches: int) -> RunSettings:
        options, optimization = self.options, self.config.OPTIMIZATION
        return RunSettings(
            seed=self.seed,
            batch_size=options.batch_per_process(self.config, self.world),
            accumulate_steps=options.accumulate_steps or optimization.get("ACCUMULATE_STEPS", 1),
            world_size=self.world.size,
            epochs=options.epochs or optimization.NUM_EPOCHS,
            batches_per_epoch=batches,
        )

    def _build_model(self, dataset: Any) -> nn.Module:
        """The network, with pre-trained weights when the run begins."""
        model = host.build_network(self.config.MODEL, len(self.config.CLASS_NAMES), dataset)
        fit_precision(model.to(self.world.device), self.loop.amp_dtype)
        weights, partial = self.options.pretrained_model, self.options.partial_weights
        if weights and not self.source:
            self.facts["pretrained_model"] = str(weights.resolve())
            transfer.load_pretrained(model, weights, self.logger, partial)
        return model

    def _build_run(self, model: nn.Module, settings: RunSettings) -> Run:
        """The run at its first step, or at the step of the checkpoint to resume."""
        config = self.config.OPTIMIZATION
        optim.set_batchnorm_momentum(model, config)
        freezing.freeze(model, config, self.logger)
        optimizer = optim.build_optimizer(model, config)
        if scaled := rates.describe(rates.parameter_factors(model, config)):
            self.logger.info("learning rates as factors of LR: %s", scaled)
        steps = settings.total_steps, settings.steps_per_epoch
        scaler = torch.amp.GradScaler(
            self.world.device.type,
            init_scale=config.get("LOSS_SCALE_FP16", 2.0**16),
            enabled=self.loop.amp_dtype is torch.float16,
        )
        run = Run(
            model=distributed.wrap(model, self.world, self.options.sync_bn),
            optimizer=optimizer,
            scheduler=optim.build_scheduler(optimizer, config, *steps),
            scaler=scaler,
            progress=Progress(),
        )
        if self.source:
            run_state.restore(run, settings, self.content, self.source, self.world.rank)
            self.logger.info("RESUMED from %s: %s", self.source, run.progress)
        return run

    def _early_stopping(self, model: nn.Module) -> EarlyStopping | None:
        section = self.config.OPTIMIZATION.get("EARLY_STOPPING")
        if section is None:
            return None
        found = EarlyStopping.of(section, outputs_of(type(model), self.config.MODEL))
        before = self.content.get("early_stopping")
        if self.source and before and not found.restore(before, self.source):
            self.logger.warning("early stopping by another metric: the best is found anew")
        return found

    @property
    def held_out(self) -> str:
        """The data that is evaluated between epochs."""
        return VALIDATION if self.config.DATA_CONFIG.get("VALIDATION_FRACTION") else "test"

    def _evaluation(self, model: nn.Module) -> tuple[Evaluate | None, Pictures | None]:
        """Evaluation and pictures of the held-out data between epochs, if there is any."""
        config, validation = copy.copy(self.config), self.held_out == VALIDATION
        if validation:
            config.DATA_CONFIG = data_of_split(config.DATA_CONFIG, VALIDATION)
        data = config.DATA_CONFIG
        info_files = data.get("INFO_PATH")
        nothing_to_read = info_files is not None and not info_files.get("test")
        if self.options.eval_interval == 0 or nothing_to_read or "DATA_SPLIT" not in data:
            return None, None
        dataset, loader, _ = self.options.load_data(config, self.world, self.logger, training=False)
        name = VALIDATION if validation else data.DATA_SPLIT["test"]
        folder = self.folder / "eval" / "eval_with_train" / name
        part = "validation part" if validation else "test split"
        draw = build_pictures(model, dataset, loader, config, self.world.device)
        run = build_evaluation(model, dataset, loader, self.world, folder, self.logger, part)
        return run, draw


def _choose_seed(options: TrainOptions, content: dict[str, Any]) -> int:
    """The seed of the options, else of the run to resume, else a random one; for all processes."""
    seed = FIXED_SEED if options.seed is None and options.fix_random_seed else options.seed
    if seed is None:
        seed = content.get("plan", {}).get("seed", secrets.randbelow(2**31))
    else:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return distributed.from_main(seed)


def loop_options(options: TrainOptions, config: Any) -> LoopOptions:
    """The part of the options that concerns the training loop; OPTIMIZATION has some of it."""
    optimization = config.OPTIMIZATION
    use_amp = options.use_amp or optimization.get("USE_AMP", False)
    return LoopOptions(
        grad_norm_clip=optimization.GRAD_NORM_CLIP,
        clip_by_branch=optimization.get("CLIP_BY_BRANCH", False),
        amp_dtype=AMP_DTYPES[options.amp_dtype] if use_amp else None,
        max_steps=options.max_steps,
        log_steps=options.logger_iter_interval,
        save_epochs=options.ckpt_save_interval,
        save_seconds=options.ckpt_save_time_interval,
        save_steps=options.ckpt_save_step_interval,
        eval_epochs=options.eval_interval,
    )


def _log_settings(settings: RunSettings, run: Run, logger: logging.Logger) -> None:
    factors = settings.batch_size, settings.world_size, settings.accumulate_steps
    words = "effective batch %d = %d per process x %d processes x %d accumulated"
    logger.info(words, math.prod(factors), *factors)
    epochs, steps = settings.epochs, settings.steps_per_epoch
    logger.info("%d epochs x %d steps = %d steps", epochs, steps, settings.total_steps)
    name = type(distributed.unwrap(run.model)).__name__
    groups = run.optimizer.param_groups
    count = sum(one.numel() for group in groups for one in group["params"]) / 1e6
    words = "%s: %.2f M trained parameters, learning rate now %.3g"
    logger.info(words, name, count, groups[0]["lr"])
