"""Seeded loading: the same batches for any number of workers, and after a resume.

Every sample draws from random states of its own, seeded by (seed, epoch, index). A batch therefore
depends neither on the worker that made it nor on what was loaded before.
"""

import logging
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from nsmae_plugin import host
from nsmae_plugin.data import shared_memory
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.host.batch import share_large_arrays
from nsmae_plugin.runtime import stopping
from nsmae_plugin.runtime.cores import usable_cores
from nsmae_plugin.runtime.memory import keep_freed_memory


@dataclass(frozen=True)
class Draw:
    """One use of a sample; ``repeat`` counts uses of the same index within an epoch."""

    epoch: int
    index: int
    repeat: int = 0


@contextmanager
def seeded(*stream: int) -> Iterator[None]:
    """Seed ``random``, NumPy's global state and torch's CPU generator; restore them at the end.

    Args:
        stream: non-negative integers; other numbers, or another order, give other states.
    """
    words = np.random.SeedSequence(stream).generate_state(4)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(words.tobytes())
        np.random.seed(words)  # noqa: NPY002 (OpenPCDet's augmentors draw from it)
        torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


class SeededDataset(Dataset):
    """Loads ``dataset[draw.index]`` in random states seeded by the run and the draw."""

    def __init__(self, dataset: Any, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        try:
            with seeded(self.seed, draw.epoch, draw.index, draw.repeat):
                return self.dataset[draw.index]
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


class EpochSampler(Sampler[Draw]):
    """The draws of one epoch for one process; the order depends on seed and epoch only.

    The epoch's list is dealt to the processes in turn, so that batch ``k`` of all processes
    together is batch ``k`` of a single process with the joint batch size.

    Args:
        length: number of samples in the dataset.
        epoch_length: draws per epoch over all processes; more than ``length`` repeats the
            data, each time in another order. None takes ``length``.
        shuffle: draw in random order.
        pad: fill up the list from its own beginning to a multiple of ``world_size``, as torch's
            ``DistributedSampler``, so that all processes take equally many steps. Otherwise nothing
            is repeated, and the last processes may get one draw less.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        epoch_length: int | None = None,
        shuffle: bool = True,
        pad: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.length, self.seed, self.shuffle, self.pad = length, seed, shuffle, pad
        self.epoch_length = length if epoch_length is None else epoch_length
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} does not fit a world of {world_size} processes")
        if self.epoch_length < 1 or length < 1:
            raise ConfigError(f"an epoch of {self.epoch_length} draws from {length} samples")

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of this process's draws to skip: a resumed epoch goes on
        after ``start = batches done × batch size``."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Draws of this process in a whole epoch, whatever ``start`` is."""
        missing = -self.epoch_length % self.world_size if self.pad else 0
        return len(range(self.rank, self.epoch_length + missing, self.world_size))

    def __iter__(self) -> Iterator[Draw]:
        draws = self._epoch_draws()
        if self.pad:
            missing = -len(draws) % self.world_size
            draws += (draws * missing)[:missing]
        yield from draws[self.rank :: self.world_size][self.start :]

    def _epoch_draws(self) -> list[Draw]:
        draws: list[Draw] = []
        while len(draws) < self.epoch_length:
            repeat = len(draws) // self.length
            order = np.arange(self.length)
            if self.shuffle:
                order = np.random.default_rng((self.seed, self.epoch, repeat)).permutation(order)
            draws += [Draw(self.epoch, int(index), repeat) for index in order]
        return draws[: self.epoch_length]


class RestartableLoader(DataLoader):
    """A loader with persistent workers that can be restarted."""

    def restart_workers(self) -> None:
        """Start new workers in the next epoch, with the current state of the dataset."""
        self._iterator = None


def default_workers() -> int:
    """Loader processes: one per core of each training process, at most eight."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return min(8, max(1, usable_cores() // processes))


def build_dataloader(
    dataset_cfg: Any,
    class_names: list[str],
    batch_size: int,
    workers: int = 0,
    training: bool = True,
    seed: int = 0,
    epoch_length: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    root_path: Path | str | None = None,
    logger: logging.Logger | None = None,
) -> tuple[Any, RestartableLoader, EpochSampler]:
    """Build dataset, loader and sampler of one process, for any dataset of the active host.

    Args:
        batch_size: per process.
        seed: with epoch and index it decides every random draw of a sample.
        epoch_length: see :class:`EpochSampler`; None takes the dataset's length.
        root_path: None takes ``dataset_cfg.DATA_PATH``.

    Raises:
        ConfigError: an impossible batch size, number of workers, seed or rank.
        DataError: of the dataset; or its frames cannot share batches.
    """
    limits = {"batch_size": (batch_size, 1), "workers": (workers, 0), "seed": (seed, 0)}
    for name, (value, least) in limits.items():
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
    dataset: Any = host.build_dataset(dataset_cfg, class_names, training, root_path, logger)
    if hasattr(dataset, "check_batches"):
        dataset.check_batches(batch_size)
    if not training:
        dataset.evaluation_seed = seed
    sampler = EpochSampler(
        len(getattr(dataset, "infos", dataset)),
        seed,
        len(dataset) if epoch_length is None else epoch_length,
        training,
        pad=training,
        rank=rank,
        world_size=world_size,
    )
    if workers:
        stopping.end_loaders_at_exit()
    loader = RestartableLoader(
        SeededDataset(dataset, seed),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=partial(_collate, dataset.collate_batch),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
        # Its own generator: starting an iteration must not advance the model's random state.
        generator=torch.Generator().manual_seed(seed),
    )
    return dataset, loader, sampler


def batches_per_epoch(dataset: Any, batch_size: int) -> int | None:
    """Batches of a process in an epoch of OpenPCDet's training loop; None: no ``epoch_length``."""
    length = getattr(dataset, "epoch_length", None)
    if length is None:
        return None
    processes = dist.get_world_size() if dist.is_initialized() else 1
    batches = math.ceil(math.ceil(len(dataset) / processes) / batch_size)
    return batches // (len(dataset) // length)  # more than one epoch if its script merges them


def _collate(
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]], samples: list[dict[str, Any]]
) -> dict[str, Any]:
    batch = share_large_arrays(collate(samples))
    return shared_memory.share(batch) if get_worker_info() else batch


def prepare_worker(worker: int) -> None:
    """Keep freed memory: all samples need the same amount. (Workers have one thread in torch.)"""
    stopping.survive_first_signals()
    keep_freed_memory()
