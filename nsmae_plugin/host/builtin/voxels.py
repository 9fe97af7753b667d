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
    low, high = np.asarray(point_cloud_range, np.float32).reshape(2, 3)
    size = np.asarray(voxel_size, np.float32)
    grid = np.round((high - low) / size).astype(np.int32)
    cells = np.floor((points[:, :3] - low) / size).astype(np.int32)
    inside = ((cells >= 0) & (cells < grid)).all(axis=1)
    points, cells = points[inside], cells[inside]

    key = (cells[:, 2].astype(np.int64) * grid[1] + cells[:, 1]) * grid[0] + cells[:, 0]
    sorted_key, order = (one.numpy() for one in torch.sort(torch.from_numpy(key), stable=True))
    begins = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    counts = np.diff(begins, append=len(key))
    chosen = np.argsort(order[begins])[:max_voxels]  # in the order in which voxels appear

    number = np.full(len(begins), -1)  # voxel of each group; -1: beyond max_voxels
    number[chosen] = np.arange(len(chosen))
    voxel = np.repeat(number, counts)
    rank = np.arange(len(key)) - np.repeat(begins, counts)  # position within the voxel
    kept = (voxel >= 0) & (rank < max_points)
    voxels = np.zeros((len(chosen), max_points, points.shape[1]), np.float32)
    voxels[voxel[kept], rank[kept]] = points[order[kept]]
    coords = np.ascontiguousarray(cells[order[begins[chosen]]][:, ::-1])
    return voxels, coords, np.minimum(counts[chosen], max_points).astype(np.int32)
