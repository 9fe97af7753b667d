"""Train a detector: from the options of tools/train.py to the training loop."""

from __future__ import annotations

import logging
import math
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config, plain
from nsmae_plugin.data.loader import EpochSampler, RestartableLoader, build_dataloader
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.evaluation.between_epochs import build_evaluation
from nsmae_plugin.host import hooks
from nsmae_plugin.optimization import optim
from nsmae_plugin.runs.options import RunOptions
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.command_line import command_to_resume
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.runtime.random_state import FIXED_SEED, seed_everything
from nsmae_plugin.training import checkpoint, config_changes, engine, run_log, run_state, transfer
from nsmae_plugin.training.checkpoint_manager import CheckpointManager, to_resume
from nsmae_plugin.training.precision import fit_precision
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from nsmae_plugin.training.session import Evaluate, LoopOptions, Session

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Options of :func:`train`, named as the flags of tools/train.py, which describe them.

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
        world = options.start_processes()
        nsmae_plugin.register()
        with _locked(options.folder):
            session, loader, sampler = _build(options, config, world, evaluate)
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


def _build(
    options: TrainOptions, config: Any, world: World, evaluate: Evaluate | None
) -> tuple[Session, RestartableLoader, EpochSampler]:
    """Build data, model and optimiser, and restore the run that is to be resumed."""
    folder, loop = options.folder, _loop_options(options, config)
    logger = run_log.start_log(folder, f"train_{datetime.now():%Y%m%d-%H%M%S}.log", world)
    logger.info("output in %s", folder)
    source = distributed.on_main(
        lambda: to_resume(folder / "ckpt", options.ckpt, options.pretrained_model)
    )
    content = checkpoint.read(source) if source else {}
    seed = _choose_seed(options, content)
    seed_everything(seed, world.rank)
    logger.info("seed %d", seed)
    facts = _facts(options, config, loop.amp_dtype, content)
    if source:
        config_changes.check_resume(content, source, config, facts["precision"], logger)
    load = _loader_builder(options, config, world, logger)
    dataset, loader, sampler = load(training=True, seed=seed)
    settings = _run_settings(options, config, world, seed, len(loader))
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).to(world.device)
    fit_precision(model, loop.amp_dtype)
    if options.pretrained_model and not source:
        facts["pretrained_model"] = str(options.pretrained_model.resolve())
        transfer.load_pretrained(model, options.pretrained_model, logger, options.partial_weights)
    run = _build_run(model, config, world, settings, loop.amp_dtype, options.sync_bn)
    if source:
        run_state.restore(run, settings, content, source, world.rank)
        logger.info("RESUMED from %s: %s", source, run.progress)
    # Only now, when it is certain that the run can be resumed.
    copy = folder / f"{options.cfg_file.stem}.yaml"
    distributed.on_main(lambda: run_log.write_config(config, copy))
    _log_settings(settings, run, logger)
    hook = hooks.build_hook(
        config.get("HOOK"), dataset, loader.restart_workers, settings.epochs, logger
    )
    session = Session(
        run=run,
        settings=settings,
        options=loop,
        world=world,
        checkpoints=CheckpointManager(folder / "ckpt", options.max_ckpt_save_num, source),
        curves=run_log.Curves(folder if world.is_main else None, run.progress.step),
        logger=logger,
        facts=facts,
        command=command_to_resume(options.launcher, sys.argv),
        evaluate=evaluate or _evaluation(options, config, world, model, load, logger),
        before_epoch=hook,
    )
    return session, loader, sampler


def _facts(
    options: TrainOptions, config: Any, amp_dtype: torch.dtype | None, content: dict[str, Any]
) -> dict[str, Any]:
    """The entries of checkpoints that describe the run."""
    return {
        "config": plain(config),
        "config_tag": options.cfg_file.stem,
        "host": host.NAME,
        "pretrained_model": content.get("pretrained_model"),
        "precision": str(amp_dtype or torch.float32).removeprefix("torch."),
    }


