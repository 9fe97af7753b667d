"""Voxel features from the points of each voxel."""

from typing import Any

import torch
from torch import nn


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
