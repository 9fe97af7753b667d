"""Points to voxels on the CPU, with the result of spconv's ``Point2VoxelCPU3d``.

spconv keeps a dense table of the grid, 330 MB per process at 0.075 m; here a hash table, of 3 MB,
knows the cells that have become voxels.
"""

from collections.abc import Sequence

import numba
import numpy as np

_NONE = -1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Fibonacci hashing (Knuth)


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
    low, high = np.asarray(point_cloud_range, np.float32).reshape(2, 3)
    size = np.asarray(voxel_size, np.float32)
    grid = np.round((high - low) / size).astype(np.int64)
    rows = np.ascontiguousarray(points, np.float32)  # one layout: compiled once
    owners, cells = _owners(_cells(rows, low, size, grid), max_voxels)
    voxels = np.empty((len(cells), max_points, points.shape[1]), np.float32)
    counts = np.zeros(len(cells), np.int32)
    _fill(voxels, counts, rows, owners)
    return voxels, _coordinates(cells, grid), counts


def _coordinates(cells: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(V, 3) int32 z, y, x of linear cell indices."""
    unsigned = np.uint32 if grid.prod() < 2**32 else np.uint64  # the smaller divides faster
    cells, (width, height) = cells.astype(unsigned), grid[:2].astype(unsigned)
    rows = cells // width  # one division a step: the remainder is a multiplication away
    layers = rows // height
    return np.stack([layers, rows - layers * height, cells - rows * width], 1).astype(np.int32)


# Three loops and not one: each keeps fewer tables in the caches, and the first has no branches.


@numba.njit
def _cells(points, low, size, grid):  # type: ignore[no-untyped-def]
    """(P,) linear cell of every point, z slowest, _NONE outside."""
    cells = np.empty(len(points), np.int64)
    width, height, depth = np.float32(grid[0]), np.float32(grid[1]), np.float32(grid[2])
    for number in range(len(points)):
        x = np.floor((points[number, 0] - low[0]) / size[0])
        y = np.floor((points[number, 1] - low[1]) / size[1])
        z = np.floor((points[number, 2] - low[2]) / size[2])
        inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < width) & (y < height) & (z < depth)
        cell = (np.int64(z) * grid[1] + np.int64(y)) * grid[0] + np.int64(x)
        cells[number] = cell if inside else _NONE
    return cells


@numba.njit
def _owners(cells, max_voxels):  # type: ignore[no-untyped-def]
    """(P,) voxel of every point, _NONE without one, and (V,) the cells of the voxels.

    By a hash table with linear probing, at most half full, so that chains of probes stay short.
    """
    most = min(max_voxels, len(cells))
    bits = 1
    while 1 << bits < 2 * most:
        bits += 1
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    keys, values = np.full(1 << bits, _NONE, np.int64), np.empty(1 << bits, np.int32)
    owners, taken, used = np.full(len(cells), _NONE, np.int32), np.empty(most, np.int64), 0
    for number in range(len(cells)):
        cell = cells[number]
        if cell == _NONE:
            continue
        slot = np.int64((np.uint64(cell) * _GOLDEN) >> shift)
        while keys[slot] != cell and keys[slot] != _NONE:
            slot = (slot + 1) & mask
        if keys[slot] == _NONE:
            if used == most:
                continue
            keys[slot], values[slot], taken[used] = cell, used, cell
            used += 1
        owners[number] = values[slot]
    return owners, taken[:used]


@numba.njit
def _fill(voxels, counts, points, owners):  # type: ignore[no-untyped-def]
    """Copy the points into their voxels, clearing each before its first, and count them."""
    for number in range(len(points)):
        owner = owners[number]
        if owner == _NONE:
            continue
        place = counts[owner]
        if place == 0:  # while it comes into the cache anyway
            voxels[owner] = 0.0
        if place < voxels.shape[1]:
            for feature in range(points.shape[1]):  # slices would take twice as long
                voxels[owner, place, feature] = points[number, feature]
            counts[owner] = place + 1
