"""Rigid transforms as (4, 4) matrices, and the calibration of a camera."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.geometry.rotations import rotation_matrix


def rigid(rotation: np.ndarray, translation: Sequence[float] | np.ndarray) -> np.ndarray:
    """(4, 4) float64 of a rotation (3, 3) and a translation (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a rigid (4, 4) transform."""
    return rigid(matrix[:3, :3].T, -matrix[:3, :3].T @ matrix[:3, 3])


def camera_matrices(camera: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Calibration of one camera as (4, 4) float32 matrices.

    Args:
        camera: entry of ``info["cams"]``.

    Returns:
        ``camera_intrinsics`` (camera → pixel), ``camera2lidar``, ``lidar2camera``, ``lidar2image``
        (raw LiDAR frame → raw pixel × depth) and ``camera2ego``.
    """
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = camera["camera_intrinsics"]
    camera2lidar = rigid(camera["sensor2lidar_rotation"], camera["sensor2lidar_translation"])
    camera2ego = rigid(
        rotation_matrix(camera["sensor2ego_rotation"]), camera["sensor2ego_translation"]
    )
    lidar2camera = np.linalg.inv(camera2lidar)
    matrices = {
        "camera_intrinsics": intrinsics,
        "camera2lidar": camera2lidar,
        "lidar2camera": lidar2camera,
        "lidar2image": intrinsics @ lidar2camera,
        "camera2ego": camera2ego,
    }
    return {name: matrix.astype(np.float32) for name, matrix in matrices.items()}
