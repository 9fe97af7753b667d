"""The view transforms of BEVFusion, with and without LiDAR depth, on the factors of the frustum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from nsmae_plugin.models import module_config
from nsmae_plugin.models.lift_splat import LiftSplatTransform, ViewGeometry, build_downsample
from nsmae_plugin.models.targets import nearest_returns
from nsmae_plugin.ops.conv_block import conv_block, with_norm


class FactorizedLSSTransform(LiftSplatTransform):
    """BEVFusion's ``LSSTransform`` on the factors: same weights, same result. Reads no LiDAR.

    One 1x1 convolution of the image features gives depth logits and context. Parameter names are
    BEVFusion's (``depthnet``, ``downsample``).
    """

    def __init__(self, model_cfg: Any) -> None:
        super().__init__(model_cfg)
        self.depthnet = nn.Conv2d(model_cfg.IN_CHANNEL, self.num_bins + self.out_channels, 1)
        self.downsample = build_downsample(self.out_channels, model_cfg.DOWNSAMPLE)

    def factors(self, features: torch.Tensor, geometry: ViewGeometry) -> torch.Tensor:
        return self.depthnet(features)


class FactorizedDepthLSSTransform(LiftSplatTransform):
    """OpenPCDet's ``DepthLSSTransform`` on the factors: same weights, same result.

    (Except without a single LiDAR point in any image, see :meth:`depth_features`.)

    Parameter names are OpenPCDet's (``dtransform``, ``depthnet``, ``downsample``).

    Also reads ``points`` (absent: no depth points), ``depth_point_mask`` (optional, true: hidden),
    and ``lidar2image`` (B, N, 4, 4).

    Raises:
        ConfigError: FEATURE_SIZE is not that of the depth features; see also the base class.
    """

    Config: ClassVar = module_config.FactorizedDepthLSSTransform
    reads_lidar_depth: ClassVar = True

    def __init__(self, model_cfg: Any) -> None:
        super().__init__(model_cfg)
        self.dtransform = nn.Sequential(
            *with_norm(OneChannelConv2d(8)),
            *conv_block(8, 32, 5, stride=4, bias=True),
            *conv_block(32, 64, 5, stride=2, bias=True),
        )
        channels = model_cfg.IN_CHANNEL
        self.depthnet = nn.Sequential(
            *conv_block(channels + 64, channels, 3, bias=True),
            *conv_block(channels, channels, 3, bias=True),
            nn.Conv2d(channels, self.num_bins + self.out_channels, 1),
        )
        self.downsample = build_downsample(self.out_channels, model_cfg.DOWNSAMPLE)

    def factors(self, features: torch.Tensor, geometry: ViewGeometry) -> torch.Tensor:
        assert geometry.depth is not None
        return self.depthnet(torch.cat((self.depth_features(geometry.depth), features), dim=1))

    def depth_features(self, depth: torch.Tensor) -> torch.Tensor:
        """(B * N, 64, fH, fW) features of the depth points; 0 in a batch without any.

        An image of zeros has no spread, for which BatchNorm's running variance would shrink to
        nothing while the bias before it drifts: evaluation would then multiply noise by 300.
        """
        # Without a transfer, and with gradients of all parameters for distributed training.
        return torch.where(depth.any(), self.dtransform(depth), 0.0)

    def prepare(self, batch_dict: Mapping[str, Any]) -> ViewGeometry:
        """As the base class, with the depth points."""
        return ViewGeometry(self.plan(batch_dict), self.depth_points(batch_dict).to(self.depths))

    @torch.no_grad()
    def depth_points(self, batch_dict: Mapping[str, Any]) -> torch.Tensor:
        """(B * N, 1, H, W) metres, 0 where no visible LiDAR point falls."""
        depth, _ = nearest_returns(batch_dict, 1, visible=True, size=self.image_size)
        return depth.flatten(0, 1).unsqueeze(1)


def remedy(own: Collection[str], theirs: Collection[str]) -> str:
    """Advice where only one of two networks reads LiDAR depth; otherwise an empty string.

    Args:
        own: names of the parameters of the network. theirs: names of the weights to load.
    """
    kinds = [
        any(name.startswith("vtransform.dtransform.") for name in names)
        for names in (own, theirs)
        if any(name.startswith("vtransform.depthnet.") for name in names)
    ]
    if kinds in ([True, False], [False, True]):
        kind = FactorizedDepthLSSTransform if kinds[1] else FactorizedLSSTransform
        return f". Set MODEL.VTRANSFORM.NAME to {kind.__name__}, as where the weights come from"
    return ""


class OneChannelConv2d(nn.Conv2d):
    """1x1 convolution of (B, 1, H, W) maps as an outer product.

    oneDNN would pad the channel to sixteen, and copy the result out of a layout of sixteen.
    Parameters are those of ``nn.Conv2d(1, out_channels, 1)``.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__(1, out_channels, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, H, W)."""
        assert self.bias is not None
        weight = self.weight.view(1, -1, 1).expand(len(maps), -1, -1)
        rows = torch.baddbmm(self.bias.view(1, -1, 1), weight, maps.flatten(2))
        return rows.unflatten(2, maps.shape[2:])
