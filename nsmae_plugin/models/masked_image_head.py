"""Masked images: the colours of hidden patches, predicted from image features alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models import head_panels, scores
from nsmae_plugin.models.render_head import IMAGE_MAP, Encoders, RenderHead, masked_mean
from nsmae_plugin.models.targets import colour_target, filled_cells


class MaskedImageHead(RenderHead):
    """SimMIM (arXiv 2111.09886) on the features of the neck: no view transform, no rendering.

    A 1×1 convolution predicts the pixels below each feature, in the normalised colours of the
    input; the normalisation is then undone. As in SimMIM, the loss is an L1 loss on hidden pixels
    alone. Other than there, the features are the neck's finest map and not the last stage of the
    backbone, so that the neck is trained as well; and the loss counts colours in [0, 1], as the
    other heads do, where SimMIM counts normalised ones.

    Reads: ``image_fpn`` (its first map: (B * N, C, h, w)), ``image_mean``, ``image_std`` (B, 3).

    Writes: ``rendered_image`` (B, N, 3, H, W), colours around [0, 1].

    Targets: ``target_image`` (B, N, 3, H, W), the clean image; ``target_image_mask`` (B, N, h, w),
    the cells of features that the image fills.

    Losses: ``masked_image``, the mean absolute error over channels and hidden pixels.

    Raises:
        ConfigError: the size of the neck's map is not known; when called: the images are no whole
            number of features high and wide.
    """

    slot = "masked_image_head"
    terms = ("masked_image",)
    reads = (IMAGE_MAP,)
    rows: ClassVar = scores.IMAGE_ROWS
    record = staticmethod(scores.image_record)
    totals = staticmethod(scores.image_totals)
    panels = staticmethod(head_panels.image_panels)

    def __init__(self, model_cfg: Any, encoders: Encoders) -> None:
        super().__init__(model_cfg, encoders)
        if encoders.image_map is None:
            raise ConfigError(
                f"MODEL.RENDER_HEADS.{model_cfg.NAME} needs image features of known size: set "
                "MODEL.IMAGE_BACKBONE.NAME to SwinTransformer and MODEL.NECK.NAME to "
                "GeneralizedLSSFPN, or remove the head"
            )
        channels, self.stride = encoders.image_map
        self.to_pixels = nn.Conv2d(channels, 3 * self.stride**2, kernel_size=1)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Predict the images."""
        features = batch_dict[IMAGE_MAP][0]
        with torch.autocast(features.device.type, enabled=False):
            raw = self.to_pixels(features.to(self.to_pixels.weight.dtype))
        pixels = F.pixel_shuffle(raw, self.stride).unflatten(0, (batch_dict["batch_size"], -1))
        mean, std = (batch_dict[key][:, None, :, None, None] for key in ("image_mean", "image_std"))
        batch_dict["rendered_image"] = pixels * std + mean
        return batch_dict

    def targets(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Colour of every pixel."""
        size, stride = list(batch_dict["camera_imgs"].shape[-2:]), self.stride
        if any(side % stride for side in size):
            raise ConfigError(
                f"{type(self).__name__} predicts {stride} x {stride} pixels for each feature: "
                f"DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM {size} must be multiples of {stride}"
            )
        filled = filled_cells(batch_dict, stride)
        return {"target_image": colour_target(batch_dict, 1), "target_image_mask": filled}

    def losses(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """``masked_image``."""
        error = (batch_dict["rendered_image"] - batch_dict["target_image"]).abs().mean(dim=-3)
        return {"masked_image": masked_mean(error, scores.patch_pixels(batch_dict)[0])}

    @classmethod
    def cells(cls, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"masked_image": scores.patch_pixels(sample)[0]}
