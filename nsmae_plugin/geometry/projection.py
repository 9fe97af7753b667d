"""Projections between the LiDAR frame and the images, under both augmentations.

Frames, and the batch keys that connect them (``B`` samples, ``N`` cameras)::

    augmented LiDAR --lidar_aug_matrix^-1--> LiDAR --lidar2image--> raw pixel * depth
    raw pixel --img_aug_matrix--> pixel of the network's input

``camera_intrinsics`` and ``camera2lidar`` lead the other way. Lengths are metres, depth is the
camera's z axis (in unaugmented metres: scaling the cloud leaves depth alone), a pixel is (u, v)
to the right and down. ``img_aug_matrix`` acts on pixels: its upper-left 2 x 2 block and the first
two rows of its last column. The 4 x 4 matrices are combined in float64, so that the one product
per point or per frustum pixel is the only rounding in its own type.
"""

from __future__ import annotations

import torch

from nsmae_plugin.errors import DataError


def image_from_lidar(
    points: torch.Tensor,
    lidar2image: torch.Tensor,
    img_aug_matrix: torch.Tensor,
    lidar_aug_matrix: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Project points of the augmented LiDAR frame into every camera of their sample.

    Args:
        points: (B, P, 3), augmented LiDAR frame, metres.
        lidar2image, img_aug_matrix: (B, N, 4, 4).
        lidar_aug_matrix: (B, 4, 4).

    Returns:
        pixels (B, N, P, 2) in the augmented image, NaN for points that are not in front of the
        camera, and depth (B, N, P) in metres, negative behind the camera.

    Raises:
        DataError: ``lidar_aug_matrix`` has no inverse.
    """
    matrix = projection_matrix(lidar2image, img_aug_matrix, lidar_aug_matrix).to(points.dtype)
    scaled = points.unsqueeze(1) @ matrix[..., :3].transpose(-1, -2)
    u, v, depth = (scaled + matrix[..., 3].unsqueeze(-2)).unbind(-1)
    divisor = torch.where(depth > 0, depth, torch.nan)
    return torch.stack((u / divisor, v / divisor), dim=-1), depth


def projection_matrix(
    lidar2image: torch.Tensor, img_aug_matrix: torch.Tensor, lidar_aug_matrix: torch.Tensor
) -> torch.Tensor:
    """(B, N, 3, 4) float64: augmented LiDAR point -> (u * depth, v * depth, depth), augmented u, v.

    Shapes and errors as :func:`image_from_lidar`.
    """
    undo = _inverse(lidar_aug_matrix, "lidar_aug_matrix").unsqueeze(1)
    raw = lidar2image.double()[..., :3, :] @ undo
    return _pixel_homography(img_aug_matrix) @ raw


def frustum_rays(
    pixels: torch.Tensor,
    camera_intrinsics: torch.Tensor,
    camera2lidar: torch.Tensor,
    img_aug_matrix: torch.Tensor,
    lidar_aug_matrix: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays of pixels: the point at depth ``d`` is ``origin + ray * d``, augmented LiDAR frame.

    Args:
        pixels: (R, 2), the same for all cameras, or (B, N, R, 2); pixels of the augmented image.
        camera_intrinsics, camera2lidar, img_aug_matrix: (B, N, 4, 4).
        lidar_aug_matrix: (B, 4, 4).

    Returns:
        rays (B, N, R, 3), metres per metre of depth, and origins (B, N, 3), metres, both in the
        type of ``pixels``.

    Raises:
        DataError: intrinsics or ``img_aug_matrix`` have no inverse.
    """
    intrinsics = _inverse(camera_intrinsics[..., :3, :3], "camera_intrinsics")
    pixel = _inverse(_pixel_homography(img_aug_matrix), "img_aug_matrix")
    pose = lidar_aug_matrix.double().unsqueeze(1) @ camera2lidar.double()
    matrix = (pose[..., :3, :3] @ intrinsics @ pixel).to(pixels.dtype)
    rays = pixels @ matrix[..., :2].transpose(-1, -2) + matrix[..., 2].unsqueeze(-2)
    return rays, pose[..., :3, 3].to(pixels.dtype)


def frustum_pixels(image_size: tuple[int, int], feature_size: tuple[int, int]) -> torch.Tensor:
    """Pixels (fH * fW, 2) through which the rays of a feature grid go, row by row, float32.

    As in OpenPCDet's ``DepthLSSTransform`` they span the image from its first to its last pixel.
    """
    v = torch.linspace(0, image_size[0] - 1, feature_size[0])
    u = torch.linspace(0, image_size[1] - 1, feature_size[1])
    v, u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack((u, v), dim=-1).flatten(0, 1)


def _pixel_homography(img_aug_matrix: torch.Tensor) -> torch.Tensor:
    """(..., 3, 3) float64 acting on (u, v, 1), of the (..., 4, 4) image augmentation."""
    homography = torch.zeros(
        *img_aug_matrix.shape[:-2], 3, 3, dtype=torch.float64, device=img_aug_matrix.device
    )
    homography[..., :2, :2] = img_aug_matrix[..., :2, :2]
    homography[..., :2, 2] = img_aug_matrix[..., :2, 3]
    homography[..., 2, 2] = 1.0
    return homography


def _inverse(matrix: torch.Tensor, name: str) -> torch.Tensor:
    """Inverse in float64, or a DataError that names the matrix."""
    try:
        return torch.linalg.inv(matrix.double())
    except torch.linalg.LinAlgError as error:
        raise DataError(
            f"{name} has no inverse; check the calibration and augmentation of this batch: {error}"
        ) from error
