"""From a configuration and command-line arguments to a session that can train."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from nsmae_plugin import host
from nsmae_plugin.config.load import plain
from nsmae_plugin.data.loader import EpochSampler, build_dataloader
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.evaluation import prediction_loop, reconstruction
from nsmae_plugin.evaluation.reconstruction_table import format_table
from nsmae_plugin.host import hooks
from nsmae_plugin.optimization import optim
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.runtime.random_state import FIXED_SEED, seed_everything
from nsmae_plugin.training import checkpoint, run_log, run_state, settings, transfer
from nsmae_plugin.training.checkpoint_manager import CheckpointManager, to_resume
from nsmae_plugin.training.precision import fit_precision
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from nsmae_plugin.training.session import Evaluate, LoopOptions, Session

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def build(args: Namespace, config: Any, world: World) -> tuple[Session, DataLoader, EpochSampler]:
    """Session, loader and sampler for ``engine.train``; resumes or loads weights when asked to.

    Args:
        args: of ``tools/train.py``.
        config: as ``load_config`` gives it.

    Raises:
        ConfigError: for arguments that contradict each other, the configuration or the world.
        CheckpointError: for a checkpoint that cannot be read or does not fit.
        DataError: from the data set.
    """
    folder = folder_of(args)
    logger = _start_log(world, folder)
    source = distributed.on_main(
        lambda: to_resume(folder / "ckpt", args.ckpt, args.pretrained_model)
    )
    content = checkpoint.read(source) if source else {}
    seed = _choose_seed(args, content)
    seed_everything(seed, world.rank)
    logger.info("seed %d", seed)
    facts = {
        "config": plain(config),
        "config_tag": args.cfg_file.stem,
        "host": host.NAME,
        "pretrained_model": content.get("pretrained_model"),
        "precision": str(_amp_dtype(args, config) or torch.float32).removeprefix("torch."),
    }
    if source:
        settings.check_resume(content, source, config, facts["precision"], logger)
    batch_size = per_process_batch(args, config, world)
    load = partial(
        build_dataloader,
        config.DATA_CONFIG,
        config.CLASS_NAMES,
        batch_size,
        args.workers,
        rank=world.rank,
        world_size=world.size,
        logger=logger,
    )
    dataset, loader, sampler = load(training=True, seed=seed)
    plan = _make_plan(args, config, world, seed, batch_size, len(loader))
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).to(world.device)
    fit_precision(model, _amp_dtype(args, config))
    if args.pretrained_model and not source:
        facts["pretrained_model"] = str(args.pretrained_model.resolve())
        transfer.load_pretrained(model, args.pretrained_model, logger, args.partial_weights)
    run = _make_run(args, config, world, plan, model)
    if source:
        run_state.restore(run, plan, content, source, world.rank)
        logger.info("RESUMED from %s: %s", source, run.progress)
    # Only now, when the run is known to go on with it.
    distributed.on_main(lambda: run_log.write_config(config, folder / f"{args.cfg_file.stem}.yaml"))
    _log_plan(plan, run, logger)
    session = Session(
        run=run,
        settings=plan,
        options=_make_options(args, config),
        world=world,
        checkpoints=CheckpointManager(folder / "ckpt", args.max_ckpt_save_num, source),
        curves=run_log.Curves(folder if world.is_main else None, run.progress.step),
        logger=logger,
        facts=facts,
        command=how_to_go_on(args.launcher, sys.argv),
        evaluate=_make_evaluation(args, config, world, model, load, logger, folder),
        before_epoch=hooks.build_hook(
            config.get("HOOK"), dataset, loader.restart_workers, plan.epochs, logger
        ),
    )
    return session, loader, sampler


def folder_of(args: Namespace) -> Path:
    """Where the run writes."""
    return run_log.run_folder(args.output_dir, args.cfg_file, args.extra_tag)


@contextmanager
def run_of_its_own(args: Namespace) -> Iterator[None]:
    """Keep other runs out of the folder of this one; all processes must call together.

    Raises:
        OutputError: another run is writing there, or the folder cannot be written.
    """
    folder = folder_of(args)
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


def how_to_go_on(launcher: str, words: list[str]) -> str:
    """The command line that goes on with a run: the one that started it, from its checkpoints.

    Args:
        words: ``sys.argv``.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--ckpt", "--pretrained_model"):
        parser.add_argument(flag)
    rest = parser.parse_known_args(words)[1]
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    starts = {"pytorch": f"torchrun --nproc_per_node {local}", "slurm": "srun python"}
    return f"{starts.get(launcher, 'python')} {shlex.join(rest)}"


def _choose_seed(args: Namespace, content: dict[str, Any]) -> int:
    """The seed asked for, else that of the run to resume, else a random one; for all processes."""
    seed = args.seed if args.seed is not None else FIXED_SEED if args.fix_random_seed else None
    if seed is None:
        seed = content.get("plan", {}).get("seed", secrets.randbelow(2**31))
    else:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return distributed.from_main(seed)


def _start_log(world: World, folder: Path) -> logging.Logger:
    name = distributed.from_main(f"train_{datetime.now():%Y%m%d-%H%M%S}.log")
    logger = run_log.create_logger(folder / name, world.rank)
    logger.info("command: %s", " ".join(sys.argv))
    logger.info("host %s, %d x %s", host.NAME, world.size, world.device)
    logger.info("output in %s", folder)
    return logger


