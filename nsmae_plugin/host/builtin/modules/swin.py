"""Swin Transformer image backbone (arXiv 2103.14030), under the parameter names of OpenPCDet."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from nsmae_plugin.host.builtin.modules.recompute import gelu_linear
from nsmae_plugin.host.builtin.modules.window_attention import DropPath, ShiftedWindowAttention
from nsmae_plugin.host.swin_checkpoint import load_image_checkpoint

PATCH_SIZE = 4


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, added to the input."""

    def __init__(self, channels: int, hidden: int, drop: float, path_drop: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Dropout(drop)),
            nn.Linear(hidden, channels),
            nn.Dropout(drop),
        )
        self.dropout_layer = DropPath(path_drop)

    def forward(self, features: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        layers: Any = self.layers
        (expand, _, drop), contract, last_drop = layers
        if self.training and drop.p > 0:
            return identity + self.dropout_layer(layers(features))
        out = gelu_linear(expand(features), contract.weight, contract.bias)
        return identity + self.dropout_layer(last_drop(out))


class SwinBlock(nn.Module):
    """Window attention and feed-forward, each after a layer norm and around an identity."""

    def __init__(self, cfg: Any, channels: int, heads: int, shifted: bool, path_drop: float):
        super().__init__()
        drop = cfg.get("DROP_RATE", 0.0)
        self.recompute = cfg.get("WITH_CP", False)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ShiftedWindowAttention(
            channels,
            heads,
            side=cfg.WINDOW_SIZE,
            shift=cfg.WINDOW_SIZE // 2 if shifted else 0,
            attention_drop=cfg.get("ATTN_DROP_RATE", 0.0),
            output_drop=drop,
            path_drop=path_drop,
        )
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, int(cfg.MLP_RATIO * channels), drop, path_drop)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C); WITH_CP trades time for memory in the backward pass."""
        if self.recompute and features.requires_grad:
            return checkpoint(self._transform, features, use_reentrant=False)
        return self._transform(features)

    def _transform(self, features: torch.Tensor) -> torch.Tensor:
        features = features + self.attn(self.norm1(features))
        return self.ffn(self.norm2(features), identity=features)


class PatchEmbed(nn.Module):
    """A linear map of each 4 x 4 patch of the image, zero-padded on the right and below."""

    def __init__(self, in_channels: int, channels: int, normalise: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, channels, PATCH_SIZE, stride=PATCH_SIZE)
        self.norm = nn.LayerNorm(channels) if normalise else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), C)."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        tokens = self.projection(padded).permute(0, 2, 3, 1).contiguous()
        return tokens if self.norm is None else self.norm(tokens)


class PatchMerging(nn.Module):
    """Patch merging: half the resolution and twice the channels."""

    def __init__(self, channels: int, normalise: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels) if normalise else None
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 * C)."""
        batch, height, width, channels = features.shape
        padded = F.pad(features, (0, 0, 0, width % 2, 0, height % 2))
        blocks = padded.view(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        # Channel-major, (C, 2, 2): the order of torch's unfold, for which the weights are stored.
        merged = blocks.permute(0, 1, 3, 5, 2, 4).flatten(3)
        return self.reduction(merged if self.norm is None else self.norm(merged))


class Stage(nn.Module):
    """Blocks at one resolution, every second one shifted, and the way to the next stage."""

    def __init__(
        self, cfg: Any, channels: int, heads: int, path_drops: list[float], last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(cfg, channels, heads, shifted=index % 2 == 1, path_drop=path_drop)
            for index, path_drop in enumerate(path_drops)
        )
        self.downsample = None if last else PatchMerging(channels, cfg.get("PATCH_NORM", True))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, C) -> this stage's output, (B, H, W, C), and the next stage's input."""
        for block in self.blocks:
            features = block(features)
        return features, features if self.downsample is None else self.downsample(features)


class SwinTransformer(nn.Module):
    """Hierarchical transformer with shifted windows.

    ``model_cfg`` holds the keys of OpenPCDet's ``bevfusion.yaml``. INIT_CFG.checkpoint names image
    weights that :meth:`init_weights` loads; without INIT_CFG the initialisation is random.
    """

    def __init__(self, model_cfg: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.out_indices = list(model_cfg.OUT_INDICES)
        depths, normalise = list(model_cfg.DEPTHS), model_cfg.get("PATCH_NORM", True)
        self.num_features = [model_cfg.EMBED_DIMS * 2**i for i in range(len(depths))]
        self.patch_embed = PatchEmbed(3, model_cfg.EMBED_DIMS, normalise)
        self.drop_after_pos = nn.Dropout(model_cfg.get("DROP_RATE", 0.0))
        # Stochastic depth grows linearly over all blocks.
        rates = torch.linspace(0, model_cfg.get("DROP_PATH_RATE", 0.0), sum(depths), device="cpu")
        path_drops = [chunk.tolist() for chunk in rates.split(depths)]
        self.stages = nn.ModuleList(
            Stage(model_cfg, channels, heads, drops, last=index == len(depths) - 1)
            for index, (channels, heads, drops) in enumerate(
                zip(self.num_features, model_cfg.NUM_HEADS, path_drops, strict=True)
            )
        )
        for index in self.out_indices:
            self.add_module(f"norm{index}", nn.LayerNorm(self.num_features[index]))

    def init_weights(self) -> None:
        """Load INIT_CFG.checkpoint, or draw weights from torch's global generator.

        Raises:
            CheckpointError: the named checkpoint is missing, unreadable, or of another network.
        """
        init_cfg = self.model_cfg.get("INIT_CFG")
        if init_cfg is not None:
            convert = self.model_cfg.get("CONVERT_WEIGHTS", False)
            load_image_checkpoint(self, init_cfg.get("checkpoint"), convert)
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``camera_imgs`` (B, N, 3, H, W); writes ``image_features``, a list with, for each
        stage i of OUT_INDICES, (B * N, C * 2^i, H / 2^(i + 2), W / 2^(i + 2)), rounded up."""
        features = self.drop_after_pos(self.patch_embed(batch_dict["camera_imgs"].flatten(0, 1)))
        outputs = []
        for index, stage in enumerate(self.stages):
            output, features = stage(features)
            if index in self.out_indices:
                normalised = getattr(self, f"norm{index}")(output)
                outputs.append(normalised.permute(0, 3, 1, 2).contiguous())
        batch_dict["image_features"] = outputs
        return batch_dict
