"""The mask token, which replaces hidden image patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError


class ImageMaskToken(nn.Module):
    """Replaces hidden image patches by one learnt patch, tiled over them at its own size.

    The token lives in normalised colours. The module is a leaf on purpose: OpenPCDet's optimizers
    collect the parameters of leaf modules only.

    Config keys: PATCH_SIZE, pixels, as in the processor ``mask_image_patches``.

    Reads: ``camera_imgs`` (B, N, 3, H, W), clean; ``image_patch_mask`` (B, N, H / PATCH_SIZE,
    W / PATCH_SIZE) bool, true: hidden.

    Writes: ``camera_imgs``, a masked copy.

    Raises:
        ConfigError: (when called) there is no mask, or it is of another patch size.
    """

    def __init__(self, model_cfg: Any) -> None:
        super().__init__()
        self.patch_size = model_cfg.PATCH_SIZE
        self.token = nn.Parameter(torch.empty(3, self.patch_size, self.patch_size))
        nn.init.normal_(self.token, std=0.02)  # as in MAE

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Mask the images; keys in the class's docstring."""
        images: Tensor = batch_dict["camera_imgs"]
        hidden = self._mask(batch_dict)
        size = self.patch_size
        patches = images.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))  # B,N,3,Hp,ps,Wp,ps
        token = self.token.to(images.dtype)[:, None, :, None, :]
        masked = torch.where(hidden[:, :, None, :, None, :, None], token, patches)
        batch_dict["camera_imgs"] = masked.reshape(images.shape)
        return batch_dict

    def _mask(self, batch_dict: dict[str, Any]) -> Tensor:
        if "image_patch_mask" not in batch_dict:
            raise ConfigError(
                "MODEL.MASK_TOKEN needs a mask: add mask_image_patches after image_normalize to "
                "DATA_CONFIG.DATA_PROCESSOR"
            )
        hidden: Tensor = batch_dict["image_patch_mask"]
        *views, _, height, width = batch_dict["camera_imgs"].shape
        rows, columns = hidden.shape[-2:]
        covered = (*hidden.shape[:-2], rows * self.patch_size, columns * self.patch_size)
        if covered != (*views, height, width):
            raise ConfigError(
                f"patches of MODEL.MASK_TOKEN.PATCH_SIZE {self.patch_size} do not tile the images: "
                f"the mask has {tuple(hidden.shape)} patches for {tuple(views)} images of "
                f"{height} x {width} pixels; mask_image_patches must have the same PATCH_SIZE, "
                "and it must divide CAMERA_CONFIG.IMAGE.FINAL_DIM"
            )
        return hidden
