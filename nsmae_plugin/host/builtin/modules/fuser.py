"""Fusion of the camera and LiDAR bird's-eye-view maps."""

from typing import Any

import torch
from torch import nn

from nsmae_plugin.ops.conv_block import conv_block


class ConvFuser(nn.Module):
    """A 3x3 convolution over the concatenated maps, camera first (BEVFusion, arXiv 2205.13542)."""

    def __init__(self, model_cfg: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.conv = nn.Sequential(*conv_block(model_cfg.IN_CHANNEL, model_cfg.OUT_CHANNEL, 3))

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``spatial_features_img`` (B, C1, Y, X) and ``spatial_features`` (B, C2, Y, X) with
        C1 + C2 = IN_CHANNEL; overwrites ``spatial_features`` with (B, OUT_CHANNEL, Y, X)."""
        maps = (batch_dict["spatial_features_img"], batch_dict["spatial_features"])
        batch_dict["spatial_features"] = self.conv(torch.cat(maps, dim=1))
        return batch_dict
