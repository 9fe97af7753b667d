"""Sparse convolutions on CPU tensors, forward and backward.

For every offset of the kernel, the input rows that it reads are gathered, multiplied by the weights
of the offset, and added to the output rows. The rows of one offset stay in the cache, and sums are
made in a fixed order: a result is the same, bit for bit, in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding
import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Numbers in a block of rows, 2 MB of float32, which stay in the cache.
_BLOCK = 500_000

_BFLOAT16 = ContextVar("bfloat16 products", default=False)


class Step(NamedTuple):
    """Rows that one offset of a kernel connects.

    Attributes:
        offset: number of the offset.
        inputs, outputs: (P,) int32 rows; no output row occurs twice, and no input row.
    """

    offset: int
    inputs: np.ndarray
    outputs: np.ndarray


class Pairs(NamedTuple):
    """The rows that a kernel connects.

    Attributes:
        steps: blocks of connected rows by kernel offset; only offsets with rows occur.
        centre: the offset of a submanifold convolution that connects every row with itself and is
            not among the steps; None otherwise.
    """

    steps: list[Step]
    centre: int | None = None


def read_pairs(
    rows: Tensor, counts: Tensor, channels: int, inverse: bool, submanifold: bool
) -> Pairs:
    """Pairs from spconv's rulebook, of which they share the memory.

    Args:
        rows: (2, K, N) int32, input and output rows by kernel offset, filled up with -1.
        counts: (K,) number of pairs of each offset. Of a submanifold convolution spconv counts
            those before the centre only, which the others mirror.
        channels: of the rows, the most of inputs and outputs.
        inverse: the rulebook is that of the convolution to be inverted.
    """
    numbers, centre = counts.tolist(), None
    if submanifold:
        centre = len(numbers) // 2
        numbers = [*numbers[:centre], 0, *reversed(numbers[:centre])]
    inputs, outputs = rows.numpy()[::-1] if inverse else rows.numpy()
    block, steps = max(1, _BLOCK // channels), []
    for offset, number in enumerate(numbers):
        for start in range(0, number, block):
            part = slice(start, min(start + block, number))
            steps.append(Step(offset, inputs[offset, part], outputs[offset, part]))
    return Pairs(steps, centre)


def sparse_conv(
    features: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs, num_rows: int
) -> Tensor:
    """Convolve rows of features; differentiable by features, weight and bias.

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
    if product == torch.float32 and _BFLOAT16.get():
        product = torch.bfloat16
    return _SparseConv.apply(features, weight, bias, pairs, num_rows, product).to(wide)


@contextmanager
def bfloat16_products(enabled: bool) -> Iterator[None]:
    """Multiply float32 features and weights in bfloat16, if the processor has instructions for it.

    Sums, and with them the results, are float32. Forward passes in this context choose it for
    their backward passes too.
    """
    token = _BFLOAT16.set(enabled and multiplies_bfloat16())
    try:
        yield
    finally:
        _BFLOAT16.reset(token)


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
        rows, taps = features.to(product).contiguous(), _taps(weight, product)
        out = _start(rows, taps, pairs, num_rows)
        buffer = _buffer(rows, pairs)
        for step in pairs.steps:
            gathered = _gather(rows, step.inputs, buffer)
            _add(out, step.outputs, _multiply(gathered, taps[step.offset]))
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias = ctx.saved_tensors
        wanted, weight_wanted, bias_wanted = ctx.needs_input_grad[:3]
        rows = features.to(ctx.product).contiguous()
        slopes = gradient.to(ctx.product).contiguous()
        taps = _taps(weight, ctx.product)
        with torch.autocast("cpu", enabled=False):
            by_rows, by_taps = _backward(rows, slopes, taps, ctx.pairs, wanted, weight_wanted)
        return (
            by_rows.to(features.dtype) if by_rows is not None else None,
            by_taps.movedim(0, 1).reshape(weight.shape).to(weight.dtype) if weight_wanted else None,
            gradient.sum(0).to(bias.dtype) if bias_wanted else None,
            *(None, None, None),
        )