def per_process_batch(args: Namespace, config: Any, world: World) -> int:
    if args.batch_size is None:
        return config.OPTIMIZATION.BATCH_SIZE_PER_GPU
    if args.batch_size % world.size:
        raise ConfigError(
            f"--batch_size {args.batch_size} is no multiple of {world.size} processes"
        )
    return args.batch_size // world.size


def _make_plan(
    args: Namespace, config: Any, world: World, seed: int, batch_size: int, batches: int
) -> RunSettings:
    optimization = config.OPTIMIZATION
    accumulate = args.accumulate_steps or optimization.get("ACCUMULATE_STEPS", 1)
    epochs = optimization.NUM_EPOCHS if args.epochs is None else args.epochs
    for name, value in (("ACCUMULATE_STEPS", accumulate), ("NUM_EPOCHS", epochs)):
        if value < 1:
            raise ConfigError(f"OPTIMIZATION.{name} must be at least 1, not {value}")
    return RunSettings(
        seed=seed,
        batch_size=batch_size,
        accumulate_steps=accumulate,
        world_size=world.size,
        epochs=epochs,
        batches_per_epoch=batches,
    )


def _log_plan(plan: RunSettings, run: Run, logger: logging.Logger) -> None:
    steps = plan.steps_per_epoch
    logger.info(
        "effective batch %d = %d per process x %d processes x %d accumulated",
        plan.batch_size * plan.world_size * plan.accumulate_steps,
        plan.batch_size,
        plan.world_size,
        plan.accumulate_steps,
    )
    logger.info("%d epochs x %d steps = %d steps", plan.epochs, steps, plan.epochs * steps)
    count = sum(one.numel() for group in run.optimizer.param_groups for one in group["params"])
    logger.info(
        "%s: %.2f M trained parameters, learning rate now %.3g",
        type(distributed.unwrap(run.model)).__name__,
        count / 1e6,
        run.optimizer.param_groups[0]["lr"],
    )


def _make_run(
    args: Namespace, config: Any, world: World, plan: RunSettings, model: nn.Module
) -> Run:
    steps = plan.steps_per_epoch
    optim.set_batchnorm_momentum(model, config.OPTIMIZATION)
    optimizer = optim.build_optimizer(model, config.OPTIMIZATION)
    scaler = torch.amp.GradScaler(
        world.device.type,
        init_scale=config.OPTIMIZATION.get("LOSS_SCALE_FP16", 2.0**16),
        enabled=_amp_dtype(args, config) is torch.float16,
    )
    return Run(
        model=distributed.wrap(model, world, args.sync_bn),
        optimizer=optimizer,
        scheduler=optim.build_scheduler(optimizer, config.OPTIMIZATION, plan.epochs * steps, steps),
        scaler=scaler,
        progress=Progress(),
    )


def _amp_dtype(args: Namespace, config: Any) -> torch.dtype | None:
    wanted = args.use_amp or config.OPTIMIZATION.get("USE_AMP", False)
    return AMP_DTYPES[args.amp_dtype] if wanted else None


def _make_options(args: Namespace, config: Any) -> LoopOptions:
    return LoopOptions(
        grad_norm_clip=config.OPTIMIZATION.GRAD_NORM_CLIP,
        clip_by_branch=config.OPTIMIZATION.get("CLIP_BY_BRANCH", False),
        amp_dtype=_amp_dtype(args, config),
        max_steps=args.max_steps,
        log_steps=args.logger_iter_interval,
        save_epochs=args.ckpt_save_interval,
        save_seconds=args.ckpt_save_time_interval,
        save_steps=args.ckpt_save_step_interval,
        eval_epochs=args.eval_interval,
    )


def _make_evaluation(
    args: Namespace,
    config: Any,
    world: World,
    model: nn.Module,
    load: Callable[..., Any],
    logger: logging.Logger,
    folder: Path,
) -> Evaluate | None:
    """Evaluation of the test split: boxes and maps, or how well a pre-training reconstructs."""
    splits = config.DATA_CONFIG.get("INFO_PATH", {})
    if args.eval_interval == 0 or not splits.get("test"):
        return None
    dataset, loader, _ = load(training=False, seed=0)
    if prediction_loop.reconstructs(model):
        return _evaluation_of_reconstruction(loader, world, logger)
    if not hasattr(dataset, "evaluation") or not prediction_loop.predicts(model):
        return None
    prediction_loop.check_data(dataset, model)  # fail now, not after the first epoch
    results = folder / "eval" / "eval_with_train" / config.DATA_CONFIG.DATA_SPLIT["test"]

    def evaluate_and_tell(model: nn.Module) -> dict[str, float]:
        text, metrics = prediction_loop.evaluate(model, loader, world, results)
        logger.info("predictions for the test split\n%s", text)
        return metrics

    return evaluate_and_tell


def _evaluation_of_reconstruction(
    loader: DataLoader, world: World, logger: logging.Logger
) -> Evaluate:
    """With the masks that tools/evaluate_pretrain.py draws."""

    def evaluate_and_tell(model: nn.Module) -> dict[str, float]:
        metrics = reconstruction.evaluate(model, loader, world.device)
        logger.info("reconstruction of the test split\n%s", format_table({"network": metrics}))
        return metrics

    return evaluate_and_tell
