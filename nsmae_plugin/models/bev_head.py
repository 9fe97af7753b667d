"""The bird's-eye view: depth rendered from the BEV features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsmae_plugin.config.values import MOST_BINS
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models import head_panels, module_config, scores
from nsmae_plugin.models.render_head import Encoders, RenderHead, masked_mean
from nsmae_plugin.models.targets import depth_from_above, occupied_cells, unmasked_points
from nsmae_plugin.ops.compositing import at_least_float32, composite, density_bias


class BEVRenderHead(RenderHead):
    """BEV depth: a 3×3 convolution to densities per BEV cell, composited top-down.

    The bins have BIN_HEIGHT metres each, from the top of the range to one below its bottom.

    Reads: the BEV features of the branches, each (B, C, Y, X).

    Writes: ``rendered_bev_depth``, metres below the top, and ``rendered_bev_opacity``, (B, Y, X).

    Targets: ``target_bev_depth`` (B, Y, X), the topmost bin with a LiDAR point in each cell, where
    there is one (``target_bev_mask``).

    Losses: ``bev_depth``, the mean absolute error in metres over the cells with a target.

    Raises:
        ConfigError: BIN_HEIGHT makes no bin, or very many; when called: features of other shapes.
    """

    slot = "bev_head"
    terms = ("bev_depth",)
    rows: ClassVar = scores.BEV_ROWS
    record = staticmethod(scores.bev_record)
    totals = staticmethod(scores.bev_totals)
    panels = staticmethod(head_panels.bev_panels)
    overview = staticmethod(head_panels.bev_overview)
    edges: Tensor  # boundaries of the bins, metres below the top of the range

    def __init__(self, model_cfg: Any, encoders: Encoders) -> None:
        super().__init__(model_cfg, encoders)
        height = module_config.BEVRenderHead.of(model_cfg).BIN_HEIGHT
        self.channels = dict(encoders.bev_channels)
        self.reads = tuple(self.channels)
        low, high = encoders.point_cloud_range[2::3]
        self.grid = replace(encoders.grid, z_bound=(low, high, height))
        inside = self.grid.size[2]
        if not 1 <= inside <= MOST_BINS:
            raise ConfigError(
                f"MODEL.RENDER_HEADS.{model_cfg.NAME}.BIN_HEIGHT {height:g} divides the "
                f"{high - low:g} m of POINT_CLOUD_RANGE into {inside} bins, not 1 to {MOST_BINS}"
            )
        bins = inside + 1
        self.density_bias = density_bias(bins * height)
        self.to_density = nn.Conv2d(sum(self.channels.values()), bins, kernel_size=3, padding=1)
        edges = height * torch.arange(bins + 1, dtype=torch.float64)
        self.register_buffer("edges", edges.float(), persistent=False)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Render the bird's-eye view."""
        raw = at_least_float32(self._convolve([batch_dict[key] for key in self.channels]))
        density = F.softplus(raw + self.density_bias).movedim(1, -1)
        rendered = composite(density, self.edges)
        batch_dict["rendered_bev_depth"] = rendered.depth
        batch_dict["rendered_bev_opacity"] = rendered.opacity
        return batch_dict

    def targets(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Depth of the topmost point in every cell, to the centre of its bin."""
        points = unmasked_points(batch_dict)
        depth, valid = depth_from_above(points, batch_dict["batch_size"], self.grid)
        return {"target_bev_depth": depth, "target_bev_mask": valid}

    def hidden(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cells with a target and without a visible voxel."""
        seen = occupied_cells(batch_dict, self.grid)
        return {"target_bev_hidden": batch_dict["target_bev_mask"] & ~seen}

    def losses(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """``bev_depth``."""
        error = (batch_dict["rendered_bev_depth"] - batch_dict["target_bev_depth"]).abs()
        return {"bev_depth": masked_mean(error, batch_dict["target_bev_mask"])}

    @classmethod
    def cells(cls, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"bev_depth": sample["target_bev_mask"]}

    def _convolve(self, features: Sequence[Tensor]) -> Tensor:
        """``to_density`` of the maps side by side, which saves a copy of all of them."""
        shapes = {key: tuple(one.shape) for key, one in zip(self.channels, features, strict=True)}
        grids = {shape[-2:] for shape in shapes.values()}
        if len(grids) > 1 or any(shapes[key][1] != self.channels[key] for key in shapes):
            raise ConfigError(
                f"the BEV head expects {self.channels} channels on one grid, but the features are "
                f"{shapes}: check MODEL.MAP_TO_BEV.NUM_BEV_FEATURES, MODEL.VTRANSFORM.OUT_CHANNEL, "
                "XBOUND, YBOUND and DOWNSAMPLE against POINT_CLOUD_RANGE and VOXEL_SIZE"
            )
        layer = self.to_density
        parts = layer.weight.split(list(self.channels.values()), dim=1)
        raw = F.conv2d(features[0], parts[0], layer.bias, padding=layer.padding)
        for map_, part in zip(features[1:], parts[1:], strict=True):
            raw = raw + F.conv2d(map_, part, padding=layer.padding)
        return raw
