"""The published formulation of the frustum path, as a reference to compare and measure against.

Lift-Splat-Shoot, OpenPCDet and NS-MAE build the lifted tensor, pixels x bins x channels, add its
rows into BEV cells, and render it after a 1x1 convolution with a cumulative product. The
activations are those of :mod:`nsmae_plugin.ops.frustum_render`, so that both give the same
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from nsmae_plugin.models.lift_splat import LiftSplatTransform
from nsmae_plugin.models.perspective_head import PerspectiveRenderHead
from nsmae_plugin.models.view_transform import (
    FactorizedDepthLSSTransform,
    FactorizedLSSTransform,
)
from nsmae_plugin.ops.compositing import BACKGROUND, bin_centres


def lift(depth: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """(images, D, fH, fW) probabilities and (images, C, fH, fW) -> (images, D, fH, fW, C)."""
    return (depth.unsqueeze(1) * context.unsqueeze(2)).permute(0, 2, 3, 4, 1)


class MaterialisedPlan(NamedTuple):
    """Rows of the lifted tensor inside the grid, and their cells, (K,) int64."""

    kept: torch.Tensor
    cells: torch.Tensor
    num_cells: int


def materialised_plan(
    cells: torch.Tensor, image_shape: Sequence[int], num_cells: int
) -> MaterialisedPlan:
    """From the (P, D) cells of :func:`nsmae_plugin.ops.pooling_plan.frustum_cells`.

    Args:
        image_shape: (images, D, fH, fW).
    """
    images, bins, height, width = image_shape
    by_bin = cells.view(images, height * width, bins).transpose(1, 2).flatten()
    kept = (by_bin >= 0).nonzero().squeeze(1)
    return MaterialisedPlan(kept, by_bin[kept].long(), num_cells)


def pool_frustum(frustum: torch.Tensor, plan: MaterialisedPlan) -> torch.Tensor:
    """Sum the rows of each BEV cell: (cells, C)."""
    rows = frustum.reshape(-1, frustum.shape[-1])[plan.kept]
    return rows.new_zeros(plan.num_cells, rows.shape[1]).index_add(0, plan.cells, rows)


def render_materialised(
    frustum: torch.Tensor,
    depth: torch.Tensor,
    weight: torch.Tensor,
    centres: torch.Tensor,
    edges: torch.Tensor,
    density_bias: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colour, depth and opacity of every pixel, arguments and results as ``render_frustum``.

    Args:
        frustum: (images, D, fH, fW, C); depth: (images, D, fH, fW), its probabilities.
        weight: (4, C, 1, 1), of the projection to red, green, blue and density.
    """
    images, bins, height, width, channels = frustum.shape
    maps = frustum.permute(0, 1, 4, 2, 3).reshape(images * bins, channels, height, width)
    raw = F.conv2d(maps, weight).view(images, bins, 4, height, width)
    # The probabilities of a pixel add up to one: the sum over its bins is its raw density.
    raw_density = raw[:, :, 3].sum(1, keepdim=True)
    density = bins * depth * F.softplus(raw_density + density_bias)
    alpha = 1.0 - torch.exp(-density * edges.diff().view(1, -1, 1, 1))
    passed = torch.cumprod(1.0 - alpha, dim=1)
    in_front = torch.cat((torch.ones_like(passed[:, :1]), passed[:, :-1]), dim=1)
    weights = alpha * in_front
    colour = torch.sigmoid(bins * raw[:, :, :3])
    rgb = (weights.unsqueeze(2) * colour).sum(1) + BACKGROUND * passed[:, -1:]
    distance = (weights * centres.view(1, -1, 1, 1)).sum(1) + passed[:, -1] * edges[-1]
    return rgb, distance, weights.sum(1)


class MaterialisedTransform(LiftSplatTransform):
    """A view transform with the lifted tensor, which it hands on as ``frustum`` if wanted."""

    hands_on = False

    @torch.no_grad()
    def plan(self, batch_dict: Mapping[str, Any]) -> Any:
        num_cells = len(batch_dict["lidar_aug_matrix"]) * self.grid.num_voxels
        images = batch_dict["camera_intrinsics"].shape[:2].numel()
        shape = (images, self.num_bins, *self.feature_size)
        return materialised_plan(self.cells(batch_dict), shape, num_cells)

    def pool(self, batch_dict: dict[str, Any], plan: Any) -> torch.Tensor:
        depth = batch_dict["depth_logits"].softmax(1)
        frustum = lift(depth, batch_dict["depth_context"])
        if self.hands_on:
            batch_dict["frustum"], batch_dict["frustum_depth"] = frustum, depth
        return pool_frustum(frustum, plan)


class MaterialisedLSSTransform(MaterialisedTransform, FactorizedLSSTransform):
    """BEVFusion's ``LSSTransform``."""


class MaterialisedDepthLSSTransform(MaterialisedTransform, FactorizedDepthLSSTransform):
    """OpenPCDet's ``DepthLSSTransform``."""


MATERIALISED = {
    FactorizedLSSTransform: MaterialisedLSSTransform,
    FactorizedDepthLSSTransform: MaterialisedDepthLSSTransform,
}
LIFTING = tuple(factorised.__name__ for factorised in MATERIALISED)


class MaterialisedRenderHead(PerspectiveRenderHead):
    """The render head on ``frustum``."""

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        with torch.autocast(batch_dict["frustum"].device.type, enabled=False):
            rendered = render_materialised(
                batch_dict.pop("frustum"),
                batch_dict.pop("frustum_depth"),
                self.projection.weight,
                bin_centres(self.edges),
                self.edges,
                self.density_bias,
            )
        for name, value in zip(("rgb", "depth", "opacity"), rendered, strict=True):
            batch_dict[f"rendered_{name}"] = value.unflatten(0, (batch_dict["batch_size"], -1))
        return batch_dict


def materialise(model: Any) -> None:
    """Exchange the modules of the frustum, in place; weights and everything else stay."""
    model.vtransform.__class__ = MATERIALISED[type(model.vtransform)]
    head = getattr(model, "perspective_head", None)
    model.vtransform.hands_on = head is not None
    if head is not None:
        head.__class__ = MaterialisedRenderHead
