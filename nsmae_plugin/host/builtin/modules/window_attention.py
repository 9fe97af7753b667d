"""Self-attention inside shifted windows (Swin Transformer, arXiv 2103.14030).

Feature maps are channels-last, (B, H, W, C), throughout. Letters: ``s`` tokens along a window's
side, ``W`` windows per image, ``T = s * s`` tokens per window.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.errors import ConfigError

#: Added to the logits of token pairs that may not see each other; exp(-100) vanishes in float32.
BLOCKED = -100.0


def partition(features: torch.Tensor, side: int) -> torch.Tensor:
    """(B, H, W, C), H and W multiples of ``side`` -> windows (B, W, T, C), row by row."""
    batch, height, width, channels = features.shape
    tiles = features.view(batch, height // side, side, width // side, side, channels)
    return tiles.transpose(2, 3).reshape(batch, -1, side * side, channels)


def merge(windows: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """The inverse of :func:`partition`: (B, W, T, C) -> (B, ``height``, ``width``, C)."""
    batch, channels = windows.shape[0], windows.shape[-1]
    tiles = windows.view(batch, height // side, width // side, side, side, channels)
    return tiles.transpose(2, 3).reshape(batch, height, width, channels)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a cached inference tensor could not serve a later training step
def shift_mask(
    height: int, width: int, side: int, shift: int, device: torch.device
) -> torch.Tensor:
    """Which tokens of a window are neighbours in the image, after a cyclic shift.

    The shift by ``shift`` moves the first rows and columns to the end, so windows at the border
    hold tokens from opposite sides of the image, which must not attend to each other.

    Returns:
        (W, T, T) float, 0 for neighbours and :data:`BLOCKED` for the others. Shared: do not modify.
    """

    def region(length: int) -> torch.Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - side).int() + (position >= length - shift).int()

    regions = 3 * region(height)[:, None] + region(width)
    per_window = partition(regions[None, :, :, None], side)[0, :, :, 0]  # (W, T)
    blocked = per_window[:, :, None] != per_window[:, None, :]
    return blocked.float() * BLOCKED


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
        if channels % heads:
            raise ConfigError(f"{channels} channels cannot be shared by NUM_HEADS {heads}")
        self.heads = heads
        self.attention_drop = attention_drop
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(side))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(output_drop)

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within each window.

        Args:
            windows: (B, W, T, C).
            mask: (W, T, T) added to the logits, or None.

        Returns:
            (B, W, T, C).
        """
        batch, count, tokens, channels = windows.shape
        qkv = self.qkv(windows).view(batch, count, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, W, heads, T, C / heads)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._bias(mask).to(query.dtype),
            dropout_p=self.attention_drop if self.training else 0.0,
        )
        attended = attended.transpose(2, 3).reshape(batch, count, tokens, channels)
        return self.proj_drop(self.proj(attended))

    def _bias(self, mask: torch.Tensor | None) -> torch.Tensor:
        """What is added to the logits: (heads, T, T), or (W, heads, T, T) with a mask."""
        tokens = self.relative_position_index.shape[0]
        rows = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = rows.T.reshape(self.heads, tokens, tokens)
        return bias if mask is None else bias + mask[:, None].to(bias.dtype)


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
        """(B, H, W, C) -> (B, H, W, C). Padding tokens take part, as zeros before ``qkv``."""
        height, width = features.shape[1:3]
        side, shift, mask = self.side, self.shift, None
        padded = F.pad(features, (0, 0, 0, -width % side, 0, -height % side))
        padded_size = (padded.shape[1], padded.shape[2])
        if shift:
            padded = padded.roll((-shift, -shift), dims=(1, 2))
            mask = shift_mask(*padded_size, side, shift, features.device)
        attended = merge(self.w_msa(partition(padded, side), mask), side, *padded_size)
        if shift:
            attended = attended.roll((shift, shift), dims=(1, 2))
        return self.drop(attended[:, :height, :width])