def _loader_builder(
    options: TrainOptions, config: Any, world: World, logger: logging.Logger
) -> Callable[..., Any]:
    """:func:`~nsmae_plugin.data.loader.build_dataloader` for this process; takes the split."""
    return partial(
        build_dataloader,
        config.DATA_CONFIG,
        config.CLASS_NAMES,
        options.batch_per_process(config, world),
        options.workers,
        rank=world.rank,
        world_size=world.size,
        logger=logger,
    )


def _choose_seed(options: TrainOptions, content: dict[str, Any]) -> int:
    """The seed of the options, else of the run to resume, else a random one; for all processes."""
    seed = FIXED_SEED if options.seed is None and options.fix_random_seed else options.seed
    if seed is None:
        seed = content.get("plan", {}).get("seed", secrets.randbelow(2**31))
    else:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return distributed.from_main(seed)


def _run_settings(
    options: TrainOptions, config: Any, world: World, seed: int, batches: int
) -> RunSettings:
    accumulate = options.accumulate_steps or config.OPTIMIZATION.get("ACCUMULATE_STEPS", 1)
    epochs = config.OPTIMIZATION.NUM_EPOCHS if options.epochs is None else options.epochs
    for name, value in (("ACCUMULATE_STEPS", accumulate), ("NUM_EPOCHS", epochs)):
        if value < 1:
            raise ConfigError(f"OPTIMIZATION.{name} must be at least 1, not {value}")
    return RunSettings(
        seed=seed,
        batch_size=options.batch_per_process(config, world),
        accumulate_steps=accumulate,
        world_size=world.size,
        epochs=epochs,
        batches_per_epoch=batches,
    )


def _loop_options(options: TrainOptions, config: Any) -> LoopOptions:
    use_amp = options.use_amp or config.OPTIMIZATION.get("USE_AMP", False)
    return LoopOptions(
        grad_norm_clip=config.OPTIMIZATION.GRAD_NORM_CLIP,
        clip_by_branch=config.OPTIMIZATION.get("CLIP_BY_BRANCH", False),
        amp_dtype=AMP_DTYPES[options.amp_dtype] if use_amp else None,
        max_steps=options.max_steps,
        log_steps=options.logger_iter_interval,
        save_epochs=options.ckpt_save_interval,
        save_seconds=options.ckpt_save_time_interval,
        save_steps=options.ckpt_save_step_interval,
        eval_epochs=options.eval_interval,
    )


def _build_run(
    model: nn.Module,
    config: Any,
    world: World,
    settings: RunSettings,
    amp_dtype: torch.dtype | None,
    sync_bn: bool,
) -> Run:
    optimization = config.OPTIMIZATION
    optim.set_batchnorm_momentum(model, optimization)
    optimizer = optim.build_optimizer(model, optimization)
    scaler = torch.amp.GradScaler(
        world.device.type,
        init_scale=optimization.get("LOSS_SCALE_FP16", 2.0**16),
        enabled=amp_dtype is torch.float16,
    )
    return Run(
        model=distributed.wrap(model, world, sync_bn),
        optimizer=optimizer,
        scheduler=optim.build_scheduler(
            optimizer, optimization, settings.total_steps, settings.steps_per_epoch
        ),
        scaler=scaler,
        progress=Progress(),
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


def _evaluation(
    options: TrainOptions,
    config: Any,
    world: World,
    model: nn.Module,
    load: Callable[..., Any],
    logger: logging.Logger,
) -> Evaluate | None:
    """Evaluation of the test split between epochs, if there is one."""
    data = config.DATA_CONFIG
    info_files = data.get("INFO_PATH")
    nothing_to_read = info_files is not None and not info_files.get("test")
    if options.eval_interval == 0 or nothing_to_read or "DATA_SPLIT" not in data:
        return None
    dataset, loader, _ = load(training=False, seed=0)
    folder = options.folder / "eval" / "eval_with_train" / data.DATA_SPLIT["test"]
    return build_evaluation(model, dataset, loader, world, folder, logger)
