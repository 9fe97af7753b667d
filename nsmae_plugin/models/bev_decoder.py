"""The BEV decoder of BEVFusion's camera-only networks: a residual backbone and a pyramid."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsmae_plugin.models import module_config
from nsmae_plugin.ops.conv_block import conv_block


class GeneralizedResNetLSSFPN(nn.Module):
    """BEVFusion's ``GeneralizedResNet`` and ``LSSFPN`` as one BEV backbone (arXiv 2205.13542).

    Parameter names are BEVFusion's, with ``backbone_2d`` in the place of ``decoder``:
    ``backbone.<level>.<block>``, ``neck.fuse``, ``neck.upsample``.

    Config keys: LAYER_NUMS, LAYER_STRIDES and NUM_FILTERS, the residual blocks of each level, the
    stride of the first of them, and channels; OUT_CHANNEL and UPSAMPLE_STRIDE of the pyramid. The
    result has the grid of the first level, UPSAMPLE_STRIDE times finer.

    Reads: ``spatial_features`` (B, input_channels, Y, X).

    Writes: ``spatial_features_2d`` (B, OUT_CHANNEL, Y', X').

    Raises:
        ConfigError: fewer than two levels, or lists of different lengths.
    """

    Config: ClassVar = module_config.GeneralizedResNetLSSFPN

    def __init__(self, model_cfg: Any, input_channels: int) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        config = self.Config.of(model_cfg, "MODEL.BACKBONE_2D")
        channels = config.NUM_FILTERS
        inputs = [input_channels, *channels[:-1]]
        self.backbone = nn.ModuleList(
            map(_level, inputs, channels, config.LAYER_STRIDES, config.LAYER_NUMS)
        )
        self.num_bev_features = config.OUT_CHANNEL
        self.neck = LSSFPN(channels[0] + channels[-1], config.OUT_CHANNEL, config.UPSAMPLE_STRIDE)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Keys in the class's docstring."""
        features = batch_dict["spatial_features"]
        levels = []
        for level in self.backbone:
            features = level(features)
            levels.append(features)
        batch_dict["spatial_features_2d"] = self.neck(levels[0], levels[-1])
        return batch_dict


class LSSFPN(nn.Module):
    """The coarsest level, enlarged, and the finest through two convolutions; then enlarged.

    As in Lift-Splat-Shoot, corners stay corners when maps are enlarged.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            *conv_block(in_channels, out_channels, 1),
            *conv_block(out_channels, out_channels, 3),
        )
        self.upsample = nn.Identity() if stride == 1 else _upsample(out_channels, stride)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, Y, X) and (B, C', Y'', X'') -> (B, out_channels, stride Y, stride X)."""
        size = fine.shape[-2:]
        enlarged = F.interpolate(coarse, size, mode="bilinear", align_corners=True)
        return self.upsample(self.fuse(torch.cat((enlarged, fine), dim=1)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity, which becomes a 1x1 where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(features)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(features), inplace=True)


def _level(in_channels: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(ResidualBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _upsample(channels: int, stride: int) -> nn.Sequential:
    enlarge = nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=True)
    return nn.Sequential(enlarge, *conv_block(channels, channels, 3))
