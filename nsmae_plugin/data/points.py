"""LiDAR files of nuScenes: keyframes, and sweeps before them in the keyframe's frame."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
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
    if not np.isfinite(values.sum()) and not np.isfinite(values).all():  # the sum is faster
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

    All in the keyframe's LiDAR frame; sweeps without the returns from the car itself.

    Args:
        root: folder of ``samples/`` and ``sweeps/``.
        info: entry of an info file.
        sweeps: positions in ``info["sweeps"]``; 0 is the most recent.

    Raises:
        DataError: see :func:`read_points`.
    """
    token = info["token"]
    chosen = [info["sweeps"][position] for position in sweeps]
    clouds = [read_points(root / one["lidar_path"], token) for one in (info, *chosen)]
    frame = np.empty((sum(map(len, clouds)), 5), np.float32)
    end = _append(frame, 0, clouds[0], np.eye(4), 0.0, 0.0)
    for sweep, cloud in zip(chosen, clouds[1:], strict=True):
        matrix = sweep["transform_matrix"]  # None: the keyframe itself, at a scene's start
        moved = np.eye(4) if matrix is None else np.array(matrix, np.float64, order="C")
        end = _append(frame, end, cloud, moved, float(sweep["time_lag"]), EGO_RADIUS)
    return frame[:end]


@numba.njit
def _append(frame, end, cloud, matrix, lag, radius):  # type: ignore[no-untyped-def]
    """Write a cloud (P, 4), moved by ``matrix`` (4, 4), and its lag into ``frame`` from ``end`` on.

    Without the returns from the car itself, as :func:`remove_ego_points`. Returns the new end.
    """
    for point in range(len(cloud)):
        x, y, z = cloud[point, 0], cloud[point, 1], cloud[point, 2]
        if abs(x) < radius and abs(y) < radius:
            continue
        for axis in range(3):
            row = matrix[axis]
            frame[end, axis] = row[0] * x + row[1] * y + row[2] * z + row[3]
        frame[end, 3], frame[end, 4] = cloud[point, 3], lag
        end += 1
    return end
