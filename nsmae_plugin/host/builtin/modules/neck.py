"""The feature pyramid between image backbone and view transform."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.ops.conv_block import ConvBlock


class GeneralizedLSSFPN(nn.Module):
    """Top-down pyramid that concatenates instead of adding (BEVFusion, arXiv 2205.13542).

    From the coarsest level up, each level is concatenated with the upsampled one below it, then
    goes through a 1x1 and a 3x3 convolution. n levels come in and n - 1 go out, all with
    OUT_CHANNELS; NUM_OUTS is accepted and, as in OpenPCDet, has no effect.
    """

    def __init__(self, model_cfg: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        channels, out = list(model_cfg.IN_CHANNELS), model_cfg.OUT_CHANNELS
        last = len(channels) - 1
        below = [out] * (last - 1) + [channels[last]]
        self.lateral_convs = nn.ModuleList(
            ConvBlock(channels[level] + below[level], out, kernel=1) for level in range(last)
        )
        self.fpn_convs = nn.ModuleList(ConvBlock(out, out, kernel=3) for _ in range(last))

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``image_features``, a list of (B*N, C_i, H_i, W_i) from fine to coarse; writes
        ``image_fpn``, a tuple of (B*N, OUT_CHANNELS, H_i, W_i) for all levels but the coarsest."""
        *levels, coarser = batch_dict["image_features"]
        outputs = []
        for features, lateral, smooth in reversed(
            list(zip(levels, self.lateral_convs, self.fpn_convs, strict=True))
        ):
            upsampled = F.interpolate(
                coarser, size=features.shape[2:], mode="bilinear", align_corners=False
            )
            coarser = smooth(lateral(torch.cat((features, upsampled), dim=1)))
            outputs.append(coarser)
        batch_dict["image_fpn"] = tuple(reversed(outputs))
        return batch_dict
