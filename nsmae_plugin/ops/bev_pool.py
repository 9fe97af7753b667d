"""BEV pooling of camera features from the two factors of the frustum.

Lift-Splat-Shoot (Philion and Fidler, 2020) spreads each pixel's context over ``D`` depth bins and
sums what falls into each BEV cell. OpenPCDet and NS-MAE build the lifted tensor (pixels x bins x
channels) for that. Because it is an outer product, the sum is an embedding bag instead: a cell's
row is the sum of ``depth[pixel, bin] * context[pixel]`` over the (pixel, bin) *pairs* inside it.
The same pairs, grouped by pixel, give both gradients. Nothing of pairs x channels is ever built.

``P`` pixels of all images of the batch, row ``image * fH * fW + v * fW + u``; ``D`` depth bins;
``K`` pairs inside the grid; ``C`` channels. Every sum runs in a fixed order: results are
reproducible bit for bit.
"""

from __future__ import annotations

import warnings

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nsmae_plugin.ops.pooling_plan import PoolingPlan

GATHER_CHUNK = 1 << 18  # pairs whose channels are gathered at a time where no sampled product is


def to_rows(maps: torch.Tensor) -> torch.Tensor:
    """(images, C, fH, fW) -> (P, C), one row per pixel."""
    return maps.flatten(2).transpose(1, 2).reshape(-1, maps.shape[1])


def bev_pool(
    depth: torch.Tensor, context: torch.Tensor, plan: PoolingPlan, kernels: str = "torch"
) -> torch.Tensor:
    """Sum depth-weighted contexts in each BEV cell.

    Args:
        depth: (P, D) depth probabilities, float32 or float64.
        context: (P, C), of the same type.
        plan: of this geometry, on the same device.
        kernels: 'torch', or 'triton' for those of :mod:`nsmae_plugin.ops.kernels.pooling`.

    Returns:
        (cells, C), zero in cells without a pair. Differentiable once in ``depth`` and ``context``.
    """
    if kernels == "triton":
        from nsmae_plugin.ops.kernels.pooling import FusedBevPool

        return FusedBevPool.apply(depth, context, plan)
    return _BevPool.apply(depth, context, plan)


class _BevPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, depth, context, plan):
        ctx.plan = plan
        depth, context = depth.contiguous(), context.contiguous()
        ctx.save_for_backward(depth, context)
        weights = depth.view(-1).index_select(0, plan.cell_pairs)
        return _weighted_bags(plan.cell_pixels, context, plan.cell_offsets, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        plan = ctx.plan
        depth, context = ctx.saved_tensors
        grad = grad.contiguous()
        depth_grad = context_grad = None
        if ctx.needs_input_grad[0]:
            depth_grad = torch.zeros_like(depth)
            # Scattering by int64 takes a tenth of the time of indexing by int32.
            pairs = plan.pixel_pairs.long()
            depth_grad.view(-1).scatter_(0, pairs, _pair_products(context, grad, plan))
        if ctx.needs_input_grad[1]:
            weights = depth.view(-1).index_select(0, plan.pixel_pairs)
            context_grad = _weighted_bags(plan.pixel_cells, grad, plan.pixel_offsets, weights)
        return depth_grad, context_grad, None


def _weighted_bags(indices, rows, offsets, weights):
    if not len(indices):
        return rows.new_zeros(len(offsets) - 1, rows.shape[1])
    return F.embedding_bag(
        indices, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _pair_products(context, grad, plan: PoolingPlan) -> torch.Tensor:
    """(K,) products ``context[pixel] . grad[cell]``, one per pair, sorted by pixel."""
    # cuSPARSE promises nothing for rows that name a cell twice, as steep rays do, and torch
    # shortens a pattern that has more entries than its dense matrix (fewer cells than bins).
    if grad.is_cuda or len(plan.pixel_pairs) > len(context) * len(grad):
        return _gathered_products(context, grad, plan)
    return _sampled_products(context, grad, plan)


def _sampled_products(context, grad, plan: PoolingPlan) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            plan.pixel_offsets,
            plan.pixel_cells,
            context.new_zeros(len(plan.pixel_cells)),
            size=(len(context), len(grad)),
            check_invariants=False,
        )
    # Written over the pattern, which saves a copy of it.
    return torch.sparse.sampled_addmm(pattern, context, grad.t(), beta=0.0, out=pattern).values()


def _gathered_products(context, grad, plan: PoolingPlan) -> torch.Tensor:
    pixels = plan.pixel_pairs.div(plan.num_bins, rounding_mode="trunc")
    chunks = zip(pixels.split(GATHER_CHUNK), plan.pixel_cells.split(GATHER_CHUNK), strict=True)
    return torch.cat([(context[pixel] * grad[cell]).sum(1) for pixel, cell in chunks])
