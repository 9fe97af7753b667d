"""LiDAR files of nuScenes: keyframes, and sweeps before them in the keyframe's frame.

A frame is put together column by column, in one array of shape (5, P): a column that is contiguous
in memory is moved, compared and masked several times faster than one of every fifth number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError

FIELDS = 5  # x, y, z [m], intensity, ring index
EGO_RADIUS = 1.0  # metres; returns from the car itself


def read_points(path: Path, token: str) -> np.ndarray:
    """(P, 4) float32 x, y, z [m, LiDAR frame], intensity of one ``.pcd.bin`` file.

    Args:
        token: of the sample that asks for the file, for messages.

    Raises:
        DataError: the file is missing, truncated, empty, or holds NaN or infinity.
    """
    try:
        values = np.fromfile(path, dtype=np.float32)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"cannot read the LiDAR file {path} of sample {token}: {error.strerror}; "
            "check DATA_PATH and VERSION, and that the archive was unpacked completely"
        ) from error
    if size % (FIELDS * 4):
        raise DataError(
            f"the LiDAR file {path} of sample {token} has {size} bytes, no multiple of {FIELDS} "
            "float32: it is truncated or no nuScenes LiDAR file; fetch it again"
        )
    if not len(values):
        raise DataError(f"the LiDAR file {path} of sample {token} is empty; fetch it again")
    points = values.reshape(-1, FIELDS)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        raise DataError(
            f"the LiDAR file {path} of sample {token} holds {bad} points with NaN or infinity; "
            "repair the file or remove the sample from the info file"
        )
    return points[:, :4]


def remove_ego_points(points: np.ndarray, radius: float = EGO_RADIUS) -> np.ndarray:
    """The points outside the square |x|, |y| < ``radius`` around the sensor."""
    outside = (np.abs(points[:, 0]) >= radius) | (np.abs(points[:, 1]) >= radius)
    return points.compress(outside, axis=0)


def read_frame(root: Path, info: Mapping[str, Any], sweeps: Sequence[int]) -> np.ndarray:
    """(P, 5) float32 x, y, z [m], intensity, time lag [s]: keyframe and the chosen sweeps.

    All in the keyframe's LiDAR frame; sweeps without the returns from the car itself. The columns
    are contiguous in memory, not the rows.

    Args:
        root: folder of ``samples/`` and ``sweeps/``.
        info: entry of an info file.
        sweeps: positions in ``info["sweeps"]``; 0 is the most recent.

    Raises:
        DataError: see :func:`read_points`.
    """
    token = info["token"]
    key = read_points(root / info["lidar_path"], token)
    chosen = [info["sweeps"][position] for position in sweeps]
    clouds = [remove_ego_points(read_points(root / one["lidar_path"], token)) for one in chosen]
    columns = np.empty((5, len(key) + sum(map(len, clouds))), np.float32)
    columns[:4, : len(key)], columns[4, : len(key)] = key.T, 0
    start = len(key)
    for sweep, cloud in zip(chosen, clouds, strict=True):
        target = columns[:, start : start + len(cloud)]
        target[:4], target[4] = cloud.T, sweep["time_lag"]
        if sweep["transform_matrix"] is not None:  # None: the keyframe itself, at a scene's start
            _move(target[:3], np.asarray(sweep["transform_matrix"]))
        start += len(cloud)
    return columns.T


def _move(coordinates: np.ndarray, matrix: np.ndarray) -> None:
    """Move (3, P) by ``matrix`` (4, 4), in place; in float32 right to 1e-5 m at 100 m."""
    matrix = matrix.astype(np.float32)
    coordinates[:] = matrix[:3, :3] @ coordinates
    coordinates += matrix[:3, 3:]
