"""Picking points out of a cloud (P, C), whichever of its axes is contiguous in memory.

Columns are fast to compute with; what voxels and batches are made of are rows. Where the layout
changes, a part of the cloud is treated at a time, so that it stays in cache.
"""

import numpy as np

AT_ONCE = 16384  # points


def select(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The points (P, C) where ``mask`` (P,), in the memory layout that they have."""
    if points.flags.c_contiguous:
        return points.compress(mask, axis=0)
    return points.T.compress(mask, axis=1).T


def pick(points: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``points[order]``, (K, C) with contiguous rows."""
    if points.flags.c_contiguous:
        return points.take(order, axis=0)
    rows = np.empty((len(order), points.shape[1]), points.dtype)
    for start in range(0, len(order), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        rows[part] = points.T.take(order[part], axis=1).T
    return rows
