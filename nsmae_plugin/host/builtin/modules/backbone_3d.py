"""Sparse 3D convolutional backbone on voxels (spconv)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import spconv.pytorch as spconv
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.ops import spconv_cpu
from nsmae_plugin.ops.conv_block import with_norm

spconv_cpu.apply()

_norm = partial(nn.BatchNorm1d, eps=1e-3, momentum=0.01)


class ResidualBlock(spconv.SparseModule):
    """Two 3x3x3 submanifold convolutions around an identity."""

    def __init__(self, channels: int, bias: bool, indice_key: str) -> None:
        super().__init__()
        conv = partial(
            spconv.SubMConv3d, channels, channels, 3, padding=1, bias=bias, indice_key=indice_key
        )
        self.conv1 = conv()
        self.bn1 = _norm(channels)
        self.conv2 = conv()
        self.bn2 = _norm(channels)

    def forward(self, x: spconv.SparseConvTensor) -> spconv.SparseConvTensor:
        out = self.conv1(x)
        out = out.replace_feature(F.relu(self.bn1(out.features), inplace=True))
        out = self.conv2(out)
        summed = self.bn2(out.features) + x.features
        return out.replace_feature(F.relu(summed, inplace=True))


def _stage(in_channels: int, channels: int, padding: Any, bias: bool, number: int) -> nn.Module:
    """Halve the resolution, then two residual blocks on the new set of voxels."""
    down = spconv.SparseConv3d(
        in_channels,
        channels,
        3,
        stride=2,
        padding=padding,
        bias=False,
        indice_key=f"spconv{number}",
    )
    key = f"res{number}"
    return spconv.SparseSequential(
        spconv.SparseSequential(*with_norm(down, _norm)),
        ResidualBlock(channels, bias, key),
        ResidualBlock(channels, bias, key),
    )


class VoxelResBackBone8x(nn.Module):
    """Residual sparse backbone: 8x coarser in the plane, 2 height levels of 128 channels.

    Args:
        model_cfg: USE_BIAS: bias of the residual convolutions (default True); last_pad: padding of
            the last convolution (default 0).
        input_channels: features per voxel.
        grid_size: number of voxels (X, Y, Z).
    """

    def __init__(
        self,
        model_cfg: Any,
        input_channels: int,
        grid_size: Sequence[int] | np.ndarray,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        use_bias = model_cfg.get("USE_BIAS")
        bias = True if use_bias is None else use_bias
        x, y, z = (int(size) for size in grid_size)
        self.sparse_shape = [z + 1, y, x]  # one level more, so that z halves evenly: 41, 21, 11, 5

        # The same voxels and the same kernel: one rulebook serves conv_input and conv1.
        first_key = "res1"
        first = spconv.SubMConv3d(
            input_channels, 16, 3, padding=1, bias=False, indice_key=first_key
        )
        self.conv_input = spconv.SparseSequential(*with_norm(first, _norm))
        self.conv1 = spconv.SparseSequential(
            ResidualBlock(16, bias, first_key), ResidualBlock(16, bias, first_key)
        )
        self.conv2 = _stage(16, 32, padding=1, bias=bias, number=2)
        self.conv3 = _stage(32, 64, padding=1, bias=bias, number=3)
        self.conv4 = _stage(64, 128, padding=(0, 1, 1), bias=bias, number=4)
        last = spconv.SparseConv3d(
            128,
            128,
            (3, 1, 1),
            stride=(2, 1, 1),
            padding=model_cfg.get("last_pad", 0),
            bias=False,
            indice_key="spconv_down2",
        )
        self.conv_out = spconv.SparseSequential(*with_norm(last, _norm))
        self.num_point_features = 128
        self.backbone_channels = {"x_conv1": 16, "x_conv2": 32, "x_conv3": 64, "x_conv4": 128}

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``voxel_features`` (V, F), ``voxel_coords`` (V, 4) as b, z, y, x and
        ``batch_size``; writes ``encoded_spconv_tensor``, ``encoded_spconv_tensor_stride`` (8),
        ``multi_scale_3d_features`` and ``multi_scale_3d_strides`` (x_conv1 to x_conv4).
        """
        x = spconv.SparseConvTensor(
            features=batch_dict["voxel_features"],
            indices=batch_dict["voxel_coords"].int(),
            spatial_shape=self.sparse_shape,
            batch_size=batch_dict["batch_size"],
        )
        x = self.conv_input(x)
        scales = {}
        for name in ("conv1", "conv2", "conv3", "conv4"):
            x = getattr(self, name)(x)
            scales[f"x_{name}"] = x
        batch_dict["encoded_spconv_tensor"] = self.conv_out(x)
        batch_dict["encoded_spconv_tensor_stride"] = 8
        batch_dict["multi_scale_3d_features"] = scales
        batch_dict["multi_scale_3d_strides"] = dict(zip(scales, (1, 2, 4, 8), strict=True))
        return batch_dict
