"""Plausibility checks of the units and conventions of calibrations, poses and times.

Every function returns None, or a description of the problem that follows the name of a record.
"""

from typing import Any

import numpy as np

from nsmae_plugin.errors import brief

FASTEST = 100.0  # m/s, of the vehicle
INTERVALS = (0.005, 60.0)  # seconds between keyframes
LONGEST_LAG = 30.0  # seconds between a sweep and its keyframe
SHORTEST_LAG = 0.05  # seconds, where the way in that time is compared
FARTHEST_SENSOR = 50.0  # metres from the vehicle's origin, or between two sensors
SHORTEST_FOCAL_LENGTH = 4.0  # pixels; of normalised intrinsics it is about 1
WIDEST, NARROWEST = 50.0, 0.01  # width of an image over its focal length
QUATERNION_TOLERANCE = 0.01  # of the length, for numbers that were typed with few digits
ROUNDING = 1e-3  # of a rotation matrix that was written with few digits


def intrinsics_problem(value: Any, size: tuple[int, int] | None = None) -> str | None:
    """Problem of a camera matrix in pixels of its image.

    Args:
        size: width and height of the image, if known.
    """
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError):
        return f"is {brief(value)}, not a 3 x 3 matrix of numbers"
    if matrix.shape != (3, 3):
        shape = " x ".join(map(str, matrix.shape))
        hint = "; leave out the fourth column" if matrix.shape == (3, 4) else ""
        return f"is {shape}, not the 3 x 3 matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]{hint}"
    if not np.isfinite(matrix).all():
        return "holds NaN or infinity"
    if not np.allclose(matrix[2], [0, 0, 1]) or abs(matrix[1, 0]) > 1e-6 * abs(matrix[0, 0]):
        return "is not of the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
    focal, centre = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    if (focal < SHORTEST_FOCAL_LENGTH).any():
        return (
            f"has focal lengths of {focal[0]:.4g} and {focal[1]:.4g} pixels; if it is normalised, "
            "multiply its first row by the width and its second by the height of the image"
        )
    return centre_problem(focal, centre, size) if size else None


def centre_problem(focal: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> str | None:
    """Problem of focal lengths (2,) and a principal point (2,), in pixels of an image of a size."""
    if not ((centre >= 0) & (centre <= size)).all():
        return (
            f"has its principal point at ({centre[0]:.4g}, {centre[1]:.4g}), outside the image of "
            f"{size[0]} x {size[1]} pixels; it must be that of the image as it is in the file"
        )
    ratio = np.array(size) / focal
    if (ratio > WIDEST).any() or (ratio < NARROWEST).any():
        return (
            f"has focal lengths of {focal[0]:.4g} and {focal[1]:.4g} pixels, which no camera with "
            f"images of {size[0]} x {size[1]} pixels has"
        )
    return None


def interval_problem(seconds: np.ndarray) -> tuple[int, str] | None:
    """Problem of the times of consecutive keyframes (n,), in seconds if they were microseconds.

    Returns:
        Position of the keyframe, and the problem between it and the one before.
    """
    steps = np.diff(seconds)
    if not len(steps):
        return None
    if (steps <= 0).any():
        return int(np.argmax(steps <= 0)) + 1, "has the time of the keyframe before"
    typical = float(np.median(steps))
    if not INTERVALS[0] <= typical <= INTERVALS[1]:
        middle = int(np.argsort(steps)[len(steps) // 2]) + 1
        return middle, (
            f"would come {typical:.3g} s after the keyframe before, as others do; timestamps are "
            "in microseconds"
        )
    return None


def speed_problem(seconds: np.ndarray, positions: np.ndarray) -> tuple[int, str] | None:
    """Problem of keyframes at ascending times (n,) and positions (n, 3) of the vehicle [m]."""
    if len(seconds) < 2:
        return None
    speeds = np.linalg.norm(np.diff(positions, axis=0), axis=1) / np.diff(seconds)
    worst = int(np.argmax(speeds))
    if speeds[worst] <= FASTEST:
        return None
    return worst + 1, (
        f"is where the vehicle would have come at {speeds[worst]:.4g} m/s; timestamps are in "
        "microseconds, translations in metres"
    )


def rotations_are_proper(matrices: np.ndarray) -> np.ndarray:
    """(n,) bool, which of (n, 3, 3) are rotations: finite, orthonormal, no reflections."""
    with np.errstate(invalid="ignore", over="ignore"):
        products = matrices @ matrices.transpose(0, 2, 1)
        orthonormal = (np.abs(products - np.eye(3)) < ROUNDING).all(axis=(1, 2))
        finite = np.where(np.isfinite(matrices), matrices, 0.0)
        return orthonormal & (np.linalg.det(finite) > 0)
