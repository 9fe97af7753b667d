"""Transfer of batches from loader processes: shared memory, or a pipe if it is too small.

Containers often have little (Docker: 64 MB). Where a batch does not fit, torch's loader hangs.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin.runtime.command_line import RUN_LOGGER

PLACE = Path("/dev/shm")
SLOW = (
    "a batch of %.0f MB does not fit into %s: batches come from the loader through a pipe, which "
    "is slower; give the container more shared memory, for Docker by --shm-size or --ipc=host"
)
_warned: list[int] = []  # bytes of the batch that was warned of
SPARE = 1 << 20  # bytes left to other processes


def share(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its tensors in shared memory, or wrapped to go through a pipe."""
    tensors = _tensors(batch)
    needed = sum(one.nbytes for one in tensors)
    if _free() >= needed + SPARE:
        try:
            for one in tensors:
                one.share_memory_()
            return batch
        except RuntimeError:  # another process was faster; torch has released what was shared
            pass
    return _replaced(batch, needed)


def _free() -> float:
    """Free bytes of shared memory; unlimited if it is not a file system."""
    try:
        found = os.statvfs(PLACE)
    except OSError:
        return float("inf")
    return found.f_bavail * found.f_frsize


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for part in value for one in _tensors(part)] if isinstance(value, list) else []


def _replaced(value: Any, needed: int) -> Any:
    """The same with every tensor as a :class:`_Piped`."""
    if isinstance(value, torch.Tensor):
        return _Piped(value, needed)
    if isinstance(value, dict):
        return {key: _replaced(one, needed) for key, one in value.items()}
    return [_replaced(one, needed) for one in value] if isinstance(value, list) else value


class _Piped:
    """A tensor that is pickled by its values, and unpickled as a tensor."""

    def __init__(self, tensor: torch.Tensor, needed: int) -> None:
        self.array, self.needed = tensor.numpy(), needed

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_pipe, (self.array, self.needed)


def _from_pipe(array: np.ndarray, needed: int) -> torch.Tensor:
    if not _warned:
        _warned.append(needed)
        logging.getLogger(RUN_LOGGER).warning(SLOW, needed / 2**20, PLACE)
    return torch.from_numpy(array)
