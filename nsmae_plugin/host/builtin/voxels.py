"""Points to voxels on the CPU, with the result of spconv's ``Point2VoxelCPU3d``.

spconv keeps a dense table of the grid, 330 MB per process at 0.075 m; this sorts instead.
"""

from collections.abc import Sequence

import numpy as np
import torch


def voxelize(
    points: np.ndarray,
    point_cloud_range: np.ndarray,
    voxel_size: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group points by voxel.

    Voxels are numbered by their first point; points keep their order within a voxel. Both are cut
    off at their maximum: later points of a full voxel and later voxels are dropped.

    Args:
        points: (P, F) float32, x, y, z first, in metres.
        point_cloud_range: (6,) least x, y, z, then greatest.
        voxel_size: (3,) in metres.

    Returns:
        voxels (V, max_points, F) float32 filled with zeros, coordinates (V, 3) int32 as z, y, x,
        and the number of points per voxel (V,) int32.
    """
    key, numbers, grid = _cell_keys(points, point_cloud_range, voxel_size)
    sorted_key, order = (one.numpy() for one in torch.sort(torch.from_numpy(key), stable=True))
    begins = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    counts = np.diff(begins, append=len(key))
    chosen = np.argsort(order[begins])[:max_voxels]  # in the order in which voxels appear

    number = np.full(len(begins), -1)  # voxel of each group; -1: beyond max_voxels
    number[chosen] = np.arange(len(chosen))
    voxel = np.repeat(number, counts)
    rank = np.arange(len(key)) - np.repeat(begins, counts)  # position within the voxel
    kept = np.flatnonzero((voxel >= 0) & (rank < max_points))
    rows = np.zeros((len(chosen) * max_points, points.shape[1]), np.float32)
    slots = voxel.take(kept) * max_points + rank.take(kept)
    rows[slots] = points.take(numbers.take(order.take(kept)), axis=0)
    coords = np.stack(np.unravel_index(sorted_key[begins[chosen]], grid[::-1]), axis=1)
    return (
        rows.reshape(len(chosen), max_points, points.shape[1]),
        coords.astype(np.int32),
        np.minimum(counts[chosen], max_points).astype(np.int32),
    )


def _cell_keys(
    points: np.ndarray, point_cloud_range: np.ndarray, voxel_size: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear voxel index (z slowest) of the points inside, their numbers, and the grid (3,)."""
    low, high = np.asarray(point_cloud_range, np.float32).reshape(2, 3)
    size = np.asarray(voxel_size, np.float32)
    grid = np.round((high - low) / size).astype(np.int64)
    inside = np.ones(len(points), dtype=bool)
    cells = []
    for axis in range(3):  # column by column: rows of three are slow to reduce
        cell = np.floor((points[:, axis] - low[axis]) / size[axis]).astype(np.int32)
        inside &= (cell >= 0) & (cell < grid[axis])
        cells.append(cell)
    numbers = np.flatnonzero(inside)
    width = np.int32 if grid.prod() < 2**31 else np.int64  # half the width sorts twice as fast
    x, y, z = (cell.take(numbers).astype(width) for cell in cells)
    return (z * width(grid[1]) + y) * width(grid[0]) + x, numbers, grid
