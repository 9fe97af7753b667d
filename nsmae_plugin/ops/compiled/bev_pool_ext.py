"""Torch-native ``bev_pool_ext``: sums of the lifted camera features in each BEV cell.

Same functions as OpenPCDet's extension (``pcdet/ops/bev_pool/src``), on CPU and GPU, in any
floating type. The caller sorts the points by cell; points of one cell form an interval.
"""

import torch
from torch.nn import functional as F

__all__ = ["bev_pool_backward", "bev_pool_forward"]


def bev_pool_forward(
    x: torch.Tensor,
    geom_feats: torch.Tensor,
    interval_lengths: torch.Tensor,
    interval_starts: torch.Tensor,
    b: int,
    d: int,
    h: int,
    w: int,
) -> torch.Tensor:
    """Sum the features of each interval into its cell.

    Args:
        x: features of the points, (n, c), sorted by cell.
        geom_feats: cell of each point, (n, 4) integers: row (of h), column (of w), layer (of d),
            sample (of b).
        interval_lengths, interval_starts: (n_intervals,); together they cover all points once, in
            order, and no cell has two intervals.
        b, d, h, w: size of the grid; OpenPCDet passes some of them as tensors of one integer.

    Returns:
        (b, d, h, w, c), zero in cells without a point.
    """
    b, d, h, w = (int(size) for size in (b, d, h, w))
    out = x.new_zeros(b * d * h * w, x.shape[1])
    if len(interval_starts):
        points = torch.arange(len(x), device=x.device)
        sums = F.embedding_bag(points, x, interval_starts.long(), mode="sum")
        out[_cells(geom_feats, interval_starts, d, h, w)] = sums
    return out.view(b, d, h, w, x.shape[1])


def bev_pool_backward(
    out_grad: torch.Tensor,
    geom_feats: torch.Tensor,
    interval_lengths: torch.Tensor,
    interval_starts: torch.Tensor,
    b: int,
    d: int,
    h: int,
    w: int,
) -> torch.Tensor:
    """The gradient by ``x``, (n, c): every point takes the gradient of its cell.

    Args:
        out_grad: gradient by the output of :func:`bev_pool_forward`, (b, d, h, w, c).
    """
    cells = _cells(geom_feats, interval_starts, d, h, w)
    per_point = cells.repeat_interleave(interval_lengths.long(), output_size=len(geom_feats))
    return out_grad.reshape(-1, out_grad.shape[-1]).index_select(0, per_point)


def _cells(
    geom_feats: torch.Tensor, interval_starts: torch.Tensor, d: int, h: int, w: int
) -> torch.Tensor:
    """Row of each interval in the output flattened to (b * d * h * w, c)."""
    row, column, layer, sample = geom_feats[interval_starts.long()].long().unbind(1)
    return ((sample * d + layer) * h + row) * w + column
