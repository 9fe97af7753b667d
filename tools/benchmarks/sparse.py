"""Sparse convolutions on a CPU against spconv's own path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spconv.pytorch import functional, ops

from nsmae_plugin.ops import spconv_cpu

spconv_cpu.apply()


@contextmanager
def spconv_alone() -> Iterator[None]:
    """Convolve by spconv's own functions, repaired for training with several threads.

    Its loop that adds rows to the output shares two row pointers between all threads, so that rows
    get lost; torch adds them instead.
    """
    ours = {name: getattr(functional, name) for name in spconv_cpu.CONVOLUTIONS}
    add, stream = ops.SpconvOps.scatter_add_cpu, ops.get_current_stream
    find = ops.get_indice_pairs
    ops.get_indice_pairs = find.__wrapped__
    for name, function in ours.items():
        setattr(functional, name, function.__wrapped__)
    ops.SpconvOps.scatter_add_cpu = staticmethod(_scatter_add)
    ops.get_current_stream = lambda: 0  # asked for on a CPU as well, and not used
    try:
        yield
    finally:
        for name, function in ours.items():
            setattr(functional, name, function)
        ops.get_indice_pairs = find
        ops.SpconvOps.scatter_add_cpu, ops.get_current_stream = staticmethod(add), stream


def _scatter_add(out: Any, rows: Any, indices: Any) -> None:
    """``out[indices] += rows``, in place, for spconv's own tensors; as many rows as indices."""
    target, added, places = (torch.from_numpy(one.numpy_view()) for one in (out, rows, indices))
    # With int64 indices torch takes a third of the time that it takes with int32.
    target.index_add_(0, places.long(), added[: len(places)])
