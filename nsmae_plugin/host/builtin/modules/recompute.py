"""Parts of a transformer block that recompute most of their values in the backward pass.

What autograd keeps of a Swin block is mostly cheap to have again: the attention weights of every
window and three more copies of queries and keys, and the hidden layer behind its GELU. Without them
the Swin-T of BEVFusion keeps 40 % less, and the step is not slower: memory that is not touched
twice costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nsmae_plugin.host.builtin.modules.window_partition import WindowPartition

_CHUNK = 3 << 20  # numbers of queries, keys and values at a time: about what a CPU's caches hold
_HIDDEN_CHUNK = 4 << 20  # numbers of a hidden layer at a time: smaller is overhead


def gelu_linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``linear(gelu(hidden), weight, bias)``, which keeps ``hidden`` but not its GELU.

    Computed in the type of ``hidden``, also under autocast. Differentiable once.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return _GeluLinear.apply(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype))


class _GeluLinear(torch.autograd.Function):
    """In chunks of rows on a CPU, to limit the memory of the GELU."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
        ctx.save_for_backward(hidden, weight)
        result = hidden.new_empty(*hidden.shape[:-1], len(bias))
        for rows, out in _row_chunks(hidden, result):
            torch.addmm(bias, F.gelu(rows), weight.t(), out=out)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        hidden, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_hidden = hidden.new_empty(hidden.shape)
        exact = torch.promote_types(weight.dtype, torch.float32)  # of the sum over chunks
        to_weight = torch.zeros_like(weight, dtype=exact)
        for rows, from_out, to_rows in _row_chunks(hidden, gradient, to_hidden):
            activated = F.gelu(rows)
            to_weight += from_out.t() @ activated
            to_activated = torch.mm(from_out, weight, out=activated)
            torch.ops.aten.gelu_backward.grad_input(to_activated, rows, grad_input=to_rows)
        return to_hidden, to_weight.to(weight.dtype), gradient.flatten(0, -2).sum(0)


