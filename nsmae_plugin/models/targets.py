"""Targets of the reconstruction, from the clean images and the unmasked point cloud.

A batch has ``points`` (P, 4 or more), the unmasked cloud (absent: no depth target is valid), and
for the cameras ``camera_imgs``, ``image_mean``, ``image_std``, ``lidar2image``, ``img_aug_matrix``
and ``lidar_aug_matrix``. Targets never share memory with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.depth_map import lidar_depth_map

EDGE = 0.25  # pixels of the input by which turning an image may round


def colour_target(batch_dict: Mapping[str, Any], stride: int) -> Tensor:
    """(B, N, 3, h, w) colours in [0, 1]: the mean of the ``stride`` × ``stride`` pixels of a cell.

    Raises:
        ConfigError: ``image_mean`` or ``image_std`` (B, 3) is missing.
    """
    images = batch_dict["camera_imgs"].float()
    if "image_mean" not in batch_dict or "image_std" not in batch_dict:
        raise ConfigError(
            "colour targets need image_mean and image_std in the batch: add image_normalize to "
            "DATA_CONFIG.DATA_PROCESSOR of a MultiModalNuScenesDataset"
        )
    mean, std = (batch_dict[key][:, None, :, None, None] for key in ("image_mean", "image_std"))
    pooled = F.avg_pool2d(images.flatten(0, 1), stride).unflatten(0, images.shape[:2])
    return pooled * std + mean


def filled_cells(batch_dict: Mapping[str, Any], stride: int) -> Tensor:
    """(B, N, h, w) bool: cells of ``stride`` × ``stride`` pixels that the camera's image fills.

    Where a scaled image is smaller than the network's input, and in the corners that a rotation
    leaves, the input is black, and nothing is there to reconstruct.

    Args:
        batch_dict: ``camera_imgs``, ``img_aug_matrix`` and ``image_bounds`` (B, N, 4): left, top,
            right, bottom of the part of the raw image that was taken, in its pixels. Without them
            all cells count as filled.
    """
    batch, cameras, _, height, width = batch_dict["camera_imgs"].shape
    matrix, bounds = batch_dict["img_aug_matrix"].double(), batch_dict.get("image_bounds")
    if bounds is None:
        shape = (batch, cameras, height // stride, width // stride)
        return torch.ones(shape, dtype=torch.bool, device=matrix.device)
    # The part is convex: a cell lies in it if the pixels in the cell's corners do.
    ends = torch.tensor([0.5 - EDGE, stride - 0.5 + EDGE], dtype=torch.float64).to(matrix.device)
    v = (torch.arange(0, height, stride, device=matrix.device)[:, None] + ends).flatten()
    u = (torch.arange(0, width, stride, device=matrix.device)[:, None] + ends).flatten()
    pixels = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)  # (2 h, 2 w, 2)
    (a, b), (c, d) = (row.unbind(-1) for row in matrix[..., :2, :2].unbind(-2))
    inverse = torch.stack((d, -b, -c, a), dim=-1) / (a * d - b * c).unsqueeze(-1)
    inverse = inverse.unflatten(-1, (2, 2))[:, :, None]
    raw = (pixels - matrix[:, :, None, None, :2, 3]) @ inverse.transpose(-1, -2)
    low, high = bounds.double()[:, :, None, None].split(2, dim=-1)
    inside = ((raw >= low) & (raw <= high)).all(-1)
    return inside.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).all(-1).all(-2)


def nearest_returns(
    batch_dict: Mapping[str, Any],
    stride: int,
    visible: bool = False,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The nearest LiDAR return in every cell of ``stride`` × ``stride`` pixels.

    Args:
        visible: only of the points that ``depth_point_mask`` (P,), which earlier versions called
            ``depth_hint_mask``, does not hide from the network.
        size: height and width of the images; None takes those of ``camera_imgs``.

    Returns:
        depth (B, N, h, w) in metres along the camera's z axis, and a bool mask of the cells in
        which a point falls.
    """
    hidden = batch_dict.get("depth_point_mask", batch_dict.get("depth_hint_mask"))
    return lidar_depth_map(
        unmasked_points(batch_dict),
        batch_dict["lidar2image"],
        batch_dict["img_aug_matrix"],
        batch_dict["lidar_aug_matrix"],
        size or tuple(batch_dict["camera_imgs"].shape[-2:]),
        stride,
        keep=~hidden if visible and hidden is not None else None,
    )


def depth_from_above(points: Tensor, batch_size: int, grid: BEVGrid) -> tuple[Tensor, Tensor]:
    """Depth below the top of the range of the topmost occupied voxel in every BEV cell.

    Works on the points alone; no dense grid of voxels is built.

    Args:
        points: (P, 4 or more), sample index, x, y, z; points outside the range are ignored.

    Returns:
        depth (B, Y, X) in metres, to the centre of that voxel, 0 where the cell is empty; and a
        bool mask of the cells that are not.
    """
    index, inside = grid.voxels(points[:, 1:4])
    x, y, z = index.unbind(1)
    cell = grid.flat_cells(points[:, 0].long(), x, y)
    rows, columns = grid.shape
    empty = grid.size[2]
    level = torch.where(inside, empty - 1 - z, empty)  # 0 is the top; points outside change nothing
    highest = level.new_full((batch_size * rows * columns,), empty)
    highest.scatter_reduce_(0, cell, level, "amin")
    highest = highest.view(batch_size, rows, columns)
    valid = highest < empty
    depth = (highest + 0.5) * grid.step[2]
    return torch.where(valid, depth, 0.0), valid


def occupied_cells(batch_dict: Mapping[str, Any], grid: BEVGrid) -> Tensor:
    """(B, Y, X) bool: BEV cells with one of the visible ``voxel_coords`` (V, 4) b, z, y, x."""
    coords = batch_dict.get("voxel_coords", batch_dict["lidar_aug_matrix"].new_zeros(0, 4))
    sample, _, y, x = coords.long().unbind(1)
    shape = (batch_dict["batch_size"], *grid.shape)
    occupied = torch.zeros(shape, dtype=torch.bool, device=coords.device)
    occupied.view(-1)[grid.flat_cells(sample, x, y)] = True
    return occupied


def unmasked_points(batch_dict: Mapping[str, Any]) -> Tensor:
    """The whole point cloud of a batch; (0, 4) without one."""
    points = batch_dict.get("points")
    return batch_dict["lidar_aug_matrix"].new_zeros(0, 4) if points is None else points
