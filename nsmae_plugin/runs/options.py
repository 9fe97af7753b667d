"""Options that several commands share, and their command-line flags."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsmae_plugin.config.find import find_config
from nsmae_plugin.data.loader import (
    EpochSampler,
    RestartableLoader,
    build_dataloader,
    default_workers,
)
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import not_negative
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.training.run_log import run_folder

SPLITS = ("train", "validation", "test")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run of training, or its evaluation: configuration, folder and processes.

    Attributes:
        cfg_file: YAML configuration.
        batch_size: samples of all processes together; None: the configuration's, per process.
        workers: loader processes per process.
        extra_tag: name of the run.
        output_dir: root of the output folders.
        ckpt: checkpoint file or folder; None: the newest of the run.
        pretrained_model: checkpoint or exported weights.
        launcher, tcp_port, local_rank, device: see :func:`nsmae_plugin.runtime.distributed.start`.
        overrides: ``KEY VALUE`` pairs for the configuration.
    """

    cfg_file: Path
    batch_size: int | None = None
    workers: int = field(default_factory=default_workers)
    extra_tag: str = "default"
    output_dir: Path = Path("output")
    ckpt: Path | None = None
    pretrained_model: Path | None = None
    launcher: str = "none"
    tcp_port: int = 18888
    local_rank: int | None = None
    device: str = "auto"
    overrides: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return run_folder(self.output_dir, self.cfg_file, self.extra_tag)

    def start_processes(self) -> World:
        """Join the processes that the launcher started."""
        return distributed.start(self.launcher, self.device, self.tcp_port, self.local_rank)

    def batch_per_process(self, config: Any, world: World) -> int:
        """Samples of a batch in each process.

        Raises:
            ConfigError: the batch size is not a multiple of the number of processes.
        """
        if self.batch_size is None:
            return config.OPTIMIZATION.BATCH_SIZE_PER_GPU
        if self.batch_size % world.size:
            raise ConfigError(
                f"--batch_size {self.batch_size} is not a multiple of {world.size} processes"
            )
        return self.batch_size // world.size

    def load_data(
        self, config: Any, world: World, logger: logging.Logger, training: bool, seed: int = 0
    ) -> tuple[Any, RestartableLoader, EpochSampler]:
        """Dataset, loader and sampler of this process."""
        return build_dataloader(
            config.DATA_CONFIG,
            config.CLASS_NAMES,
            self.batch_per_process(config, world),
            self.workers,
            training,
            seed,
            rank=world.rank,
            world_size=world.size,
            logger=logger,
        )


def add_run_arguments(parser: argparse.ArgumentParser, ckpt: str, pretrained_model: str) -> None:
    """The flags of :class:`RunOptions` but ``--batch_size``; two have help texts of their own."""
    add = parser.add_argument
    add_config(parser)
    add("--workers", type=int, help="loader processes per process")
    add("--extra_tag", help="name of the run")
    add("--output_dir", type=Path, help="root of the output directories")
    add("--ckpt", type=Path, help=ckpt)
    add("--pretrained_model", type=Path, help=pretrained_model)
    add("--launcher", choices=distributed.LAUNCHERS)
    add("--tcp_port", type=int, help="of rank 0, under slurm")
    add("--local_rank", type=int, help="accepted for old launchers; torchrun sets LOCAL_RANK")
    add("--device", choices=DEVICES)
    add_overrides(parser)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A network and the data that it is applied to, in one process.

    Attributes:
        cfg_file: YAML configuration.
        ckpt: checkpoint file or folder, whose newest is taken; None: an untrained network.
        split: ``train`` or ``test``, of DATA_CONFIG.INFO_PATH, or ``validation``, the part of the
            training split that DATA_CONFIG.VALIDATION_FRACTION holds out.
        device: see :func:`nsmae_plugin.runtime.distributed.start`.
        seed: of the masks, and of the weights of an untrained network.
        overrides: ``KEY VALUE`` pairs for the configuration.
    """

    cfg_file: Path
    ckpt: Path | None = None
    split: str = "test"
    device: str = "auto"
    seed: int = 0
    overrides: Sequence[str] = ()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of :class:`ModelOptions`."""
    add = parser.add_argument
    add_config(parser)
    add("--ckpt", type=Path, help="file or folder (default: an untrained network)")
    add("--split", choices=SPLITS, help="default: test")
    add("--device", choices=DEVICES)
    add("--seed", type=not_negative, help="of the masks and of an untrained network")
    add_overrides(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg_file",
        type=find_config,
        required=True,
        help="YAML configuration: a file, or one of `nsmae configs`",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs=argparse.REMAINDER,
        help="KEY VALUE ...: overrides of the configuration, last on the command line",
    )
