"""Augmentation of the LiDAR frame: flips, turns, scalings and shifts as 4 × 4 matrices.

A matrix leads from the raw to the augmented frame, metres. OpenPCDet calls these steps
``random_world_*``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np

from nsmae_plugin.geometry.rotations import yaw_matrix

# Values drawn by OpenPCDet's augmentors, stored in the sample.
DRAWN_KEYS = ("flip_x", "flip_y", "noise_rot", "noise_scale", "noise_translate")

STEPS = (
    "random_world_flip",
    "random_world_rotation",
    "random_world_scaling",
    "random_world_translation",
)


def flip(along_x: bool = False, along_y: bool = False) -> np.ndarray:
    """Mirror along the x axis (y changes sign) and along the y axis (x changes sign)."""
    return np.diag([-1.0 if along_y else 1.0, -1.0 if along_x else 1.0, 1.0, 1.0])


def rotation(angle: float) -> np.ndarray:
    """Turn by ``angle`` radians about z, from x towards y."""
    matrix = np.eye(4)
    matrix[:2, :2] = yaw_matrix(angle)
    return matrix


def scaling(factor: float) -> np.ndarray:
    """Multiply all coordinates by ``factor``."""
    return np.diag([factor, factor, factor, 1.0])


def translation(offset: Sequence[float] | np.ndarray) -> np.ndarray:
    """Add ``offset`` (3,) in metres."""
    matrix = np.eye(4)
    matrix[:3, 3] = np.asarray(offset).reshape(3)
    return matrix


def compose(steps: Sequence[str], drawn: Mapping[str, Any]) -> np.ndarray:
    """The (4, 4) matrix of steps applied in the given order.

    OpenPCDet's own formula is right for flip, rotation, scaling, translation in this order only.

    Args:
        steps: names from :data:`STEPS`, each at most once.
        drawn: what the augmentors drew, under :data:`DRAWN_KEYS`; a missing value means no change.
    """
    matrices = {
        "random_world_flip": flip(drawn.get("flip_x", False), drawn.get("flip_y", False)),
        "random_world_rotation": rotation(float(drawn.get("noise_rot", 0.0))),
        "random_world_scaling": scaling(float(drawn.get("noise_scale", 1.0))),
        "random_world_translation": translation(drawn.get("noise_translate", (0.0, 0.0, 0.0))),
    }
    matrix = np.eye(4)
    for step in steps:
        matrix = matrices[step] @ matrix
    return matrix


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Copy of (P, 3+C) points, the coordinates moved by ``matrix``."""
    moved = np.empty(points.shape, points.dtype)
    _move(points, np.array(matrix, np.float64), moved)
    return moved


@numba.njit
def _move(points, matrix, moved):  # type: ignore[no-untyped-def]
    """Point by point: a matrix product would copy the coordinates."""
    for number in range(len(points)):
        x, y, z = points[number, 0], points[number, 1], points[number, 2]
        for axis in range(3):
            row = matrix[axis]
            moved[number, axis] = row[0] * x + row[1] * y + row[2] * z + row[3]
        for feature in range(3, points.shape[1]):
            moved[number, feature] = points[number, feature]


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Copy of boxes (G, 7 or 9+) [x, y, z, dx, dy, dz, heading, vx, vy, ...] moved by ``matrix``.

    ``matrix`` turns about z, mirrors along x or y, scales and shifts; the box grows with the scale.
    Headings come out in [-pi, pi]; unknown velocities (NaN) stay NaN.
    """
    moved = boxes.copy()
    moved[:, :3] = boxes[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    plane = matrix[:2, :2]
    moved[:, 3:6] = boxes[:, 3:6] * np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    direction = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1) @ plane.T
    moved[:, 6] = np.arctan2(direction[:, 1], direction[:, 0])
    if boxes.shape[1] >= 9:
        moved[:, 7:9] = boxes[:, 7:9] @ plane.T
    return moved
