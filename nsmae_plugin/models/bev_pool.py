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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nsmae_plugin.errors import ConfigError

ROUNDINGS = ("truncate", "floor")
GATHER_CHUNK = 1 << 18  # pairs whose channels are gathered at a time where no sampled product is


def bin_count(bound: Sequence[float], name: str) -> int:
    """Number of steps in ``[start, stop, step]``.

    Rounded, not truncated: (50.4 - -50.4) / 0.4 is 251.99... in floating point and means 252.

    Raises:
        ConfigError: the range is no positive multiple (to 1e-3) of the step.
    """
    start, stop, step = bound
    count = (stop - start) / step if step > 0 else 0.0
    if round(count) < 1 or abs(count - round(count)) > 1e-3:
        raise ConfigError(
            f"{name} {list(bound)}: the range {stop - start:g} must be a positive multiple of the "
            f"step {step:g}"
        )
    return round(count)


@dataclass(frozen=True)
class BevGrid:
    """Cells along x, y and z: lower corner and cell size in metres, and counts."""

    lower: tuple[float, ...]
    step: tuple[float, ...]
    size: tuple[int, ...]

    @classmethod
    def from_bounds(cls, bounds: dict[str, Sequence[float]]) -> BevGrid:
        """Of three ``name: [start, stop, step]`` in the order x, y, z.

        Raises:
            ConfigError: naming a bound whose range is no multiple of its step.
        """
        return cls(
            lower=tuple(float(bound[0]) for bound in bounds.values()),
            step=tuple(float(bound[2]) for bound in bounds.values()),
            size=tuple(bin_count(bound, name) for name, bound in bounds.items()),
        )

    @property
    def num_cells(self) -> int:
        """Cells of one sample."""
        return self.size[0] * self.size[1] * self.size[2]


def frustum_cells(
    rays: torch.Tensor,
    origins: torch.Tensor,
    depths: torch.Tensor,
    grid: BevGrid,
    rounding: str = "floor",
) -> torch.Tensor:
    """BEV cell of every (pixel, bin) pair.

    Args:
        rays: (B, N, R, 3), metres per metre of depth; origins: (B, N, 3), metres; both in the
            frame of ``grid``.
        depths: (D,) metres.
        rounding: 'floor' keeps what lies inside the grid. 'truncate' rounds towards zero, as
            OpenPCDet's ``.long()`` does: one cell more below each lower face is folded into the
            first cell, which checkpoints trained there expect.

    Returns:
        (B * N * R, D) int32: ((sample * X + x) * Y + y) * Z + z, or -1 outside the grid.
    """
    batch, cameras, pixels, _ = rays.shape
    step, lower = rays.new_tensor(grid.step), rays.new_tensor(grid.lower)
    rays, origins = rays / step, (origins - lower) / step
    cells = torch.empty(batch, cameras, pixels, len(depths), dtype=torch.int32, device=rays.device)
    # Camera by camera, so that the intermediate results stay in the processor's cache.
    for sample in range(batch):
        for camera in range(cameras):
            cells[sample, camera] = _camera_cells(
                rays[sample, camera],
                origins[sample, camera],
                depths,
                grid,
                rounding,
                sample * grid.num_cells,
            )
    return cells.flatten(0, 2)


def _camera_cells(rays, origin, depths, grid: BevGrid, rounding: str, first) -> torch.Tensor:
    above = torch.gt if rounding == "truncate" else torch.ge
    lowest = -1.0 if rounding == "truncate" else 0.0
    cell = torch.zeros(len(rays), len(depths), dtype=torch.int32, device=rays.device)
    inside = torch.ones_like(cell, dtype=torch.bool)
    for axis, count in enumerate(grid.size):
        position = rays[:, axis : axis + 1] * depths + origin[axis]
        inside &= above(position, lowest) & (position < count)
        cell.mul_(count).add_(position.int())
    return cell.add_(first).masked_fill_(~inside, -1)


@dataclass(frozen=True)
class PoolingPlan:
    """Where every (pixel, bin) pair goes; depends on the geometry alone. All int32.

    Attributes:
        cell_pixels, cell_pairs: (K,) pixel, and pixel * D + bin, of the pairs sorted by cell.
        cell_offsets: (cells + 1,) where each cell's pairs begin.
        pixel_cells, pixel_pairs: (K,) cell, and pixel * D + bin, of the pairs sorted by pixel.
        pixel_offsets: (P + 1,) where each pixel's pairs begin.
        num_bins: D.
    """

    cell_pixels: torch.Tensor
    cell_pairs: torch.Tensor
    cell_offsets: torch.Tensor
    pixel_cells: torch.Tensor
    pixel_pairs: torch.Tensor
    pixel_offsets: torch.Tensor
    num_bins: int

    @cached_property
    def longest_cells_first(self) -> torch.Tensor:
        """(cells,) int32: the cells from that with the most pairs to those with none."""
        return self.cell_offsets.diff().sort(descending=True, stable=True).indices.int()


def build_plan(cells: torch.Tensor, num_cells: int) -> PoolingPlan:
    """Sort the pairs of one geometry.

    Args:
        cells: (P, D) int32, BEV cell of each pair, in [0, num_cells), or -1 outside the grid.
        num_cells: rows of the pooled result.
    """
    inside = cells >= 0
    pairs = inside.flatten().nonzero().squeeze(1)
    pixel_cells = cells.flatten().index_select(0, pairs)
    pairs = pairs.int()
    order = pixel_cells.sort(stable=True).indices
    cell_pairs = pairs.index_select(0, order)
    return PoolingPlan(
        cell_pixels=cell_pairs.div(cells.shape[1], rounding_mode="trunc"),
        cell_pairs=cell_pairs,
        cell_offsets=_offsets(torch.bincount(pixel_cells, minlength=num_cells)),
        pixel_cells=pixel_cells,
        pixel_pairs=pairs,
        pixel_offsets=_offsets(inside.sum(1, dtype=torch.int32)),
        num_bins=cells.shape[1],
    )


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))


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
        kernels: 'torch', or 'triton' for those of :mod:`nsmae_plugin.models.kernels.bev_pool`.

    Returns:
        (cells, C), zero in cells without a pair. Differentiable once in ``depth`` and ``context``.
    """
    if kernels == "triton":
        from nsmae_plugin.models.kernels.bev_pool import FusedBevPool

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
