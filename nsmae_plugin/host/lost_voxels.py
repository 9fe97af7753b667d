"""Batches of which no voxel reaches the output of the LiDAR backbone, for every network.

spconv cannot convolve nothing: its first convolution without a row ends in an assertion.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from nsmae_plugin.errors import DataError
from nsmae_plugin.host.grids import BACKBONES, used_voxels


def refuse_lost_voxels(model: nn.Module, model_cfg: Any, dataset: Any) -> nn.Module:
    """Let a network raise a ``DataError`` for a batch whose voxels all vanish in ``backbone_3d``.

    Args:
        model: as the host builds it.
        model_cfg: its section MODEL.
        dataset: gives ``grid_size``.
    """
    section = model_cfg.get("BACKBONE_3D") or {}
    backbone = getattr(model, "backbone_3d", None)
    if section.get("NAME") in BACKBONES and isinstance(backbone, nn.Module):
        voxels = int(dataset.grid_size[2])
        used = used_voxels(voxels, section.get("last_pad", 0))
        backbone.register_forward_pre_hook(partial(_check, used=used, voxels=voxels))
    return model


def _check(
    module: nn.Module, inputs: tuple[dict[str, torch.Tensor]], *, used: int, voxels: int
) -> None:
    batch = inputs[0]
    coordinates, frames = batch["voxel_coords"], batch.get("frame_id")
    if not len(coordinates):
        raise DataError(
            f"no voxels in the batch of the frames {frames}: all their points lie outside "
            "POINT_CLOUD_RANGE or are masked; check the LiDAR files"
        )
    # Only where some are lost: on a GPU the answer has to be waited for.
    if used < voxels and not bool((coordinates[:, 1] < used).any()):
        raise DataError(
            f"all voxels in the batch of the frames {frames} are among the topmost "
            f"{voxels - used} of {voxels} along z, which reach no output of MODEL.BACKBONE_3D; "
            "24, 40 or 56 use all (VOXEL_SIZE, DATA_CONFIG.POINT_CLOUD_RANGE)"
        )
