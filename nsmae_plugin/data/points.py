"""LiDAR files of nuScenes: keyframes, and sweeps before them in the keyframe's frame."""

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
    return points[outside]


def read_sweep(root: Path, sweep: Mapping[str, Any], token: str) -> np.ndarray:
    """(P, 5) float32 x, y, z, intensity, time lag [s] of one sweep, in the keyframe's frame."""
    points = remove_ego_points(read_points(root / sweep["lidar_path"], token))
    result = np.empty((len(points), 5), dtype=np.float32)
    result[:, 3], result[:, 4] = points[:, 3], sweep["time_lag"]
    matrix = sweep["transform_matrix"]
    if matrix is None:  # the keyframe itself stands in where a scene starts
        result[:, :3] = points[:, :3]
    else:  # float64: poses are kilometres away from the origin before they cancel
        result[:, :3] = points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    return result


def read_frame(root: Path, info: Mapping[str, Any], sweeps: Sequence[int]) -> np.ndarray:
    """(P, 5) float32 x, y, z [m], intensity, time lag [s]: keyframe and the chosen sweeps.

    Args:
        root: folder of ``samples/`` and ``sweeps/``.
        info: entry of an info file.
        sweeps: positions in ``info["sweeps"]``; 0 is the most recent.
    """
    token = info["token"]
    key = read_points(root / info["lidar_path"], token)
    parts = [np.concatenate([key, np.zeros((len(key), 1), np.float32)], axis=1)]
    parts += [read_sweep(root, info["sweeps"][position], token) for position in sweeps]
    return np.concatenate(parts)