def _row_chunks(hidden: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """(..., C) -> chunks of the rows of ``hidden``, each with the same rows of the others."""
    rows = max(1, _HIDDEN_CHUNK // hidden.shape[-1])
    if hidden.device.type != "cpu":
        rows = hidden.shape[:-1].numel()
    return zip(*(one.flatten(0, -2).split(rows) for one in (hidden, *others)), strict=True)


def attend_windows(
    qkv: torch.Tensor,
    padding: torch.Tensor,
    bias: torch.Tensor,
    partition: WindowPartition,
    heads: int,
) -> torch.Tensor:
    """Attention inside windows, a few images at a time; keeps ``qkv`` alone. For CPUs.

    Computed in float32 (float64 when ``qkv`` is), also under autocast. Differentiable once.

    Args:
        qkv: (B, L, 3 * C) queries, keys and values of the tokens.
        padding: (3 * C,) those of what pads the map.
        bias: (heads, T, T), added to the logits.
        partition: of the map; its ``mask`` is added as well.

    Returns:
        (B, L, C), of the type of ``qkv``.
    """
    exact = torch.promote_types(qkv.dtype, torch.float32)
    with torch.autocast(qkv.device.type, enabled=False):
        return _AttendWindows.apply(qkv, padding.to(qkv.dtype), bias.to(exact), partition, heads)


class _AttendWindows(torch.autograd.Function):
    """``n`` images at a time: (n * W * heads, T, size) matrices, W windows of T tokens."""

    @staticmethod
    def forward(ctx: Any, qkv: Any, padding: Any, bias: Any, partition: Any, heads: int) -> Any:
        ctx.save_for_backward(qkv, padding, bias)
        ctx.partition, ctx.heads = partition, heads
        result = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
        added = _added(bias, partition)
        for part in _chunks(qkv, partition):
            query, key, value = _matrices(qkv[part], padding, bias, partition, heads)
            attended = torch.bmm(_weights(query, key, added), value)
            places = _to_places(attended, len(qkv[part]), bias)
            torch.index_select(places.to(qkv.dtype), 1, partition.back, out=result[part])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        qkv, padding, bias = ctx.saved_tensors
        partition, heads = ctx.partition, ctx.heads
        to_qkv, to_padding = torch.empty_like(qkv), torch.zeros_like(padding)
        to_bias, added = torch.zeros_like(bias), _added(bias, partition)
        for part in _chunks(qkv, partition):
            query, key, value = _matrices(qkv[part], padding, bias, partition, heads)
            gradient = to_windows(gradients[0][part], 0.0, partition)
            gradient = _split(gradient, 1, bias, heads)[0]
            weights = _weights(query, key, added)
            to_value = torch.bmm(weights.transpose(1, 2), gradient)
            to_weights = torch.bmm(gradient, value.transpose(1, 2))
            to_logits = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_bias += to_logits.view(-1, *bias.shape).sum(0)
            to_query = torch.bmm(to_logits, key).mul_(query.shape[-1] ** -0.5)
            to_key = torch.bmm(to_logits.transpose(1, 2), query)
            images = len(qkv[part])
            places = [_to_places(one, images, bias) for one in (to_query, to_key, to_value)]
            joint = torch.cat(places, dim=2).to(qkv.dtype)
            to_padding += joint.index_select(1, partition.padding).sum(dim=(0, 1))
            torch.index_select(joint, 1, partition.back, out=to_qkv[part])
        return to_qkv, to_padding, to_bias, None, None


def _chunks(qkv: torch.Tensor, partition: WindowPartition) -> list[slice]:
    images = max(1, _CHUNK // (len(partition.forth) * qkv.shape[2]))
    return [slice(start, start + images) for start in range(0, len(qkv), images)]


def _added(bias: torch.Tensor, partition: WindowPartition) -> torch.Tensor:
    """(1 or W, heads, T, T): what is added to the logits."""
    if partition.mask is None:
        return bias[None]
    return bias + partition.mask[:, None].to(bias.dtype)


def _matrices(
    qkv: torch.Tensor,
    padding: torch.Tensor,
    bias: torch.Tensor,
    partition: WindowPartition,
    heads: int,
) -> list[torch.Tensor]:
    """Queries, divided by the root of their size, keys and values of every window and head."""
    query, key, value = _split(to_windows(qkv, padding, partition), 3, bias, heads)
    return [query.mul_(query.shape[-1] ** -0.5), key, value]


def to_windows(
    tokens: torch.Tensor, padding: torch.Tensor | float, partition: WindowPartition
) -> torch.Tensor:
    """(B, L, C) tokens -> (B, W * T, C) places, ``padding`` (C,) where there is no token."""
    places = tokens.index_select(1, partition.forth)
    places[:, partition.padding] = padding
    return places


def _split(places: torch.Tensor, kinds: int, bias: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """(n, W * T, kinds * C) -> for each kind (n * W * heads, T, size), in the type of ``bias``."""
    parts = places.view(-1, bias.shape[1], kinds, heads, places.shape[2] // (kinds * heads))
    parts = parts.permute(2, 0, 3, 1, 4)
    return list(parts.to(bias.dtype, memory_format=torch.contiguous_format).flatten(1, 2).unbind())


def _to_places(matrices: torch.Tensor, images: int, bias: torch.Tensor) -> torch.Tensor:
    """(n * W * heads, T, size) -> (n, W * T, C)."""
    windows = matrices.view(-1, len(bias), *matrices.shape[1:]).transpose(1, 2)
    return windows.reshape(images, -1, len(bias) * matrices.shape[2])


def _weights(query: torch.Tensor, key: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    logits = torch.bmm(query, key.transpose(1, 2))
    logits.view(-1, *added.shape).add_(added)
    return logits.softmax(-1)
