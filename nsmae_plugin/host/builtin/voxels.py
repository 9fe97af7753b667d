"""Points to voxels on the CPU, with the result of spconv's ``Point2VoxelCPU3d``.

spconv keeps a dense table of the grid, 330 MB per process at 0.075 m; this sorts instead.
"""

from collections.abc import Sequence

import numpy as np
import torch

from nsmae_plugin.host.builtin.rows import AT_ONCE, pick


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
    keys, grid = _cell_keys(points, point_cloud_range, voxel_size)
    ordered, order = (one.numpy() for one in torch.sort(torch.from_numpy(keys), stable=True))
    inside = int(np.searchsorted(ordered, grid.prod()))  # the others come after all cells
    ordered, order = ordered[:inside], order[:inside]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[:inside])
    counts = np.diff(begins, append=inside)
    chosen = np.argsort(order[begins])[:max_voxels]  # in the order in which voxels appear

    slots, kept = _slots(begins, counts, chosen, max_points)
    features = points.shape[1]
    voxels = np.zeros((len(chosen), max_points, features), np.float32)
    row = np.dtype((np.void, 4 * features))  # a point as one item, which moves at once
    picked = pick(points, order.take(kept))
    if len(picked):
        np.put(voxels.view(row), slots, picked.view(row))
    counts = np.minimum(counts[chosen], max_points).astype(np.int32)
    return voxels, _coordinates(ordered[begins[chosen]], grid), counts


def _slots(
    begins: np.ndarray, counts: np.ndarray, chosen: np.ndarray, max_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where points go: voxel × ``max_points`` + position in it; and which, in sorted order.

    Args:
        begins, counts: (G,) first point and number of points of each group of points in one cell.
        chosen: (V,) the groups that become voxels.
    """
    counts, begins = counts.astype(np.int32), begins.astype(np.int32)
    places = np.arange(counts.sum(), dtype=np.int32)
    fitting = np.zeros_like(counts)
    fitting[chosen] = np.minimum(counts[chosen], max_points)
    if not np.array_equal(fitting, counts):
        ends = np.repeat(begins + fitting, counts)
        places = places.compress(places < ends)
    shift = np.zeros_like(begins)
    shift[chosen] = np.arange(0, len(chosen) * max_points, max_points, dtype=np.int32)
    shift -= begins
    return places + np.repeat(shift, fitting), places


def _coordinates(keys: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(V, 3) int32 z, y, x of linear cell indices."""
    unsigned = np.uint32 if keys.dtype == np.int32 else np.uint64  # divided faster than signed
    keys, (width, height) = keys.view(unsigned), grid[:2].astype(unsigned)
    rows = keys // width  # one division a step: the remainder is a multiplication away
    layers = rows // height
    return np.stack([layers, rows - layers * height, keys - rows * width], 1).astype(np.int32)


def _cell_keys(
    points: np.ndarray, point_cloud_range: np.ndarray, voxel_size: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Linear voxel index (z slowest) of all points, the number of cells for those outside; grid."""
    low, high = np.asarray(point_cloud_range, np.float32).reshape(2, 3)
    size = np.asarray(voxel_size, np.float32)
    grid = np.round((high - low) / size).astype(np.int64)
    width = np.int32 if grid.prod() < 2**31 else np.int64  # half the width sorts twice as fast
    keys = np.empty(len(points), width)
    for start in range(0, len(points), AT_ONCE):  # what is computed on the way stays in cache
        part = points[start : start + AT_ONCE]
        inside = np.ones(len(part), dtype=bool)
        linear: np.ndarray = np.zeros(len(part), width)
        for axis in (2, 1, 0):  # column by column: rows of three are slow to reduce
            cell = np.floor((part[:, axis] - low[axis]) / size[axis]).astype(np.int32)
            inside &= cell.view(np.uint32) < grid[axis]  # a negative cell is a large number
            linear *= width(grid[axis])
            linear += cell
        keys[start : start + AT_ONCE] = np.where(inside, linear, width(grid.prod()))
    return keys, grid
