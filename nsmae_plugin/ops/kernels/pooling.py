"""BEV pooling as two kernels: sums of the pairs of a cell, and both gradients of a pixel.

Arguments, results and notation as :func:`nsmae_plugin.ops.bev_pool.bev_pool`. A program adds up
the pairs of one row in the order of the plan, :data:`TILE` values at a time, without atomics:
results are reproducible bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from nsmae_plugin.ops.kernels.launch import launch
from nsmae_plugin.ops.pooling_plan import PoolingPlan

TILE = 2048  # pairs x channels that a program holds at a time
MOST_PAIRS = 32  # of a tile


@triton.jit
def _gather(rows, weights, row, pair, inside, column, channels):
    """Weights (PAIRS,) and rows (PAIRS, CHANNELS) of some pairs, 0 where there is none."""
    mask = inside[:, None] & (column < channels)[None, :]
    pointers = rows + row.to(tl.int64)[:, None] * channels + column[None, :]
    return tl.load(weights + pair, mask=inside, other=0.0), tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _pool(
    depth,
    context,
    cell_pixels,
    cell_pairs,
    cell_offsets,
    order,
    pooled,
    channels,
    PAIRS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program per cell: its row of ``pooled`` (cells, C)."""
    cell = tl.load(order + tl.program_id(0))
    first, last = tl.load(cell_offsets + cell), tl.load(cell_offsets + cell + 1)
    column = tl.arange(0, CHANNELS)
    total = tl.zeros([CHANNELS], dtype=context.dtype.element_ty)
    for start in range(first, last, PAIRS):
        entry = start + tl.arange(0, PAIRS)
        inside = entry < last
        pixel = tl.load(cell_pixels + entry, mask=inside, other=0)
        pair = tl.load(cell_pairs + entry, mask=inside, other=0)
        weight, rows = _gather(context, depth, pixel, pair, inside, column, channels)
        total += tl.sum(weight[:, None] * rows, axis=0)
    tl.store(pooled + cell.to(tl.int64) * channels + column, total, mask=column < channels)


@triton.jit
def _pool_backward(
    depth,
    context,
    grad,
    pixel_cells,
    pixel_pairs,
    pixel_offsets,
    grad_depth,
    grad_context,
    channels,
    PAIRS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program per pixel: its row of both gradients, of each row of ``grad`` read once."""
    pixel = tl.program_id(0)
    first, last = tl.load(pixel_offsets + pixel), tl.load(pixel_offsets + pixel + 1)
    column = tl.arange(0, CHANNELS)
    own = pixel.to(tl.int64) * channels + column
    features = tl.load(context + own, mask=column < channels, other=0.0)
    total = tl.zeros([CHANNELS], dtype=context.dtype.element_ty)
    for start in range(first, last, PAIRS):
        entry = start + tl.arange(0, PAIRS)
        inside = entry < last
        cell = tl.load(pixel_cells + entry, mask=inside, other=0)
        pair = tl.load(pixel_pairs + entry, mask=inside, other=0)
        weight, rows = _gather(grad, depth, cell, pair, inside, column, channels)
        tl.store(grad_depth + pair, tl.sum(features[None, :] * rows, axis=1), mask=inside)
        total += tl.sum(weight[:, None] * rows, axis=0)
    tl.store(grad_context + own, total, mask=column < channels)


class FusedBevPool(torch.autograd.Function):
    """``_BevPool`` of :mod:`nsmae_plugin.ops.bev_pool`; in backward both gradients or none."""

    @staticmethod
    def forward(
        ctx: Any, depth: torch.Tensor, context: torch.Tensor, plan: PoolingPlan
    ) -> torch.Tensor:
        ctx.plan = plan
        depth, context = depth.contiguous(), context.contiguous()
        ctx.save_for_backward(depth, context)
        cells, channels = len(plan.cell_offsets) - 1, context.shape[1]
        pooled = context.new_empty(cells, channels)
        pairs = plan.cell_pixels, plan.cell_pairs, plan.cell_offsets
        # The longest cells begin first and run beside all others: none is waited for at the end.
        arguments = (depth, context, *pairs, plan.longest_cells_first, pooled, channels)
        launch(_pool, (cells,), arguments, **_tile(channels))
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan = ctx.plan
        depth, context = ctx.saved_tensors
        pixels, channels = context.shape
        # Pairs outside the grid have no entry in the plan, and no gradient.
        grad_depth, grad_context = torch.zeros_like(depth), torch.empty_like(context)
        pairs = plan.pixel_cells, plan.pixel_pairs, plan.pixel_offsets
        inputs = depth, context, grad.contiguous(), *pairs
        arguments = (*inputs, grad_depth, grad_context, channels)
        launch(_pool_backward, (pixels,), arguments, **_tile(channels))
        needed = ctx.needs_input_grad
        return grad_depth if needed[0] else None, grad_context if needed[1] else None, None


def _tile(channels: int) -> dict[str, int]:
    """Pairs and channels of a tile, powers of two, and the warps that share it."""
    width = max(16, triton.next_power_of_2(channels))
    pairs = max(1, min(MOST_PAIRS, TILE // width))
    return {"PAIRS": pairs, "CHANNELS": width, "warps": max(1, width // TILE)}
