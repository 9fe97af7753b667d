"""Training targets of a CenterHead."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.host.builtin.modules.heatmap import draw_gaussian, gaussian_radius

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
