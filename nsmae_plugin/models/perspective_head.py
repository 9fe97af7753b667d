"""The perspective view: colour and depth rendered into every camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models import head_panels, scores
from nsmae_plugin.models.render_head import Encoders, RenderHead, masked_mean
from nsmae_plugin.models.targets import colour_target, filled_cells, nearest_returns
from nsmae_plugin.ops.compositing import bin_centres, density_bias
from nsmae_plugin.ops.frustum_render import render_frustum


class PerspectiveRenderHead(RenderHead):
    """Colour and depth in every camera, from the two factors of the view transform's frustum.

    A 1×1 projection without bias turns the context into red, green, blue and density per pixel;
    :func:`~nsmae_plugin.ops.frustum_render.render_frustum` renders them on the depth bins.

    Reads: ``depth_logits`` (B * N, D, h, w), ``depth_context`` (B * N, C, h, w), ``batch_size``.

    Writes: ``rendered_rgb`` (B, N, 3, h, w) in [0, 1]; ``rendered_depth`` (B, N, h, w), metres
    along the camera's z axis; ``rendered_opacity`` (B, N, h, w).

    Targets: ``target_rgb`` (B, N, 3, h, w), the mean colour of each cell of the clean image, where
    the image fills the cell (``target_rgb_mask``); ``target_depth`` (B, N, h, w), the nearest
    LiDAR return in each cell, where there is one that the bins can render (``target_depth_mask``).

    Losses: ``rgb``, the mean squared error over channels and filled cells, hidden or visible;
    ``depth``, the mean absolute error in metres over the cells with a target.

    Raises:
        ConfigError: the view transform has no such factors, or no whole pixels per cell.
    """

    slot = "perspective_head"
    terms = ("rgb", "depth")
    reads = ("depth_logits", "depth_context")
    rows: ClassVar = scores.CAMERA_ROWS
    record = staticmethod(scores.camera_record)
    totals = staticmethod(scores.camera_totals)
    panels = staticmethod(head_panels.camera_panels)
    overview = staticmethod(head_panels.camera_overview)
    edges: Tensor  # (D + 1,) boundaries of the depth bins, metres

    def __init__(self, model_cfg: Any, encoders: Encoders) -> None:
        super().__init__(model_cfg, encoders)
        lift = encoders.view_transform
        if not getattr(lift, "renders_frustum", False):
            found = "a network without a view transform" if lift is None else type(lift).__name__
            raise ConfigError(
                f"MODEL.RENDER_HEADS.{model_cfg.NAME} cannot render {found}: set "
                "MODEL.VTRANSFORM.NAME to FactorizedLSSTransform or FactorizedDepthLSSTransform, "
                "or remove the head"
            )
        self.stride = lift.pixels_per_cell()
        self.reads_depth, self.kernels = lift.reads_lidar_depth, lift.kernels
        self.projection = nn.Conv2d(lift.out_channels, 4, kernel_size=1, bias=False)
        edges = lift.depth_edges()
        self.density_bias = density_bias(float(edges[-1] - edges[0]))
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Render the cameras."""
        logits, context = batch_dict["depth_logits"], batch_dict["depth_context"]
        with torch.autocast(context.device.type, enabled=False):  # half would make far bins jump
            raw = self.projection(context.to(self.projection.weight.dtype))
        rgb, depth, opacity = render_frustum(
            logits, raw, bin_centres(self.edges), self.edges, self.density_bias, self.kernels
        )
        for name, value in (("rgb", rgb), ("depth", depth), ("opacity", opacity)):
            batch_dict[f"rendered_{name}"] = value.unflatten(0, (batch_dict["batch_size"], -1))
        return batch_dict

    def targets(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Colour and depth of every cell of the feature grid."""
        filled = filled_cells(batch_dict, self.stride)
        depth, valid = nearest_returns(batch_dict, self.stride)
        valid &= filled & (depth >= self.edges[0]) & (depth <= self.edges[-1])
        return {
            "target_rgb": colour_target(batch_dict, self.stride),
            "target_rgb_mask": filled,
            "target_depth": torch.where(valid, depth, 0.0),
            "target_depth_mask": valid,
        }

    def hidden(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cells with a target in which no LiDAR point falls that the view transform has read."""
        valid = batch_dict["target_depth_mask"]
        if self.reads_depth:
            _, seen = nearest_returns(batch_dict, self.stride, visible=True)
            valid = valid & ~seen
        return {"target_depth_hidden": valid}

    def losses(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """``rgb`` and ``depth``."""
        colour = (batch_dict["rendered_rgb"] - batch_dict["target_rgb"]).square().mean(dim=-3)
        depth = (batch_dict["rendered_depth"] - batch_dict["target_depth"]).abs()
        return {
            "rgb": masked_mean(colour, batch_dict["target_rgb_mask"]),
            "depth": masked_mean(depth, batch_dict["target_depth_mask"]),
        }

    @classmethod
    def cells(cls, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"rgb": sample["target_rgb_mask"], "depth": sample["target_depth_mask"]}
