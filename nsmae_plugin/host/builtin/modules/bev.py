"""From voxels to bird's-eye-view maps, their fusion, and the backbone on them."""

from functools import partial
from typing import Any

import torch
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.ops.conv_block import conv_block, with_norm

LEVEL_KEYS = ("LAYER_NUMS", "LAYER_STRIDES", "NUM_FILTERS")
UPSAMPLE_KEYS = ("UPSAMPLE_STRIDES", "NUM_UPSAMPLE_FILTERS")
_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class MeanVFE(nn.Module):
    """The mean of the points in each voxel."""

    def __init__(self, model_cfg: Any, num_point_features: int, **kwargs: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.num_point_features = num_point_features

    def get_output_feature_dim(self) -> int:
        return self.num_point_features

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``voxels`` (V, M, F), zero beyond ``voxel_num_points`` (V,); writes
        ``voxel_features`` (V, F)."""
        voxels: torch.Tensor = batch_dict["voxels"]
        counts: torch.Tensor = batch_dict["voxel_num_points"]
        batch_dict["voxel_features"] = voxels.sum(dim=1) / counts.clamp(min=1).to(voxels)[:, None]
        return batch_dict


class HeightCompression(nn.Module):
    """Stacks the height levels of a sparse volume into channels."""

    def __init__(self, model_cfg: Any, **kwargs: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.num_bev_features = model_cfg.NUM_BEV_FEATURES

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``encoded_spconv_tensor`` (sparse, C channels on a Z x Y x X grid) and
        ``encoded_spconv_tensor_stride``; writes ``spatial_features`` (B, C * Z, Y, X), where
        channel ``c * Z + z`` is channel c at height z, and ``spatial_features_stride``."""
        sparse = batch_dict["encoded_spconv_tensor"]
        features: torch.Tensor = sparse.features
        # Written in place rather than by sparse.dense(), which fills another layout and copies.
        size = (sparse.batch_size, features.shape[1], *sparse.spatial_shape)
        volume = features.new_zeros(size)  # (B, C, Z, Y, X)
        sample, z, y, x = sparse.indices.long().unbind(1)
        volume[sample, :, z, y, x] = features
        batch_dict["spatial_features"] = volume.flatten(1, 2)
        batch_dict["spatial_features_stride"] = batch_dict["encoded_spconv_tensor_stride"]
        return batch_dict


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


def _level(in_channels: int, channels: int, stride: int, extra_layers: int) -> nn.Sequential:
    """A strided 3x3 convolution and ``extra_layers`` more, each with norm and ReLU."""
    layers: list[nn.Module] = [
        nn.Identity(),  # OpenPCDet pads in a layer of its own; this one keeps its numbering
        *conv_block(in_channels, channels, 3, stride=stride, norm=_norm),
    ]
    for _ in range(extra_layers):
        layers += conv_block(channels, channels, 3, norm=_norm)
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
    return nn.Sequential(*with_norm(conv, _norm))


class BaseBEVBackbone(nn.Module):
    """Levels of convolutions, brought to one resolution and concatenated (SECOND, PointPillars).

    LAYER_NUMS, LAYER_STRIDES and NUM_FILTERS describe the levels; UPSAMPLE_STRIDES and
    NUM_UPSAMPLE_FILTERS their way to the common resolution, and may be absent.

    Raises:
        ConfigError: another number of UPSAMPLE_STRIDES than of levels.
    """

    def __init__(self, model_cfg: Any, input_channels: int) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        keys = (*LEVEL_KEYS, *UPSAMPLE_KEYS)
        depths, strides, filters, ups, up_filters = (list(model_cfg.get(key) or []) for key in keys)
        if len(ups) not in (0, len(strides)):
            raise ConfigError(
                f"the built-in BaseBEVBackbone takes no or {len(strides)} UPSAMPLE_STRIDES, one "
                f"per level, not {len(ups)}: use NSMAE_HOST=openpcdet"
            )
        convolve = model_cfg.get("USE_CONV_FOR_NO_STRIDE", False)
        inputs = [input_channels, *filters[:-1]]
        self.blocks = nn.ModuleList(map(_level, inputs, filters, strides, depths))
        self.deblocks = nn.ModuleList(
            _resample(*sizes, convolve) for sizes in zip(filters, up_filters, ups, strict=False)
        )
        self.num_bev_features = sum(up_filters or filters)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``spatial_features`` (B, C, Y, X); writes ``spatial_features_2d``
        (B, num_bev_features, Y', X'). Y and X must divide by the product of the strides."""
        features: torch.Tensor = batch_dict["spatial_features"]
        levels = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            levels.append(self.deblocks[index](features) if self.deblocks else features)
        merged = torch.cat(levels, dim=1) if levels else features
        batch_dict["spatial_features_2d"] = merged
        return batch_dict
