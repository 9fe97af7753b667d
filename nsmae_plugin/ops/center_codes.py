"""Codes of a CenterHead: training targets from boxes, and boxes from the maps that it predicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.ops.heatmap import draw_gaussian, gaussian_radius

Targets = tuple[Tensor, Tensor, Tensor, Tensor]


def assign_group(labels: Tensor, classes: Sequence[int], grid: BEVGrid, config: Any) -> Targets:
    """Targets of one group of classes for a batch.

    Args:
        labels: (B, M, 8 or 10) on the CPU: x, y, z, dx, dy, dz, yaw[, vx, vy], label from 1;
            padding has label 0.
        classes: the classes of the group, counted from 0, in the order of its heatmaps.
        config: TARGET_ASSIGNER_CONFIG: NUM_MAX_OBJS (K), GAUSSIAN_OVERLAP, MIN_RADIUS.

    Returns:
        heatmap (B, classes, Y, X); codes (B, K, 8 or 10) as :func:`encode`; the flat cell of each
        centre (B, K) int64; which of the K slots hold an object (B, K) bool.
    """
    samples = [_assign_sample(one, classes, grid, config) for one in labels]
    heatmap, codes, cells, mask = (torch.stack(part) for part in zip(*samples, strict=True))
    return heatmap, codes, cells, mask


def encode(boxes: Tensor, center: Tensor, cell: Tensor) -> Tensor:
    """(n, 8 or 10): centre within its cell (cells), z, log sizes, cos and sin of the yaw[, speed].

    Args:
        boxes: (n, 7 or 9). center, cell: (n, 2) x and y in cells, the latter whole numbers.
    """
    yaw = boxes[:, 6:7]
    parts = [center - cell, boxes[:, 2:3], boxes[:, 3:6].log(), yaw.cos(), yaw.sin(), boxes[:, 7:]]
    return torch.cat(parts, dim=1)


def _assign_sample(labels: Tensor, classes: Sequence[int], grid: BEVGrid, config: Any) -> Targets:
    is_class = labels[:, -1:].long() == torch.tensor(classes) + 1  # (M, classes)
    chosen = is_class.any(dim=1).nonzero().flatten()[: config.NUM_MAX_OBJS]
    boxes, category = labels[chosen, :-1], is_class[chosen].int().argmax(dim=1)
    rows, columns = grid.shape
    # A centre beyond the map counts at its edge; half a cell is what a float32 keeps apart.
    edge = torch.tensor([columns - 0.5, rows - 0.5])
    center = grid.coordinates(boxes[:, :2]).clamp(min=0).minimum(edge)
    cell = center.long()
    # A box without volume has no Gaussian or no logarithm.
    valid = (boxes[:, 3:6] > 0).all(dim=1)
    extent = grid.in_cells(boxes[:, 3:5])
    radius = gaussian_radius(extent[:, 0], extent[:, 1], config.GAUSSIAN_OVERLAP).int()

    heatmap = labels.new_zeros(len(classes), rows, columns)
    for k in valid.nonzero().flatten().tolist():
        around = max(int(radius[k]), config.MIN_RADIUS)
        draw_gaussian(heatmap[category[k]], (int(cell[k, 0]), int(cell[k, 1])), around)

    codes = labels.new_zeros(config.NUM_MAX_OBJS, labels.shape[1])
    codes[: len(boxes)] = torch.where(valid[:, None], encode(boxes, center, cell), 0)
    cells = torch.zeros(config.NUM_MAX_OBJS, dtype=torch.long)
    cells[: len(boxes)] = torch.where(valid, cell[:, 1] * columns + cell[:, 0], 0)
    mask = torch.zeros(config.NUM_MAX_OBJS, dtype=torch.bool)
    mask[: len(boxes)] = valid
    return heatmap, codes, cells, mask


def gather(maps: Tensor, cells: Tensor) -> Tensor:
    """The values of (B, C, Y, X) maps at (B, K) flat cells (row * X + column): (B, K, C)."""
    rows = maps.flatten(2).transpose(1, 2)
    return rows.gather(1, cells[..., None].expand(-1, -1, rows.shape[2]))


def regression_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(C,) sums of absolute differences over the objects, divided by their number (at least 1).

    Args:
        predicted, target: (B, K, C); a NaN in ``target`` is unknown and costs nothing.
        mask: (B, K) bool, which of the K are objects.
    """
    known = mask[..., None] & ~target.isnan()
    distance = torch.where(known, (predicted - target).abs(), 0)
    return distance.sum(dim=(0, 1)) / mask.sum().clamp(min=1)


def decode(
    maps: Mapping[str, Tensor],
    grid: BEVGrid,
    limits: Sequence[float],
    count: int,
    score_threshold: float,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The boxes at the ``count`` highest scores of each sample, over all classes of the group.

    Neighbouring cells may give nearly the same box: suppression is the caller's.

    Args:
        maps: ``hm`` logits (B, classes, Y, X), ``center`` (2 channels, the offset from the corner
            of the cell in cells), ``center_z`` (1, metres), ``dim`` (3, logarithms of metres),
            ``rot`` (2, cosine and sine of the yaw), optionally ``vel`` (2, metres per second).
        limits: lower and upper x, y, z within which centres may lie.
        score_threshold: scores must be higher.

    Returns:
        Per sample boxes (n, 7 or 9) in the LiDAR frame, scores (n,) and classes (n,), by
        descending score.
    """
    classes, height, width = maps["hm"].shape[1:]
    scores = maps["hm"].sigmoid().flatten(1)
    scores, places = scores.topk(min(count, classes * height * width))  # (B, K)
    cells = places % (height * width)
    boxes = _boxes_at(maps, cells, width, grid)
    low, high = torch.tensor(limits, dtype=boxes.dtype, device=boxes.device).view(2, 3)
    inside = ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(-1)
    keep = inside & (scores > score_threshold)
    found = zip(boxes, scores, places // (height * width), keep, strict=True)
    return [(box[mask], score[mask], label[mask]) for box, score, label, mask in found]


def _boxes_at(maps: Mapping[str, Tensor], cells: Tensor, width: int, grid: BEVGrid) -> Tensor:
    """(B, K, 7 or 9) boxes of the maps at (B, K) flat cells."""
    corners = torch.stack((cells % width, cells // width), dim=-1)
    cosine, sine = gather(maps["rot"], cells).split(1, dim=-1)
    parts = [
        grid.metres(corners + gather(maps["center"], cells)),
        gather(maps["center_z"], cells),
        gather(maps["dim"], cells).exp(),
        torch.atan2(sine, cosine),
    ]
    if "vel" in maps:
        parts.append(gather(maps["vel"], cells))
    return torch.cat(parts, dim=-1)
