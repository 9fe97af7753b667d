"""LiDAR files: keyframes, and sweeps before them in the keyframe's frame."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.lidar_layout import NUSCENES, LidarFiles
from nsmae_plugin.runtime.reading import open_regular

EGO_RADIUS = 1.0  # metres; returns from the car itself
MOST_POINTS = 10_000_000  # of one file; nuScenes has 35 thousand
GET = "check DATA_PATH and VERSION, and that the archive was unpacked completely"
SET = (
    "DATA_CONFIG.LIDAR_FILES (create_infos.py: --lidar_columns, --lidar_dtype) must name its "
    "COLUMNS and DTYPE"
)
USED = ("x", "y", "z", "intensity")

# Limits of a cloud. Mistaken columns show within a few points.
LIMITS = (1e5, 1e5, 1e5, 1e6)  # of the used columns: metres, and any unit of intensity
FAR = 1000.0  # metres; returns of a LiDAR come from nearer
MOST_RINGS = 10_000
HEAD = 2000  # points that are looked at
STRAY = 0.01  # share of them that may be implausible
# First bytes of files that have a header, and what they are.
_HEADERS = (
    (b"\x93NUMPY", "a NumPy file (.npy)"),
    (b"# .PCD", "a PCD file"),
    (b"VERSION", "a PCD file"),
    (b"ply", "a PLY file"),
    (b"LASF", "a LAS file"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)


ReadPoints = Callable[[Path, str], np.ndarray]


def read_points(path: Path, token: str, layout: LidarFiles = NUSCENES) -> np.ndarray:
    """(P, 4) float32 x, y, z [m, LiDAR frame], intensity of one file.

    Args:
        token: of the sample that asks for the file, for messages.

    Raises:
        DataError: the file is missing, truncated, empty, far too large, or does not look like
            points in this layout: NaN, infinite or impossible numbers, rings that are no whole
            numbers, negative intensities.
    """
    row = len(layout.COLUMNS) * np.dtype(layout.DTYPE).itemsize
    owner = f" of sample {token}"
    with open_regular(path, "the LiDAR file", GET, MOST_POINTS * row, owner) as file:
        size = os.fstat(file.fileno()).st_size
        values = np.fromfile(file, dtype=layout.DTYPE)
    name = f"the LiDAR file {path}{owner}"
    if not size:
        raise DataError(f"{name} is empty; fetch it again")
    if size % row:
        raise DataError(
            f"{name} has {size} bytes, no whole number of points in {layout}{_header(path)}: it is "
            f"truncated, or {SET}"
        )
    points = values.reshape(-1, len(layout.COLUMNS))
    problem = _implausible(points[:HEAD], layout.COLUMNS) or _impossible(points, layout.COLUMNS)
    if problem:
        raise DataError(
            f"{name} does not hold points in {layout}{_header(path)}: {problem}; repair it, or "
            f"{SET}"
        )
    return _used(points, layout.COLUMNS)


def _implausible(points: np.ndarray, columns: Sequence[str]) -> str | None:
    """The reason why the columns are implausible, or None."""
    by_name = dict(zip(columns, points.T, strict=True))
    # False for NaN, which is named elsewhere.
    far = np.maximum(np.maximum(abs(by_name["x"]), abs(by_name["y"])), abs(by_name["z"])) > FAR
    signs = [(far, f"{{}} of its points are farther than {FAR:g} m")]
    if "intensity" in by_name:
        intensity = by_name["intensity"]
        negative = (intensity < 0) & (intensity != -1)  # -1 stands for unknown in some data
        signs.append((negative, "the intensity of {} of its points is negative"))
    if "ring" in by_name:
        ring = by_name["ring"]
        whole = (ring == np.floor(ring)) & (ring >= 0) & (ring < MOST_RINGS)
        signs.append((~whole, "the ring of {} of its points is no whole number"))
    for wrong, words in reversed(signs):
        if wrong.mean() > STRAY:
            return words.format(f"{100 * wrong.mean():.0f} %")
    return None


def _impossible(points: np.ndarray, columns: Sequence[str]) -> str | None:
    """A description of impossible numbers, or None; NaN fails every comparison."""
    if points.min() > -LIMITS[0] and points.max() < LIMITS[0]:
        return None
    bad = np.zeros(len(points), bool)
    for name, limit in zip(USED, LIMITS, strict=True):
        if name in columns:
            bad |= ~(np.abs(points[:, columns.index(name)]) < limit)
    return f"{bad.sum()} points with NaN, infinite or impossible numbers" if bad.any() else None


def _used(points: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """(P, 4) float32 of the columns that are used."""
    if points.dtype == np.float32 and tuple(columns[: len(USED)]) == USED:
        return points[:, : len(USED)]
    used = np.zeros((len(points), len(USED)), np.float32)
    for position, name in enumerate(USED):
        if name in columns:
            used[:, position] = points[:, columns.index(name)]
    return used


def _header(path: Path) -> str:
    """ ", for it is ...", by the first bytes of a file that has a header; else empty."""
    with open_regular(path, "the LiDAR file", GET, 1 << 62) as file:
        start = file.read(32)
    found = (words for header, words in _HEADERS if start.startswith(header))
    return next((f", for it is {words}" for words in found), "")


def remove_ego_points(points: np.ndarray) -> np.ndarray:
    """The points outside the square |x|, |y| < :data:`EGO_RADIUS` around the sensor."""
    return points.compress((np.abs(points[:, :2]) >= EGO_RADIUS).any(axis=1), axis=0)


def read_frame(
    root: Path, info: Mapping[str, Any], sweeps: Sequence[int], read: ReadPoints = read_points
) -> np.ndarray:
    """(P, 5) float32 x, y, z [m], intensity, time lag [s]: keyframe and the chosen sweeps.

    All in the keyframe's LiDAR frame; sweeps without the returns from the car itself.

    Args:
        root: folder that the paths of ``info`` start at.
        sweeps: positions in ``info["sweeps"]``; 0 is the most recent.
        read: path and token → points, as :func:`read_points`.

    Raises:
        DataError: from ``read``.
    """
    token = info["token"]
    chosen = [info["sweeps"][position] for position in sweeps]
    clouds = [read(root / one["lidar_path"], token) for one in (info, *chosen)]
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
