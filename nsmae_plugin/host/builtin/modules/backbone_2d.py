"""Convolutional backbone on the bird's-eye-view map."""

from typing import Any

import torch
from torch import nn

from nsmae_plugin.errors import ConfigError


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _level(in_channels: int, channels: int, stride: int, extra_layers: int) -> nn.Sequential:
    """A strided 3x3 convolution and ``extra_layers`` more, each with norm and ReLU."""
    layers: list[nn.Module] = [
        nn.Identity(),  # OpenPCDet pads in a layer of its own; this one keeps its numbering
        nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        _norm(channels),
        nn.ReLU(inplace=True),
    ]
    for _ in range(extra_layers):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layers += [conv, _norm(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _resample(in_channels: int, channels: int, stride: float, convolve: bool) -> nn.Sequential:
    """To the common resolution: ``stride`` times larger, or 1 / ``stride`` times smaller.

    ``convolve``: at stride 1 use a convolution, not a transposed one (their weight layouts differ).
    """
    conv: nn.Module
    if stride > 1 or (stride == 1 and not convolve):
        size = int(stride)
        conv = nn.ConvTranspose2d(in_channels, channels, size, stride=size, bias=False)
    else:
        size = round(1 / stride)
        conv = nn.Conv2d(in_channels, channels, size, stride=size, bias=False)
    return nn.Sequential(conv, _norm(channels), nn.ReLU(inplace=True))


class BaseBEVBackbone(nn.Module):
    """Levels of convolutions, brought to one resolution and concatenated (SECOND, PointPillars).

    LAYER_NUMS, LAYER_STRIDES and NUM_FILTERS describe the levels, UPSAMPLE_STRIDES and
    NUM_UPSAMPLE_FILTERS their way to the common resolution (one entry more: a last upsampling of
    the concatenation). Each pair or triple may be absent.

    Raises:
        ConfigError: lists of different lengths.
    """

    def __init__(self, model_cfg: Any, input_channels: int) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        depths, strides, filters = _lists(model_cfg, "LAYER_NUMS", "LAYER_STRIDES", "NUM_FILTERS")
        ups = list(model_cfg.get("UPSAMPLE_STRIDES") or [])
        up_filters = list(model_cfg.get("NUM_UPSAMPLE_FILTERS") or [])
        if ups and not len(depths) == len(up_filters) <= len(ups) <= len(depths) + 1:
            raise ConfigError(
                f"BACKBONE_2D: {len(depths)} levels need as many NUM_UPSAMPLE_FILTERS and "
                f"UPSAMPLE_STRIDES (or one stride more), not {len(up_filters)} and {len(ups)}"
            )
        convolve = model_cfg.get("USE_CONV_FOR_NO_STRIDE", False)
        inputs = [input_channels, *filters[:-1]]
        self.blocks = nn.ModuleList(map(_level, inputs, filters, strides, depths))
        self.deblocks = nn.ModuleList(
            _resample(channels, up_channels, stride, convolve)
            for channels, up_channels, stride in zip(filters, up_filters, ups, strict=False)
        )
        self.num_bev_features = sum(up_filters)
        if len(ups) > len(depths):
            total = self.num_bev_features
            self.deblocks.append(_resample(total, total, ups[-1], convolve=False))

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``spatial_features`` (B, C, Y, X); writes ``spatial_features_2d``
        (B, num_bev_features, Y', X'). Y and X must divide by the product of the strides."""
        features: torch.Tensor = batch_dict["spatial_features"]
        levels = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            levels.append(self.deblocks[index](features) if self.deblocks else features)
        merged = torch.cat(levels, dim=1) if levels else features
        if len(self.deblocks) > len(self.blocks):
            merged = self.deblocks[-1](merged)
        batch_dict["spatial_features_2d"] = merged
        return batch_dict


def _lists(model_cfg: Any, *keys: str) -> list[list[Any]]:
    lists = [list(model_cfg.get(key) or []) for key in keys]
    if len(set(map(len, lists))) > 1:
        lengths = ", ".join(f"{key} {len(one)}" for key, one in zip(keys, lists, strict=True))
        raise ConfigError(f"BACKBONE_2D: one entry per level is needed, got {lengths}")
    return lists