def _backward(
    rows: Tensor,
    slopes: Tensor,
    taps: tuple[Tensor, ...],
    pairs: Pairs,
    wanted: bool,
    taps_wanted: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients by the (N, C_in) rows and the K taps (C_out, C_in), from (M, C_out) slopes.

    Both are made from the same gathered slopes. One that is not wanted is None, or zero.
    """
    turned = tuple(tap.mT for tap in taps)
    by_rows = _start(slopes, turned, pairs, len(rows)) if wanted else None
    by_taps = rows.new_zeros(len(taps), *taps[0].shape)
    if pairs.centre is not None and taps_wanted:
        by_taps[pairs.centre] = slopes.mT @ rows
    row_buffer, slope_buffer = _buffer(rows, pairs), _buffer(slopes, pairs)
    for offset, inputs, outputs in pairs.steps:
        gathered = _gather(slopes, outputs, slope_buffer)
        if taps_wanted:
            by_taps[offset] += _multiply_turned(gathered, _gather(rows, inputs, row_buffer))
        if by_rows is not None:
            _add(by_rows, inputs, _multiply(gathered, turned[offset]))
    return by_rows, by_taps


def _taps(weight: Tensor, kind: torch.dtype) -> tuple[Tensor, ...]:
    """The weights (C_out, C_in) of every kernel offset."""
    return weight.flatten(1, -2).movedim(1, 0).to(kind).contiguous().unbind()


def _start(rows: Tensor, taps: tuple[Tensor, ...], pairs: Pairs, num_rows: int) -> Tensor:
    """(num_rows, C_out) sums to which the pairs are added, in float32 or wider."""
    kind = torch.promote_types(rows.dtype, torch.float32)
    if pairs.centre is None:
        return torch.zeros(num_rows, taps[0].shape[0], dtype=kind)
    return (rows @ taps[pairs.centre].mT).to(kind)


def _buffer(rows: Tensor, pairs: Pairs) -> Tensor:
    """Room for the rows of every block, as many as :func:`_padded` asks for."""
    longest = max((len(step.inputs) for step in pairs.steps), default=0)
    return rows.new_empty(_padded(longest), rows.shape[1])


def _padded(count: int) -> int:
    """Rows to compute for a block, at most an eighth more.

    oneDNN compiles a product for every shape, in more time than the product takes, and keeps a
    thousand of them: so there are eight numbers of rows between any one and its double. They are
    no multiples of a large power of two, which would compete for the same lines of the cache when
    a block is transposed.
    """
    step = 1 << max(4, count.bit_length() - 4)
    return -(-count // step) * step + 16


def _gather(rows: Tensor, places: np.ndarray, buffer: Tensor) -> Tensor:
    """``rows[places]`` and zeros behind them, in the buffer."""
    count, size = len(places), _padded(len(places))
    torch.index_select(rows, 0, torch.from_numpy(places), out=buffer[:count])
    buffer[count:size].zero_()
    return buffer[:size]


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """(A, B) from a padded block (A, C) and a tap (B, C): ``left @ right.T``."""
    if left.dtype == torch.float32 and left.shape[0] * right.numel() >= 2**20 and _has_onednn():
        return torch.ops.mkldnn._linear_pointwise.default(left, right, None, "none", [], "")
    return left @ right.mT


def _multiply_turned(left: Tensor, right: Tensor) -> Tensor:
    """(A, B) from padded blocks (C, A) and (C, B): ``left.T @ right``."""
    if left.dtype == torch.float32 and left.shape[1] * right.numel() >= 2**21 and _has_onednn():
        return _multiply(_turned(left), right.mT)
    return left.mT @ right


def _turned(rows: Tensor) -> Tensor:
    """(C, P), contiguous, from (P, C).

    torch transposes number by number, except when it shuffles channels: here those of one pixel.
    """
    count, channels = rows.shape
    size = rows.numel()
    pixel = rows.as_strided((1, size, 1, 1), (size, 1, size, size))
    return torch.native_channel_shuffle(pixel, count).as_strided((channels, count), (count, 1))


def _has_onednn() -> bool:
    """oneDNN beats MKL, which does without AVX-512 on some processors that have it.

    Its call takes 10 µs, so that only products of a million multiplications are worth it; and it
    compiles every shape, see :func:`_padded`.
    """
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _add(out: Tensor, places: np.ndarray, rows: Tensor) -> None:
    """``out[places] += rows``."""
    _add_rows(out.numpy(), places, rows.to(out.dtype).numpy())


@numba.njit
def _add_rows(out, places, rows):  # type: ignore[no-untyped-def]
    # Takes half the time of index_add_, and a tenth of it with more than one thread.
    for number in range(len(places)):
        place = places[number]
        for channel in range(rows.shape[1]):
            out[place, channel] += rows[number, channel]
