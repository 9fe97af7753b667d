"""Heads that render the encoders' features: into the cameras, and from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.ops.compositing import at_least_float32, bin_centres, composite, density_bias
from nsmae_plugin.ops.frustum_render import render_frustum


class PerspectiveRenderHead(nn.Module):
    """Colour and depth in every camera, from the two factors of the view transform's frustum.

    A bias-free 1×1 projection of the context gives red, green, blue and density per pixel;
    :func:`~nsmae_plugin.ops.frustum_render.render_frustum` does the rest.

    Config keys: IN_CHANNELS, of ``depth_context``.

    Reads: ``depth_logits`` (B * N, D, h, w), ``depth_context`` (B * N, IN_CHANNELS, h, w),
    ``batch_size``.

    Writes: ``rendered_rgb`` (B, N, 3, h, w) in [0, 1]; ``rendered_depth`` (B, N, h, w), metres
    along the camera's z axis; ``rendered_opacity`` (B, N, h, w).

    Args:
        model_cfg: the section MODEL.PERSPECTIVE_HEAD.
        edges: (D + 1,) boundaries of the depth bins in metres.
        kernels: 'torch' or 'triton', see ``render_frustum``.
    """

    edges: Tensor

    def __init__(self, model_cfg: Any, edges: Tensor, kernels: str = "torch") -> None:
        super().__init__()
        self.kernels = kernels
        self.projection = nn.Conv2d(model_cfg.IN_CHANNELS, 4, kernel_size=1, bias=False)
        self.density_bias = density_bias(float(edges[-1] - edges[0]))
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Render the cameras; keys in the class's docstring."""
        logits, context = batch_dict["depth_logits"], batch_dict["depth_context"]
        # Densities from half precision would make the far bins jump.
        with torch.autocast(context.device.type, enabled=False):
            raw = self.projection(context.to(self.projection.weight.dtype))
        rgb, depth, opacity = render_frustum(
            logits, raw, bin_centres(self.edges), self.edges, self.density_bias, self.kernels
        )
        views = (batch_dict["batch_size"], -1)
        batch_dict["rendered_rgb"] = rgb.unflatten(0, views)
        batch_dict["rendered_depth"] = depth.unflatten(0, views)
        batch_dict["rendered_opacity"] = opacity.unflatten(0, views)
        return batch_dict


class BEVRenderHead(nn.Module):
    """Depth from above: a 3×3 convolution to densities per cell, composited top-down.

    The bins of a cell are the voxels of its column, from the top of the range, and one more of the
    same height below the range.

    Config keys: NUM_BINS, voxels along z plus one.

    Reads: the BEV features of ``channels``, each (B, C, Y, X).

    Writes: ``rendered_bev_depth`` (B, Y, X), metres below the top of the range;
    ``rendered_bev_opacity`` (B, Y, X).

    Args:
        model_cfg: the section MODEL.BEV_HEAD.
        channels: the batch keys to concatenate, and how many channels each has.
        voxel_height: metres.

    Raises:
        ConfigError: (when called) features of another number of channels or unequal grids.
    """

    edges: Tensor

    def __init__(self, model_cfg: Any, channels: Mapping[str, int], voxel_height: float) -> None:
        super().__init__()
        self.channels = dict(channels)
        bins = model_cfg.NUM_BINS
        self.density_bias = density_bias(bins * voxel_height)
        self.to_density = nn.Conv2d(sum(channels.values()), bins, kernel_size=3, padding=1)
        edges = voxel_height * torch.arange(bins + 1, dtype=torch.float64)
        self.register_buffer("edges", edges.float(), persistent=False)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Render the view from above; keys in the class's docstring."""
        features = [batch_dict[key] for key in self.channels]
        self._check(features)
        raw = at_least_float32(self._convolve(features))
        density = F.softplus(raw + self.density_bias).movedim(1, -1)
        rendered = composite(density, self.edges)
        batch_dict["rendered_bev_depth"] = rendered.depth
        batch_dict["rendered_bev_opacity"] = rendered.opacity
        return batch_dict

    def _convolve(self, features: Sequence[Tensor]) -> Tensor:
        """``to_density`` of the maps side by side, which saves a copy of all of them."""
        layer = self.to_density
        parts = layer.weight.split(list(self.channels.values()), dim=1)
        raw = F.conv2d(features[0], parts[0], layer.bias, padding=layer.padding)
        for map_, part in zip(features[1:], parts[1:], strict=True):
            raw = raw + F.conv2d(map_, part, padding=layer.padding)
        return raw

    def _check(self, features: Sequence[Tensor]) -> None:
        grids = {tuple(map_.shape[-2:]) for map_ in features}
        found = [map_.shape[1] for map_ in features]
        if len(grids) > 1 or found != list(self.channels.values()):
            shapes = {k: tuple(m.shape) for k, m in zip(self.channels, features, strict=True)}
            raise ConfigError(
                f"the BEV head expects {self.channels} channels on one grid, but the features are "
                f"{shapes}: check MODEL.MAP_TO_BEV.NUM_BEV_FEATURES, MODEL.VTRANSFORM.OUT_CHANNEL, "
                "XBOUND, YBOUND and DOWNSAMPLE against POINT_CLOUD_RANGE and VOXEL_SIZE"
            )
