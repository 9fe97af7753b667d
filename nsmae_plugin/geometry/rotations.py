"""Rotations as 3 x 3 matrices, as quaternions (w, x, y, z) and as angles about z (yaw).

Angles are radians; a positive yaw turns x towards y.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation


def rotation_matrix(quaternion: Sequence[float] | np.ndarray) -> np.ndarray:
    """(3, 3) rotation of a quaternion (w, x, y, z) of any length but zero."""
    w, x, y, z = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(matrix: np.ndarray, yaw: Any = None) -> np.ndarray:
    """(..., 4) unit quaternion w, x, y, z with w >= 0.

    Args:
        matrix: (3, 3) rotation.
        yaw: (...) turns about z that come before ``matrix``; none when None.
    """
    rotation = Rotation.from_matrix(matrix)
    if yaw is not None:
        rotation = rotation * Rotation.from_rotvec(np.multiply.outer(yaw, [0.0, 0.0, 1.0]))
    return np.roll(rotation.as_quat(canonical=True), 1, axis=-1)


def quaternion_about(axis: str, angle: float) -> np.ndarray:
    """(4,) the turn by ``angle`` about an axis of the frame, ``"x"``, ``"y"`` or ``"z"``."""
    direction = np.eye(3)["xyz".index(axis)]
    return np.array([math.cos(angle / 2), *(direction * math.sin(angle / 2))])


def multiply(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(4,) quaternion that turns by ``first``, then by ``second``."""
    w, x, y, z = second
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]) @ first


def yaw_matrix(yaw: float) -> np.ndarray:
    """(2, 2) turn of the ground plane by ``yaw``."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine], [sine, cosine]])
