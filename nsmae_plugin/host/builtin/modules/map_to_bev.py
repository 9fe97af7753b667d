"""From a sparse volume to a dense bird's-eye-view map."""

from typing import Any

import torch
from torch import nn


class HeightCompression(nn.Module):
    """Stacks the height levels of a sparse volume into channels."""

    def __init__(self, model_cfg: Any, **kwargs: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.num_bev_features = model_cfg.NUM_BEV_FEATURES

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``encoded_spconv_tensor`` (sparse, C channels on a Z x Y x X grid) and
        ``encoded_spconv_tensor_stride``; writes ``spatial_features`` (B, C * Z, Y, X), where
        channel ``c * Z + z`` is channel c at height z, and ``spatial_features_stride``."""
        sparse = batch_dict["encoded_spconv_tensor"]
        features: torch.Tensor = sparse.features
        # Written in place rather than by sparse.dense(), which fills another layout and copies.
        size = (sparse.batch_size, features.shape[1], *sparse.spatial_shape)
        volume = features.new_zeros(size)  # (B, C, Z, Y, X)
        sample, z, y, x = sparse.indices.long().unbind(1)
        volume[sample, :, z, y, x] = features
        batch_dict["spatial_features"] = volume.flatten(1, 2)
        batch_dict["spatial_features_stride"] = batch_dict["encoded_spconv_tensor_stride"]
        return batch_dict
