"""Rulebooks of sparse convolutions on the CPU: which rows every offset of a kernel connects.

They have spconv's form. Cells are compared by their place in the grid, in ascending order, so that
one pass over both sides finds the pairs of an offset; and the output rows of a strided convolution
are in this order, so that the convolutions behind it read neighbouring rows one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor


class Kernel(NamedTuple):
    """Of D axes."""

    size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    def taps(self) -> list[range]:
        """Distances of the taps of every axis from its first, in cells."""
        axes = zip(self.size, self.dilation, strict=True)
        return [range(0, size * step, step) for size, step in axes]


class Rulebook(NamedTuple):
    """As spconv has it.

    Attributes:
        cells: (M, 1 + D) int32, batch index and place of the output rows.
        pairs: (2, K, N) int32, input and output rows of every kernel offset, filled up with -1.
        counts: (K,) int32 number of pairs of every offset. Of a submanifold convolution those
            before the centre only: the others mirror them, and the centre has none.
    """

    cells: Tensor
    pairs: Tensor
    counts: Tensor


def submanifold(cells: Tensor, shape: Sequence[int], kernel: Kernel) -> Rulebook:
    """Output rows are the input rows; the padding is half the kernel.

    Args:
        cells: (N, 1 + D) int32, batch index and place in a grid of this shape.
    """
    # With a margin, so that what lies beyond one end of a line is no cell of the next line.
    taps = kernel.taps()
    strides = _strides([size + line[-1] for size, line in zip(shape, taps, strict=True)])
    keys, rows = _ascending(cells.numpy() @ strides)
    offsets = np.array(list(product(*taps))) @ strides[1:]
    pairs, counts = _empty(len(offsets), len(rows))
    centre = len(offsets) // 2
    for number in range(centre):
        moved = keys + (offsets[centre] - offsets[number])
        count = _match(moved, rows, keys, rows, pairs[:, number])
        pairs[::-1, -1 - number, :count] = pairs[:, number, :count]
        counts[number] = count
    return Rulebook(cells, torch.from_numpy(pairs), torch.from_numpy(counts))


def strided(
    cells: Tensor, shape: Sequence[int], out_shape: Sequence[int], kernel: Kernel
) -> Rulebook:
    """Output rows are all cells that the kernel reaches, in ascending order."""
    _, rows = _ascending(cells.numpy() @ _strides(shape))
    strides = _strides(out_shape)
    reached = _reached(cells.numpy()[rows].astype(np.int64), strides, out_shape, kernel)
    found = np.unique(np.concatenate([keys for _, keys in reached]))
    out_rows = np.arange(len(found), dtype=np.int32)
    pairs, counts = _empty(len(reached), len(rows))
    for number, (chosen, keys) in enumerate(reached):
        counts[number] = _match(keys, rows[chosen], found, out_rows, pairs[:, number])
    places = np.unravel_index(found, (found[-1] // strides[0] + 1 if len(found) else 1, *out_shape))
    out_cells = torch.from_numpy(np.stack(places, axis=1).astype(np.int32))
    return Rulebook(out_cells, torch.from_numpy(pairs), torch.from_numpy(counts))


def _reached(
    cells: np.ndarray, strides: np.ndarray, out_shape: Sequence[int], kernel: Kernel
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every kernel offset, cells that it connects with an output, and the outputs' keys."""
    axes = []
    for axis, taps in enumerate(kernel.taps(), start=1):
        places = cells[:, axis] + kernel.padding[axis - 1]
        moved = [np.divmod(places - tap, kernel.stride[axis - 1]) for tap in taps]
        size, step = out_shape[axis - 1], strides[axis]
        axes.append([(at * step, (rest == 0) & (at >= 0) & (at < size)) for at, rest in moved])
    reached = []
    for offset in product(*axes):
        parts, inside = zip(*offset, strict=True)
        chosen = np.flatnonzero(np.logical_and.reduce(inside))
        keys = cells[chosen, 0] * strides[0]
        for part in parts:
            keys += part[chosen]
        reached.append((chosen, keys))
    return reached


def _empty(offsets: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and counts of a rulebook without pairs."""
    return np.full((2, offsets, rows), -1, np.int32), np.zeros(offsets, np.int32)


def _strides(shape: Sequence[int]) -> np.ndarray:
    """(1 + D,) distance of neighbouring cells of a batch of grids in a linear order."""
    return np.cumprod([1, *shape[::-1]], dtype=np.int64)[::-1]


def _ascending(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys in ascending order, and int32 rows where they were."""
    if np.all(keys[1:] > keys[:-1]):
        return keys, np.arange(len(keys), dtype=np.int32)
    rows = np.argsort(keys, kind="stable")
    return keys[rows], rows.astype(np.int32)


@numba.njit
def _match(keys, rows, targets, target_rows, pairs):  # type: ignore[no-untyped-def]
    """Write the rows of equal keys to (2, P) pairs, and return their number; keys ascend."""
    count = place = 0
    for number in range(len(keys)):
        while place < len(targets) and targets[place] < keys[number]:
            place += 1
        if place == len(targets):
            break
        if targets[place] == keys[number]:
            pairs[0, count], pairs[1, count] = rows[number], target_rows[place]
            count += 1
    return count
