"""Self-attention inside shifted windows (Swin Transformer, arXiv 2103.14030).

Letters: a feature map has ``L = H * W`` tokens of C channels, listed row by row; a window has
``T = side * side`` tokens, and there are ``W`` windows per image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.host.builtin.modules.recompute import attend_windows, to_windows
from nsmae_plugin.host.builtin.modules.window_partition import WindowPartition, partition_windows


class _ToWindows(torch.autograd.Function):
    """(B, L, C) tokens -> (B, W * T, C) places, ``padding`` (C,) where there is no token.

    One copy for padding, shift and partition; tokens move one to one, so the gradient is a copy
    too, where that of a general gather would be an accumulation.
    """

    @staticmethod
    def forward(
        ctx: Any, tokens: torch.Tensor, padding: torch.Tensor, partition: WindowPartition
    ) -> Any:
        ctx.partition = partition
        return to_windows(tokens, padding, partition)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), partition = gradients, ctx.partition
        to_padding = gradient.index_select(1, partition.padding).sum(dim=(0, 1))
        return gradient.index_select(1, partition.back), to_padding, None


class _FromWindows(torch.autograd.Function):
    """(B, W * T, C) places -> (B, L, C) tokens; what lies in the padding is dropped."""

    @staticmethod
    def forward(ctx: Any, places: torch.Tensor, partition: WindowPartition) -> Any:
        ctx.partition = partition
        return places.index_select(1, partition.back)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), partition = gradients, ctx.partition
        return to_windows(gradient, 0.0, partition), None


def relative_position_index(side: int) -> torch.Tensor:
    """(T, T) long: the row of the bias table for each (query, key) pair of a window.

    A row per offset (dy, dx) from key to query, dy in the outer order, both from 1 - side.
    """
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y + side - 1
    dx = x[:, None] - x + side - 1
    return dy * (2 * side - 1) + dx


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of each window, with a learnt bias per offset."""

    relative_position_index: torch.Tensor

    def __init__(
        self, channels: int, heads: int, side: int, attention_drop: float, output_drop: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_drop = attention_drop
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(side))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(output_drop)

    def forward(self, tokens: torch.Tensor, partition: WindowPartition) -> torch.Tensor:
        """(B, L, C) -> (B, L, C).

        Padding takes part in the attention as tokens of zeros, whose query, key and value are the
        bias of ``qkv``; so the linear layers see the real tokens alone.
        """
        qkv = self.qkv(tokens)
        dropping = self.training and self.attention_drop > 0
        if qkv.device.type == "cpu" and not dropping:
            table = self._bias(None)[0]
            attended = attend_windows(qkv, self.qkv.bias, table, partition, self.heads)
            return self.proj_drop(self.proj(attended))
        places = _ToWindows.apply(qkv, self.qkv.bias.to(qkv.dtype), partition)
        attended = self._attend(places, partition.mask)
        return self.proj_drop(self.proj(_FromWindows.apply(attended, partition)))

    def _attend(self, places: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, W * T, 3 * C) queries, keys and values -> (B, W * T, C)."""
        batch, tokens = places.shape[0], self.relative_position_index.shape[0]
        size = places.shape[2] // (3 * self.heads)
        parts = places.view(batch, -1, tokens, 3, self.heads, size)
        parts = parts.permute(3, 0, 1, 4, 2, 5).contiguous()  # (3, B, W, heads, T, size)
        # Fused kernels take four dimensions. The bias depends on the head and, with a mask, on the
        # window: fold the windows into the batch, or into the heads.
        folded = parts.flatten(1, 2) if mask is None else parts.flatten(2, 3)
        query, key, value = folded.unbind(0)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._bias(mask).to(folded.dtype),
            dropout_p=self.attention_drop if self.training else 0.0,
        )
        return attended.view(parts.shape[1:]).transpose(2, 3).reshape(batch, places.shape[1], -1)

    def _bias(self, mask: torch.Tensor | None) -> torch.Tensor:
        """Bias of the logits: (1, heads, T, T), or (1, W * heads, T, T) with a mask."""
        tokens = self.relative_position_index.shape[0]
        rows = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = rows.T.reshape(1, self.heads, tokens, tokens)
        if mask is None:
            return bias
        return (bias + mask[:, None].to(bias.dtype)).flatten(0, 1)[None]


class DropPath(nn.Module):
    """Stochastic depth: while training, drop a residual branch for whole samples (1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> the same, zero with the probability, else scaled to keep the mean."""
        if not self.training or self.probability == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
        random = torch.rand(shape, dtype=branch.dtype, device=branch.device)
        return branch * ((random >= self.probability) / (1 - self.probability)).to(branch.dtype)


class ShiftedWindowAttention(nn.Module):
    """Window attention on a feature map, with windows moved by ``shift`` tokens."""

    def __init__(
        self,
        channels: int,
        heads: int,
        side: int,
        shift: int,
        attention_drop: float,
        output_drop: float,
        path_drop: float,
    ) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.w_msa = WindowAttention(channels, heads, side, attention_drop, output_drop)
        self.drop = DropPath(path_drop)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = features.shape[1:3]
        partition = partition_windows(height, width, self.side, self.shift, features.device)
        return self.drop(self.w_msa(features.flatten(1, 2), partition).view(features.shape))
