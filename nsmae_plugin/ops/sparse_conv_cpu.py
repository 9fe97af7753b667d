"""Sparse convolutions on CPU tensors, forward and backward.

For every offset of the kernel, the input rows that it reads are gathered, multiplied by the weights
of the offset, and added to the output rows. The rows of one offset stay in the cache, and sums are
made in a fixed order: a result is the same, bit for bit, in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Numbers in a block of rows: 1 MiB of float32.
_BLOCK = 2**18


class Pairs(NamedTuple):
    """The rows that each offset of a kernel connects.

    Attributes:
        steps: kernel offset, and (P,) int32 input and output rows, of all offsets with pairs.
            Within an offset no row occurs twice.
        centre: the offset of a submanifold convolution that connects every row with itself and is
            not among the steps; None otherwise.
    """

    steps: list[tuple[int, Tensor, Tensor]]
    centre: int | None = None


def read_pairs(rows: Tensor, counts: Tensor, inverse: bool, submanifold: bool) -> Pairs:
    """Pairs from spconv's rulebook.

    Args:
        rows: (2, K, N) int32, input and output rows by kernel offset, filled up with -1.
        counts: (K,) number of pairs of each offset. Of a submanifold convolution spconv counts
            those before the centre only, which the others mirror.
        inverse: the rulebook is that of the convolution to be inverted.
    """
    numbers, centre = counts.tolist(), None
    if submanifold:
        centre = len(numbers) // 2
        numbers = [*numbers[:centre], 0, *reversed(numbers[:centre])]
    inputs, outputs = rows.flip(0).unbind() if inverse else rows.unbind()
    steps = [(k, inputs[k, :n], outputs[k, :n]) for k, n in enumerate(numbers) if n]
    return Pairs(steps, centre)


def sparse_conv(
    features: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs, num_rows: int
) -> Tensor:
    """Convolve rows of features; differentiable by features, weight and bias.

    Under autocast to bfloat16, products are made in bfloat16 where the processor has instructions
    for them; sums are made in float32.

    Args:
        features: (N, C_in), floating point.
        weight: (C_out, kz, ky, kx, C_in).
        bias: (C_out,) or None.
        num_rows: number of output rows, M.

    Returns:
        (M, C_out) in the wider type of features and weight.
    """
    wide = torch.promote_types(features.dtype, weight.dtype)
    product = torch.promote_types(wide, torch.float32)
    if product == torch.float32 and _autocasts_to_bfloat16() and multiplies_bfloat16():
        product = torch.bfloat16
    return _SparseConv.apply(features, weight, bias, pairs, num_rows, product).to(wide)


def _autocasts_to_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


@cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    found = llvmlite.binding.get_host_cpu_features()
    return any(found.get(name, False) for name in ("avx512bf16", "amx-bf16"))


class _SparseConv(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pairs: Pairs,
        num_rows: int,
        product: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, bias)
        ctx.pairs, ctx.product = pairs, product
        rows, taps = features.to(product).contiguous(), _taps(weight).to(product)
        out = _start(rows, taps, pairs, num_rows)
        buffer = torch.empty_like(rows)
        for offset, inputs, outputs in _blocks(pairs, taps):
            _add(out, outputs, _multiply(_gather(rows, inputs, buffer), taps[offset]))
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias = ctx.saved_tensors
        wanted, weight_wanted, bias_wanted = ctx.needs_input_grad[:3]
        rows = features.to(ctx.product).contiguous()
        slopes = gradient.to(ctx.product).contiguous()
        taps = _taps(weight).to(ctx.product)
        with torch.autocast("cpu", enabled=False):
            by_rows, by_taps = _backward(rows, slopes, taps, ctx.pairs, wanted, weight_wanted)
        return (
            by_rows.to(features.dtype) if by_rows is not None else None,
            by_taps.movedim(0, 1).reshape(weight.shape).to(weight.dtype) if weight_wanted else None,
            gradient.sum(0).to(bias.dtype) if bias_wanted else None,
            *(None, None, None),
        )


def _backward(
    rows: Tensor, slopes: Tensor, taps: Tensor, pairs: Pairs, wanted: bool, taps_wanted: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients by the (N, C_in) rows and the (K, C_out, C_in) taps, from (M, C_out) slopes.

    Both are made from the same gathered slopes. One that is not wanted is None, or zero.
    """
    by_rows = _start(slopes, taps.mT, pairs, len(rows)) if wanted else None
    by_taps = torch.zeros_like(taps)
    if pairs.centre is not None and taps_wanted:
        by_taps[pairs.centre] = _multiply(slopes.mT, rows.mT)
    row_buffer, slope_buffer = torch.empty_like(rows), torch.empty_like(slopes)
    for offset, inputs, outputs in _blocks(pairs, taps):
        gathered = _gather(slopes, outputs, slope_buffer)
        if taps_wanted:
            by_taps[offset] += _multiply(gathered.mT, _gather(rows, inputs, row_buffer).mT)
        if by_rows is not None:
            _add(by_rows, inputs, _multiply(gathered, taps[offset].mT))
    return by_rows, by_taps


def _taps(weight: Tensor) -> Tensor:
    """(K, C_out, C_in): the weights by kernel offset."""
    return weight.flatten(1, -2).movedim(1, 0).contiguous()


def _start(rows: Tensor, taps: Tensor, pairs: Pairs, num_rows: int) -> Tensor:
    """(num_rows, C_out) sums to which the pairs are added, in float32 or wider."""
    kind = torch.promote_types(rows.dtype, torch.float32)
    if pairs.centre is None:
        return torch.zeros(num_rows, taps.shape[1], dtype=kind)
    return _multiply(rows, taps[pairs.centre]).to(kind)


def _blocks(pairs: Pairs, taps: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The steps, in pieces whose rows stay in the cache."""
    size = _BLOCK // max(taps.shape[1:])
    for offset, inputs, outputs in pairs.steps:
        for piece in zip(inputs.split(size), outputs.split(size), strict=True):
            yield offset, *piece


def _gather(rows: Tensor, places: Tensor, buffer: Tensor) -> Tensor:
    """``rows[places]``, in the buffer."""
    return torch.index_select(rows, 0, places, out=buffer[: len(places)])


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """(A, B) from (A, C) and (B, C): ``left @ right.T``."""
    if left.dtype == torch.float32 and _onednn_is_faster(left, right):
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return left @ right.mT


def _onednn_is_faster(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN beats MKL, which does without AVX-512 on some processors that have it.

    Below a million multiplications its 10 µs for a call count. The factors of gradients by weights
    are turned first, which pays for many channels only.
    """
    if len(left) * right.numel() < 2**20 or (left.stride(-1) != 1 and len(left) < 64):
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _add(out: Tensor, places: Tensor, rows: Tensor) -> None:
    """``out[places] += rows``."""
    _add_rows(out.numpy(), places.numpy(), rows.to(out.dtype).numpy())


@numba.njit
def _add_rows(out, places, rows):  # type: ignore[no-untyped-def]
    # Takes half the time of index_add_, and a tenth of it with more than one thread.
    for number in range(len(places)):
        place = places[number]
        for channel in range(rows.shape[1]):
            out[place, channel] += rows[number, channel]
