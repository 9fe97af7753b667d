"""Partition of a feature map into shifted windows (Swin Transformer, arXiv 2103.14030).

A feature map has ``L = H * W`` tokens, listed row by row; a window has ``T = side * side`` tokens,
and there are ``W`` windows per image.
"""

from functools import lru_cache
from typing import NamedTuple

import torch

#: Added to the logits of token pairs that may not see each other; exp(-100) vanishes in float32.
BLOCKED = -100.0


class WindowPartition(NamedTuple):
    """Place of each token of a padded, shifted and partitioned feature map."""

    forth: torch.Tensor  # (W * T,) the token in each place of the windows; 0 where padding is
    back: torch.Tensor  # (L,) the place of each token
    padding: torch.Tensor  # the places that hold padding
    mask: torch.Tensor | None  # (W, T, T) 0 or BLOCKED, see partition_windows; None without a shift


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a cached inference tensor could not serve a later training step
def partition_windows(
    height: int, width: int, side: int, shift: int, device: torch.device
) -> WindowPartition:
    """Cut a feature map into windows after a cyclic shift by ``shift`` tokens up and left.

    The map is padded below and on the right to a multiple of ``side``. The shift moves the first
    rows and columns to the end, so windows at the border hold tokens from opposite sides of the
    image; the mask blocks pairs of them. The partition is cached and shared: do not modify it.
    """
    rows, columns = height + -height % side, width + -width % side
    y, x = torch.arange(rows, device=device), torch.arange(columns, device=device)
    token = torch.where((y[:, None] < height) & (x < width), y[:, None] * width + x, -1)
    forth = _windows(token.roll((-shift, -shift), dims=(0, 1)), side).flatten()
    places = (forth >= 0).nonzero()[:, 0]
    back = torch.empty_like(places)
    back[forth[places]] = places
    mask = None
    if shift:
        region = [
            (position >= length - side).int() + (position >= length - shift).int()
            for position, length in ((y, rows), (x, columns))
        ]
        regions = _windows(3 * region[0][:, None] + region[1], side)
        mask = (regions[:, :, None] != regions[:, None, :]) * BLOCKED
    return WindowPartition(forth.clamp(min=0), back, (forth < 0).nonzero()[:, 0], mask)


def _windows(grid: torch.Tensor, side: int) -> torch.Tensor:
    """(rows, columns), multiples of ``side`` -> (W, T), windows and tokens row by row."""
    rows, columns = grid.shape
    tiles = grid.view(rows // side, side, columns // side, side)
    return tiles.transpose(1, 2).reshape(-1, side * side)
