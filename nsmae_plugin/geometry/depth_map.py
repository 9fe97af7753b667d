"""LiDAR depth maps: depth of the point cloud in the pixels or feature cells of cameras.

A z-buffer: of all returns in one cell the nearest wins. (OpenPCDet and NS-MAE assign in the order
of the points, so that any of them wins, and clamp points behind the camera into the image.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.projection import image_from_lidar


class ImageReturns(NamedTuple):
    """The K (point, camera) combinations where the point falls into the camera's image.

    image: sample * N + camera; point: row in the cloud; pixel: (K, 2) u, v; depth: metres, > 0.
    """

    image: torch.Tensor
    point: torch.Tensor
    pixel: torch.Tensor
    depth: torch.Tensor


def lidar_depth_map(
    points: torch.Tensor,
    lidar2image: torch.Tensor,
    img_aug_matrix: torch.Tensor,
    lidar_aug_matrix: torch.Tensor,
    image_size: tuple[int, int],
    stride: int = 1,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of the nearest return in every cell of ``stride`` x ``stride`` pixels.

    Args:
        points: (P, 4 or more), sample index, x, y, z: augmented LiDAR frame, metres; not changed.
            Points with a non-finite coordinate fall into no image.
        lidar2image, img_aug_matrix: (B, N, 4, 4); lidar_aug_matrix: (B, 4, 4).
        image_size: height and width of the augmented image in pixels, multiples of ``stride``.
        keep: (P,) bool, the points to draw; all when None.

    Returns:
        depth (B, N, H / stride, W / stride) along the camera's z axis, metres, 0 in cells without
        a return; and a bool mask of the cells that have one.

    Raises:
        ConfigError: ``stride`` does not divide ``image_size``.
    """
    if keep is not None:
        points = points[keep]
    returns = image_returns(points, lidar2image, img_aug_matrix, lidar_aug_matrix, image_size)
    depth, valid = z_buffer(returns, lidar2image.shape[:2].numel(), image_size, stride)
    shape = (*lidar2image.shape[:2], *depth.shape[1:])
    return depth.view(shape), valid.view(shape)


def image_returns(
    points: torch.Tensor,
    lidar2image: torch.Tensor,
    img_aug_matrix: torch.Tensor,
    lidar_aug_matrix: torch.Tensor,
    image_size: tuple[int, int],
) -> ImageReturns:
    """All points in view of each camera of their sample; arguments as :func:`lidar_depth_map`."""
    samples = [
        _sample_returns(
            (points[:, 0] == sample).nonzero().squeeze(1),
            points,
            lidar2image[sample : sample + 1],
            img_aug_matrix[sample : sample + 1],
            lidar_aug_matrix[sample : sample + 1],
            image_size,
        )
        for sample in range(len(lidar2image))
    ]
    cameras = lidar2image.shape[1]
    image = torch.cat([one.image + i * cameras for i, one in enumerate(samples)])
    rest = (torch.cat(parts) for parts in zip(*(one[1:] for one in samples), strict=True))
    return ImageReturns(image, *rest)


def _sample_returns(rows, points, lidar2image, img_aug_matrix, lidar_aug_matrix, image_size):
    xyz = points.index_select(0, rows)[None, :, 1:4]
    pixel, depth = image_from_lidar(xyz, lidar2image, img_aug_matrix, lidar_aug_matrix)
    # Comparisons are false for the NaN pixels of points that are not in front of the camera.
    seen = (pixel >= 0).all(-1) & (pixel < pixel.new_tensor(image_size[::-1])).all(-1)
    _, camera, row = seen.nonzero(as_tuple=True)
    return ImageReturns(camera, rows[row], pixel[0, camera, row], depth[0, camera, row])


def z_buffer(
    returns: ImageReturns, num_images: int, image_size: tuple[int, int], stride: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest return per cell: depth and validity, (num_images, H / stride, W / stride).

    Raises:
        ConfigError: ``stride`` does not divide ``image_size``.
    """
    if image_size[0] % stride or image_size[1] % stride:
        raise ConfigError(f"image size {tuple(image_size)} is no multiple of the stride {stride}")
    height, width = image_size[0] // stride, image_size[1] // stride
    column, row = returns.pixel.long().div(stride, rounding_mode="floor").unbind(1)
    cell = (returns.image * height + row) * width + column
    nearest = returns.depth.new_full((num_images * height * width,), torch.inf)
    nearest.scatter_reduce_(0, cell, returns.depth, "amin")
    valid = nearest < torch.inf
    depth = torch.where(valid, nearest, 0.0)
    shape = (num_images, height, width)
    return depth.view(shape), valid.view(shape)
