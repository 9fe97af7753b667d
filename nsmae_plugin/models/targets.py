"""Targets of the reconstruction, from the clean images and the unmasked point cloud.

Targets never share memory with what the network is given: they are computed from the uncorrupted
tensors, and nothing is masked in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.depth_map import ImageReturns, image_returns, z_buffer

EDGE = 0.25  # pixels of the input by which turning an image may round


@dataclass(frozen=True)
class CameraGrid:
    """The feature grid of the cameras, and what depths can be rendered.

    Attributes:
        stride: pixels per cell along both axes.
        near, far: metres along the camera's z axis, boundaries of the depth bins.
    """

    stride: int
    near: float
    far: float


@torch.no_grad()
def build_targets(
    batch_dict: Mapping[str, Any], camera: CameraGrid | None, grid: BEVGrid
) -> dict[str, Tensor]:
    """All targets of a batch.

    Args:
        batch_dict: with ``points`` (P, 4 or more), the unmasked cloud (absent: no depth target is
            valid), and for the cameras ``camera_imgs`` as they came, ``image_mean``, ``image_std``,
            ``lidar2image``, ``img_aug_matrix``, ``lidar_aug_matrix``. Nothing is written into it.
        camera: None without cameras.

    Returns:
        With cameras: ``target_rgb`` (B, N, 3, h, w) in [0, 1]; ``target_rgb_mask`` (B, N, h, w)
        bool, true where the image fills the cell, see :func:`filled_cells`; ``target_depth``
        (B, N, h, w), metres along the camera's z axis; ``target_depth_mask`` bool, true where there
        is a target.
        Always: ``target_bev_depth`` (B, Y, X), metres below the top of the range;
        ``target_bev_mask`` bool. Depths are 0 where the mask is false.

    Raises:
        ConfigError: the normalisation of the images is not known.
    """
    targets = {}
    if camera is not None:
        targets["target_rgb"] = colour_target(batch_dict, camera.stride)
        filled = filled_cells(batch_dict, camera.stride)
        targets["target_rgb_mask"] = filled
        depth, valid = _depth_target(_returns(batch_dict), batch_dict, camera)
        targets["target_depth"] = torch.where(filled, depth, 0.0)
        targets["target_depth_mask"] = valid & filled
    depth, valid = bev_target(_points(batch_dict), batch_dict["batch_size"], grid)
    targets["target_bev_depth"], targets["target_bev_mask"] = depth, valid
    return targets


@torch.no_grad()
def hidden_cells(
    batch_dict: Mapping[str, Any],
    camera: CameraGrid | None,
    grid: BEVGrid,
    depth_input: bool = True,
) -> dict[str, Tensor]:
    """Which target cells the network has seen no LiDAR of; for evaluation and pictures.

    Args:
        batch_dict: as for :func:`build_targets`, with its results and, when present,
            ``depth_hint_mask`` (P,) bool, true: hidden, and ``voxel_coords`` (V, 4) b, z, y, x of
            the visible voxels.
        depth_input: the view transform reads LiDAR depth; without, every cell of the cameras is
            hidden.

    Returns:
        ``target_depth_hidden`` (B, N, h, w): valid cells in which no visible hint falls, and
        ``target_bev_hidden`` (B, Y, X): valid cells with no visible voxel.
    """
    result = {}
    if camera is not None:
        valid = batch_dict["target_depth_mask"]
        if depth_input:
            result["target_depth_hidden"] = valid & ~_hinted(batch_dict, camera).view_as(valid)
        else:
            result["target_depth_hidden"] = valid
    valid = batch_dict["target_bev_mask"]
    result["target_bev_hidden"] = valid & ~_occupied(batch_dict, grid)
    return result


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


def bev_target(points: Tensor, batch_size: int, grid: BEVGrid) -> tuple[Tensor, Tensor]:
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
    height, width = grid.shape
    empty = grid.size[2]
    level = torch.where(inside, empty - 1 - z, empty)  # 0 is the top; points outside change nothing
    highest = level.new_full((batch_size * height * width,), empty)
    highest.scatter_reduce_(0, cell, level, "amin")
    highest = highest.view(batch_size, height, width)
    valid = highest < empty
    depth = (highest + 0.5) * grid.step[2]
    return torch.where(valid, depth, 0.0), valid


def _depth_target(
    returns: ImageReturns, batch_dict: Mapping[str, Any], camera: CameraGrid
) -> tuple[Tensor, Tensor]:
    """Nearest return per feature cell, valid where the bins can render it."""
    depth, valid = z_buffer(*_image_grid(returns, batch_dict, camera))
    valid &= (depth >= camera.near) & (depth <= camera.far)
    views = batch_dict["camera_imgs"].shape[:2]
    return torch.where(valid, depth, 0.0).unflatten(0, views), valid.unflatten(0, views)


def _returns(batch_dict: Mapping[str, Any]) -> ImageReturns:
    height, width = batch_dict["camera_imgs"].shape[-2:]
    return image_returns(
        _points(batch_dict),
        batch_dict["lidar2image"],
        batch_dict["img_aug_matrix"],
        batch_dict["lidar_aug_matrix"],
        (height, width),
    )


def _image_grid(
    returns: ImageReturns, batch_dict: Mapping[str, Any], camera: CameraGrid
) -> tuple[ImageReturns, int, tuple[int, int], int]:
    """Arguments of ``z_buffer``."""
    batch, cameras, _, height, width = batch_dict["camera_imgs"].shape
    return returns, batch * cameras, (height, width), camera.stride


def _hinted(batch_dict: Mapping[str, Any], camera: CameraGrid) -> Tensor:
    """(B * N, h, w) bool: cells in which a LiDAR point falls that the view transform may see."""
    returns = _returns(batch_dict)
    hidden = batch_dict.get("depth_hint_mask")
    if hidden is not None:
        shown = ~hidden[returns.point]
        returns = ImageReturns(*(one[shown] for one in returns))
    return z_buffer(*_image_grid(returns, batch_dict, camera))[1]


def _points(batch_dict: Mapping[str, Any]) -> Tensor:
    points = batch_dict.get("points")
    return batch_dict["lidar_aug_matrix"].new_zeros(0, 4) if points is None else points


def _occupied(batch_dict: Mapping[str, Any], grid: BEVGrid) -> Tensor:
    """(B, Y, X) bool: BEV cells with a visible voxel."""
    occupied = torch.zeros_like(batch_dict["target_bev_mask"])
    if "voxel_coords" in batch_dict:
        sample, _, y, x = batch_dict["voxel_coords"].long().unbind(1)
        occupied.view(-1)[grid.flat_cells(sample, x, y)] = True
    return occupied
