"""Made-up inputs of the right shapes and statistics: a ring of cameras, a scan, a batch."""

from __future__ import annotations

import math

import torch

FOCAL = 1266.0  # pixels, of nuScenes' front cameras at 900 x 1600
RAW_SIZE = (900, 1600)


def ring_of_cameras(
    batch: int, cameras: int, image_size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Calibration of cameras that look outwards at equal angles, 0.3 m below the LiDAR.

    The images are nuScenes': resized to the width of ``image_size`` plus a tenth, cropped to it at
    the bottom and in the middle. No augmentation of the cloud.

    Returns:
        The matrices of a batch, by OpenPCDet's names: (batch, cameras, 4, 4) and, for
        ``lidar_aug_matrix``, (batch, 4, 4).
    """
    intrinsics = torch.eye(4)
    intrinsics[0, 0] = intrinsics[1, 1] = FOCAL
    intrinsics[0, 2], intrinsics[1, 2] = RAW_SIZE[1] / 2, RAW_SIZE[0] / 2
    resize = 1.1 * image_size[1] / RAW_SIZE[1]
    augmentation = torch.eye(4)
    augmentation[0, 0] = augmentation[1, 1] = resize
    augmentation[0, 3] = (image_size[1] - resize * RAW_SIZE[1]) / 2
    augmentation[1, 3] = image_size[0] - resize * RAW_SIZE[0]
    camera2lidar = torch.stack([_outward_pose(2 * math.pi * i / cameras) for i in range(cameras)])
    intrinsics = intrinsics.expand(cameras, 4, 4)
    matrices = {
        "camera_intrinsics": intrinsics,
        "camera2lidar": camera2lidar,
        "lidar2camera": torch.linalg.inv(camera2lidar),
        "lidar2image": intrinsics @ torch.linalg.inv(camera2lidar),
        "camera2ego": camera2lidar,
        "img_aug_matrix": augmentation.expand(cameras, 4, 4),
    }
    rig = {key: matrix.repeat(batch, 1, 1, 1) for key, matrix in matrices.items()}
    return {**rig, "lidar_aug_matrix": torch.eye(4).repeat(batch, 1, 1)}


def _outward_pose(angle: float) -> torch.Tensor:
    """Camera (x right, y down, z ahead) to LiDAR (x ahead, y left, z up), 0.8 m off its centre."""
    cos, sin = math.cos(angle), math.sin(angle)
    rows = [[sin, 0, cos, 0.8 * cos], [-cos, 0, sin, 0.8 * sin], [0, -1, 0, -0.3], [0, 0, 0, 1]]
    return torch.tensor(rows)
