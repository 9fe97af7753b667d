"""Convolution, BatchNorm and ReLU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Norm = Callable[[int], nn.Module]


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    bias: bool = False,
    stride: int = 1,
    norm: Norm = nn.BatchNorm2d,
) -> tuple[nn.Module, ...]:
    """The layers of a padded 2D convolution with norm and ReLU, for an ``nn.Sequential``.

    Args:
        norm: makes the norm for a number of channels.
    """
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias
    )
    return with_norm(convolution, norm)


def with_norm(convolution: Any, norm: Norm = nn.BatchNorm2d) -> tuple[nn.Module, ...]:
    """A convolution of any kind, then norm and ReLU."""
    return convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)


class ConvBlock(nn.Module):
    """A padded convolution, BatchNorm and ReLU under OpenPCDet's names ``conv`` and ``bn``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, bias: bool = False
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(features)), inplace=True)
