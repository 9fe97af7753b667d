"""Distributed training: processes, collective operations, averaged gradients.

Every function also works in a single process without ``torch.distributed``.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nsmae_plugin.errors import ConfigError, NSMAEError
from nsmae_plugin.runtime.cores import usable_cores
from nsmae_plugin.runtime.memory import keep_freed_memory

T = TypeVar("T")
LAUNCHERS = ("none", "pytorch", "slurm")
TIMEOUT = timedelta(minutes=30)  # rank 0 may evaluate or save while the others wait
_host_group: dist.ProcessGroup | None = None  # of all processes, with CPU tensors
LAST_EXCHANGE = 0.1  # seconds for the threads of the last exchange to end


@dataclass(frozen=True)
class World:
    """This process among all: ``0 <= rank < size``, and the device that it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the process that logs and saves."""
        return self.rank == 0


def start(
    launcher: str, device: str = "auto", tcp_port: int = 18888, local_rank: int | None = None
) -> World:
    """Join the processes that the launcher started.

    Args:
        launcher: ``none`` (one process), ``pytorch`` (torchrun) or ``slurm`` (srun).
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA when there is one). The processes of one machine
            take its CUDA devices in turn and speak NCCL; on the CPU they speak gloo.
        tcp_port: where rank 0 listens under slurm; torchrun brings its own.
        local_rank: for launchers that give it as an argument instead of as LOCAL_RANK.

    Raises:
        ConfigError: when the launcher's environment is missing, or CUDA is asked for and absent.
    """
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if launcher == "none":
        refuse_unlaunched_world()
        chosen = _device(device, 0)
        _prepare(chosen, processes_here=1)
        return World(0, 1, chosen)
    environment = _torchrun_environment() if launcher == "pytorch" else _slurm_environment(tcp_port)
    os.environ.update(environment)
    chosen = _device(device, int(environment["LOCAL_RANK"]))
    _prepare(chosen, int(environment["LOCAL_WORLD_SIZE"]))
    global _host_group
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    _host_group = dist.new_group(backend="gloo", timeout=TIMEOUT) if chosen.type == "cuda" else None
    return World(dist.get_rank(), dist.get_world_size(), chosen)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        # A thread of gloo may hold the tensors of the last exchange for a moment longer. One that
        # lets go of them while the interpreter shuts down can abort it (PyTorch, pull request
        # 179291), and DistributedDataParallel keeps these threads alive until then.
        time.sleep(LAST_EXCHANGE)
        dist.destroy_process_group()


def refuse_unlaunched_world() -> None:
    """Refuse processes of torchrun without ``--launcher``.

    Raises:
        ConfigError: torchrun started more than one, and no launcher was named.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        raise ConfigError(
            f"torchrun started {size} processes, but --launcher is none: each would train alone "
            "and overwrite the others; add --launcher pytorch"
        )


def require_environment(launcher: str, names: Sequence[str], command: str) -> None:
    """Refuse a launcher that has not started this process by ``command``.

    Raises:
        ConfigError: one of the variables that it sets is missing.
    """
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--launcher {launcher} needs {', '.join(missing)} in the environment; start with "
            f"{command} --launcher {launcher} ..."
        )


def _torchrun_environment() -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    require_environment("pytorch", names, "torchrun --nproc_per_node N -m nsmae_plugin.cli train")
    here = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    return {**{name: os.environ[name] for name in names}, "LOCAL_WORLD_SIZE": here}


def _slurm_environment(tcp_port: int) -> dict[str, str]:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    require_environment("slurm", names, "srun nsmae train")
    tasks_here = os.environ.get("SLURM_NTASKS_PER_NODE", os.environ["SLURM_NTASKS"])
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks_here,
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _first_slurm_node(),
        "MASTER_PORT": str(tcp_port),
    }


def _first_slurm_node() -> str:
    command = ["scontrol", "show", "hostnames", os.environ.get("SLURM_NODELIST", "")]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"cannot ask slurm for the first node ({error}); set MASTER_ADDR to its name"
        ) from error
    return answer.stdout.split()[0]


def _device(choice: str, local_rank: int) -> torch.device:
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu or auto")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"local process {local_rank} has no CUDA device of its own: there are "
            f"{torch.cuda.device_count()}; start fewer processes, or use --device cpu"
        )
    return torch.device("cuda", local_rank)


def _prepare(device: torch.device, processes_here: int) -> None:
    """Take the device, or keep freed memory on a CPU; share the cores that this job may use.

    The user's own settings of memory and threads stay.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // processes_here))


def wrap(model: nn.Module, world: World, sync_batch_norm: bool = False) -> nn.Module:
    """Make every backward pass average the gradients over all processes.

    A model in which parameters may go without a gradient says so by ``find_unused_parameters``.

    Raises:
        ConfigError: for synchronised BatchNorm without CUDA, which torch does not have.
    """
    if sync_batch_norm:
        if world.device.type != "cuda":
            raise ConfigError("--sync_bn: torch synchronises BatchNorm on CUDA only; drop the flag")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not dist.is_initialized():
        return model
    devices = [world.device.index] if world.device.type == "cuda" else None
    unused = getattr(model, "find_unused_parameters", False)
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=unused)


def no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Backward passes in this context add up gradients without averaging them."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def unwrap(model: nn.Module) -> Any:
    """The model itself, without the wrapper of :func:`wrap`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def share_buffers(model: nn.Module) -> None:
    """Copy the buffers of rank 0 to every process; all processes must call together.

    BatchNorm layers gather statistics of the samples of their own process. The wrapper of
    :func:`wrap` sends rank 0's at the start of a forward pass, so after the last step of training
    they differ, and with them what the processes predict.
    """
    if dist.is_initialized():
        for buffer in unwrap(model).buffers():
            dist.broadcast(buffer, src=0)


def any_process(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process; all processes must call together.

    The flags travel between the hosts: what is queued on a GPU is not waited for.
    """
    if not dist.is_initialized():
        return flags
    values = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(values, op=dist.ReduceOp.MAX, group=_host_group)
    return tuple(bool(value) for value in values.tolist())


def gather(value: Any) -> list[Any]:
    """The values of all processes by rank; all processes must call together."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Rank 0's value, in every process; all processes must call together."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def on_main(action: Callable[[], T]) -> T:
    """Run ``action`` in rank 0 and share its result; all processes must call together.

    Raises:
        NSMAEError: what it raised there, in every process.
    """
    outcome: Any = None
    if not dist.is_initialized() or dist.get_rank() == 0:
        outcome = _outcome(action)
    return _result(from_main(outcome))


def on_all(action: Callable[[], T]) -> list[T]:
    """Results of ``action`` in all processes, by rank; all processes must call together.

    For work in which the processes do not wait for each other: where it ends with an error in one,
    the others would wait for that one for ever.

    Raises:
        NSMAEError: what it raised in the first of the processes in which it did, in every process,
            once all have come to their end.
    """
    return [_result(outcome) for outcome in gather(_outcome(action))]


def _outcome(action: Callable[[], T]) -> T | NSMAEError:
    """Result or exception of an action, to be sent to other processes."""
    try:
        return action()
    except NSMAEError as error:
        return error


def _result(outcome: T | NSMAEError) -> T:
    if isinstance(outcome, NSMAEError):
        raise of_all(outcome)
    return outcome


def of_all(error: NSMAEError) -> NSMAEError:
    """An error that every process raises, to be reported by rank 0 alone."""
    error.told_elsewhere = dist.is_initialized() and dist.get_rank() != 0
    return error
