"""Torch-native ``roiaware_pool3d_cuda``: points in boxes, and pooling on a grid inside each box.

Same functions as OpenPCDet's extension (``pcdet/ops/roiaware_pool3d/src``); results are written
into the output arguments. Boxes are (..., 7): x, y, z of the centre, dx, dy, dz (metres), heading
(radians, from x to y). A point belongs to a box when it is inside in height and less than a margin
outside of its sides; the extension's margin differs between its CPU and its GPU function.
"""

import torch

from nsmae_plugin.geometry.boxes import in_box_frame

__all__ = ["backward", "forward", "points_in_boxes_cpu", "points_in_boxes_gpu"]

MARGIN_CPU = 1e-2  # metres
MARGIN_GPU = 1e-5

MAX_POOL, AVERAGE_POOL = 0, 1

# Point-box pairs tested at once: about 100 MB of temporaries.
_PAIRS_PER_CHUNK = 1 << 22


def points_in_boxes_cpu(
    boxes_tensor: torch.Tensor, pts_tensor: torch.Tensor, pts_indices_tensor: torch.Tensor
) -> int:
    """Write 1 into (N, P) where a point (P, 3) is in a box (N, 7), else 0; margin 1 cm."""
    step = max(1, _PAIRS_PER_CHUNK // max(1, len(boxes_tensor)))
    for start in range(0, len(pts_tensor), step):
        part = slice(start, start + step)
        local = in_box_frame(pts_tensor[None, part], boxes_tensor)
        pts_indices_tensor[:, part] = _inside(local, boxes_tensor, MARGIN_CPU).int()
    return 1


def points_in_boxes_gpu(
    boxes_tensor: torch.Tensor, pts_tensor: torch.Tensor, box_idx_of_points_tensor: torch.Tensor
) -> int:
    """Write into (B, P) the first of the boxes (B, N, 7) that holds each point (B, P, 3).

    Points in no box keep what the tensor held (OpenPCDet fills it with -1); margin 1e-5 m.
    """
    step = max(1, _PAIRS_PER_CHUNK // max(1, boxes_tensor.shape[1]))
    if boxes_tensor.shape[1] == 0:
        return 1
    for boxes, points, found in zip(
        boxes_tensor, pts_tensor, box_idx_of_points_tensor, strict=True
    ):
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            inside = _inside(in_box_frame(points[None, part], boxes), boxes, MARGIN_GPU)
            first = inside.int().argmax(dim=0)  # argmax of booleans: the first True
            found[part] = torch.where(inside.any(dim=0), first.to(found.dtype), found[part])
    return 1


def forward(
    rois: torch.Tensor,
    pts: torch.Tensor,
    pts_feature: torch.Tensor,
    argmax: torch.Tensor,
    pts_idx_of_voxels: torch.Tensor,
    pooled_features: torch.Tensor,
    pool_method: int,
) -> int:
    """Pool the features of the points in each cell of a grid inside each box.

    Args:
        rois: boxes, (N, 7). pts: (P, 3). pts_feature: (P, C).
        argmax: written, (N, X, Y, Z, C) int32: the point that won the maximum, -1 without one.
        pts_idx_of_voxels: written, (N, X, Y, Z, M) int32: how many points, then their indices; at
            most M - 1, in the order of the input.
        pooled_features: written, (N, X, Y, Z, C); zero in cells without a point.
        pool_method: 0 maximum, 1 mean.
    """
    cell, point = _points_in_cells(rois, pts, pts_idx_of_voxels)
    features = pts_feature[point]
    pooled = pooled_features.view(-1, pts_feature.shape[1])
    if pool_method == MAX_POOL:
        highest, winner = _maximum(features, cell, point, len(pooled))
        argmax.copy_(winner.view_as(argmax))
        pooled.copy_(torch.where(winner >= 0, highest, pooled))
    else:
        total = torch.zeros_like(pooled).index_add_(0, cell, features)
        count = pts_idx_of_voxels.view(len(pooled), -1)[:, :1]
        pooled.copy_(torch.where(count > 0, total / count.clamp(min=1), pooled))
    return 1


def backward(
    pts_idx_of_voxels: torch.Tensor,
    argmax: torch.Tensor,
    grad_out: torch.Tensor,
    grad_in: torch.Tensor,
    pool_method: int,
) -> int:
    """Add to ``grad_in`` (P, C) the gradient by ``pts_feature``, given ``grad_out`` of the pooled.

    ``pts_idx_of_voxels`` and ``argmax`` are those that :func:`forward` wrote.
    """
    gradient = grad_out.reshape(-1, grad_out.shape[-1])
    if pool_method == MAX_POOL:
        winner = argmax.reshape(gradient.shape).long()
        grad_in.scatter_add_(0, winner.clamp(min=0), torch.where(winner >= 0, gradient, 0))
        return 1
    table = pts_idx_of_voxels.reshape(len(gradient), -1).long()
    count, indices = table[:, :1], table[:, 1:]
    used = torch.arange(indices.shape[1], device=table.device) < count
    cell, position = used.nonzero(as_tuple=True)
    grad_in.index_add_(0, indices[cell, position], gradient[cell] / count[cell])
    return 1


def _inside(local: torch.Tensor, boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """(N, P) bool: points in the box frame (N, P, 3) that are in their box."""
    half = boxes[:, None, 3:6] / 2
    sides = (local[..., :2].abs() < half[..., :2] + margin).all(dim=-1)
    return sides & (local[..., 2].abs() <= half[..., 2])


def _points_in_cells(
    rois: torch.Tensor, pts: torch.Tensor, pts_idx_of_voxels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells (flat, over all boxes) and their points, (K,) each; also fills the table of them."""
    *shape, capacity = pts_idx_of_voxels.shape
    cell, point = _assign(rois, pts, shape[1:])
    order = cell.argsort(stable=True)  # keeps the points of a cell in the order of the input
    cell, point = cell[order], point[order]
    count = torch.bincount(cell, minlength=pts_idx_of_voxels[..., 0].numel())
    rank = torch.arange(len(cell), device=cell.device) - (count.cumsum(0) - count)[cell]
    fits = rank < capacity - 1
    cell, point, rank = cell[fits], point[fits], rank[fits]
    table = pts_idx_of_voxels.view(-1, capacity)
    table[:, 0] = count.clamp(max=capacity - 1).to(table.dtype)
    table[cell, rank + 1] = point.to(table.dtype)
    return cell, point


def _assign(
    rois: torch.Tensor, pts: torch.Tensor, grid: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every (cell, point) where the point is in the box of the cell, by ascending point per box."""
    cells, points = [], []
    size = pts.new_tensor(grid)
    step = max(1, _PAIRS_PER_CHUNK // max(1, len(rois)))
    for start in range(0, len(pts), step):
        local = in_box_frame(pts[None, start : start + step], rois)
        box, point = _inside(local, rois, MARGIN_GPU).nonzero(as_tuple=True)
        extent = rois[box, 3:6]
        index = ((local[box, point] + extent / 2) / (extent / size)).long()
        x, y, z = torch.minimum(index.clamp(min=0), size.long() - 1).unbind(1)
        cells.append(((box * grid[0] + x) * grid[1] + y) * grid[2] + z)
        points.append(point + start)
    if not cells:
        empty = torch.zeros(0, dtype=torch.long, device=pts.device)
        return empty, empty
    return torch.cat(cells), torch.cat(points)


def _maximum(
    features: torch.Tensor, cell: torch.Tensor, point: torch.Tensor, cells: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest feature per cell and channel, and the first point that has it (-1 without any)."""
    index = cell[:, None].expand_as(features)
    highest = features.new_full((cells, features.shape[1]), -torch.inf)
    highest.scatter_reduce_(0, index, features, "amax")
    none = torch.iinfo(torch.int64).max
    wins = (features == highest[cell]) & (features > -torch.inf)
    candidates = torch.where(wins, point[:, None], none)
    winner = torch.full(highest.shape, none, device=features.device)
    winner.scatter_reduce_(0, index, candidates, "amin")
    return highest, torch.where(winner == none, -1, winner)
