"""Gradients by the branch of the network that they belong to: their norms, and clipping.

The terms of pre-training pull at branches with very different strength: at the first step of
``cfgs/nsmae_pretrain.yaml`` the gradient of the camera encoder is 70,000 times that of the LiDAR
encoder (docs/PRETRAINING.md). Clipped together, the small one is scaled by what colour does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

#: Branches and the slots of a detector that belong to them; all other slots are heads.
BRANCHES = {
    "camera": ("mask_token", "image_backbone", "neck", "vtransform"),
    "lidar": ("vfe", "backbone_3d", "map_to_bev_module"),
}
HEADS = "heads"


def by_branch(parameters: Iterable[str]) -> dict[str, list[int]]:
    """Positions of the parameters of ``camera``, ``lidar`` and ``heads``, of those that have any.

    Args:
        parameters: their names in the detector.
    """
    positions: dict[str, list[int]] = {name: [] for name in (*BRANCHES, HEADS)}
    for position, parameter in enumerate(parameters):
        slot = parameter.split(".")[0]
        branch = next((name for name, slots in BRANCHES.items() if slot in slots), HEADS)
        positions[branch].append(position)
    return {name: found for name, found in positions.items() if found}


def branch_norms(parameters: Sequence[str], norms: Sequence[float]) -> dict[str, float]:
    """``grad_norm_<branch>`` from the norms of the gradients; nothing where there is one branch."""
    branches = by_branch(parameters)
    if len(branches) == 1:
        return {}
    return {
        f"grad_norm_{name}": math.hypot(*(norms[position] for position in positions))
        for name, positions in branches.items()
    }


def clip_gradients(
    gradients: Mapping[str, Tensor], norms: Sequence[Tensor], limit: float, separately: bool
) -> None:
    """Scale gradients in place so that their joint norm is at most ``limit``.

    Nothing waits for the device.

    Args:
        gradients: by the name of their parameter.
        norms: of each of them; () tensors.
        separately: each branch has the limit for itself.
    """
    values = list(gradients.values())
    everything = {"": list(range(len(values)))}
    for positions in (by_branch(gradients) if separately else everything).values():
        norm = torch.linalg.vector_norm(torch.stack([norms[one] for one in positions]))
        factor = (limit / norm).clamp(max=1.0)
        torch._foreach_mul_([values[one] for one in positions], factor)
