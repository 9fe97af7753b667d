"""OpenPCDet's scripts in several processes, with CUDA devices or without.

Where there are devices, OpenPCDet's own code does the work. Without one the processes speak gloo,
and what it says to devices is led past them; each of these calls could only fail there.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.openpcdet.patching import replace
from nsmae_plugin.runtime.distributed import refuse_unlaunched_world, require_environment

#: Launcher -> what OpenPCDet reads of the environment, and a command that sets it.
LAUNCHERS = {
    "pytorch": (
        ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        "torchrun --nproc_per_node N -m nsmae_plugin.host.openpcdet tools/train.py",
    ),
    "slurm": (
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
        "srun python -m nsmae_plugin.host.openpcdet tools/train.py",
    ),
}
Join = Callable[..., tuple[int, int]]


def install(common_utils: ModuleType, commu_utils: ModuleType, datasets: ModuleType) -> None:
    """Replace OpenPCDet's functions that start processes and wrap models; idempotent."""
    replace(datasets, "build_dataloader", _build_dataloader)
    for launcher in LAUNCHERS:
        replace(common_utils, f"init_dist_{launcher}", partial(_join, launcher))
    _wrap_as_the_model_asks()
    if not torch.cuda.is_available():
        replace(commu_utils, "all_gather", _all_gather)
        torch.cuda.set_device = lambda device: None
        torch.cuda.device_count = _NoDevices


def _join(
    launcher: str, original: Join, tcp_port: int, local_rank: int, backend: str = "nccl"
) -> tuple[int, int]:
    """Join the other processes; returns their number and the rank.

    OpenPCDet would have loading processes spawned, which import its script again, and then all that
    this package puts in place would be missing there. As in a single process, they are forked.

    Raises:
        ConfigError: the launcher has not started this process.
    """
    require_environment(launcher, *LAUNCHERS[launcher])
    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method("fork")
    if torch.cuda.is_available():
        return original(tcp_port, local_rank, backend=backend)
    original(tcp_port, local_rank, backend="gloo")
    return dist.get_world_size(), dist.get_rank()


def _build_dataloader(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Build a loader; one for evaluation when all processes have come to it.

    After its training OpenPCDet evaluates what it finds in the folder of the checkpoints. The
    others are there while rank 0 still writes the last one, and would find a part of it.

    Raises:
        ConfigError: a process would get no sample, or all processes of torchrun the same ones.
    """
    if kwargs.get("batch_size", 1) < 1:
        raise ConfigError("--batch_size must be at least 1 for every process")
    if kwargs.get("dist") is False:
        refuse_unlaunched_world()
    built = original(*args, **kwargs)
    if dist.is_initialized() and not kwargs.get("training", True):
        dist.barrier()
    return built


def _all_gather(_: Callable[..., Any], data: Any) -> list[Any]:
    """``data`` of every process; OpenPCDet sends it by way of a CUDA device."""
    if not dist.is_initialized():
        return [data]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered


class _NoDevices(int):
    """No device: 0, but for the remainder by which scripts choose one."""

    def __rmod__(self, rank: int) -> int:
        return 0


def _wrap_as_the_model_asks() -> None:
    """Let ``DistributedDataParallel`` take a model on the CPU, and look for unused parameters.

    The script names a device in any case, and cannot know of models in which some parameters go
    without a gradient; these say so by ``find_unused_parameters``.
    """

    def init(
        original: Callable[..., None], self: Any, module: nn.Module, *args: Any, **kwargs: Any
    ) -> None:
        if not torch.cuda.is_available():
            kwargs.pop("device_ids", None)
        if getattr(module, "find_unused_parameters", False):
            kwargs["find_unused_parameters"] = True
        original(self, module, *args, **kwargs)

    replace(DistributedDataParallel, "__init__", init)
