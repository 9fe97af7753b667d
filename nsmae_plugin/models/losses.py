"""The terms of the pre-training loss, one function each, and their schedule.

Weights as in NS-MAE (arXiv 2405.17942): colour 1e4, depth 1e-2 in the cameras and, of bins of
0.2 m, in the view from above. There depth counts for the first 10 of 50 epochs; here each view has
a stop of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def colour_loss(rendered: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over channels and the cells that the image fills, hidden or visible.

    Args:
        rendered, target: (..., 3, h, w); valid: (..., h, w) bool.
    """
    return masked_mean((rendered - target).square().mean(dim=-3), valid)


def depth_loss(rendered: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error in metres over the cells that have a target; shapes are equal."""
    return masked_mean((rendered - target).abs(), valid)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``; 0 where nothing is, with a gradient of zero.

    Staying in the graph matters: under distributed training every parameter needs a gradient from
    every process, also from one whose cameras see no point.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def depth_schedule(
    global_step: int | Tensor, steps_per_epoch: int | None, stop_epoch: float | None
) -> float | Tensor:
    """Factor on the weight of a depth term: 1, and 0 from epoch ``stop_epoch`` on (None: never).

    Args:
        global_step: optimizer steps done; a tensor gives a tensor, without waiting for its device.
        steps_per_epoch: None counts as "not training by epochs", where nothing stops.
    """
    if stop_epoch is None or steps_per_epoch is None:
        return 1.0
    running = global_step < stop_epoch * steps_per_epoch
    return running.float() if isinstance(running, Tensor) else float(running)


def loss_terms(batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Unweighted terms of what was rendered: ``rgb``, ``depth``, ``bev_depth``."""
    terms = {}
    if "rendered_rgb" in batch_dict:
        terms["rgb"] = colour_loss(
            *(batch_dict[k] for k in ("rendered_rgb", "target_rgb", "target_rgb_mask"))
        )
        terms["depth"] = depth_loss(
            *(batch_dict[k] for k in ("rendered_depth", "target_depth", "target_depth_mask"))
        )
    if "rendered_bev_depth" in batch_dict:
        terms["bev_depth"] = depth_loss(
            *(batch_dict[k] for k in ("rendered_bev_depth", "target_bev_depth", "target_bev_mask"))
        )
    return terms


def weigh(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], depth_factor: float | Tensor
) -> dict[str, Tensor]:
    """Each term times its ``<term>_weight``, the cameras' depth also times ``depth_factor``.

    A term of weight 0 stays in the graph, for the reason given in :func:`masked_mean`.
    """
    return {
        name: term * (weights[f"{name}_weight"] * (depth_factor if name == "depth" else 1.0))
        for name, term in terms.items()
    }
