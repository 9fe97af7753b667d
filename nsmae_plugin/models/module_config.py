"""Sections of the plugin's own modules."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Le
from pydantic import model_validator

from nsmae_plugin.config.modules import LiftSplat, Module, SeveralCounts, check_lengths
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import ABSENT, NonNegative, PositiveFloat, PositiveInt, Words

DEPTH_STRIDE = 8  # pixels per feature of the LiDAR depth in FactorizedDepthLSSTransform


class FactorizedLSSTransform(LiftSplat):
    """KERNELS: ``triton`` for the fused ones for CUDA."""

    KERNELS: Literal["torch", "triton"] = "torch"


class FactorizedDepthLSSTransform(FactorizedLSSTransform):
    """FEATURE_SIZE is an eighth of IMAGE_SIZE, rounded up."""

    @model_validator(mode="after")
    def _check_eighth(self) -> FactorizedDepthLSSTransform:
        if self.IMAGE_SIZE and self.FEATURE_SIZE:
            eighth = [-(-side // DEPTH_STRIDE) for side in self.IMAGE_SIZE]
            if eighth != self.FEATURE_SIZE:
                raise ValueError(
                    f"FEATURE_SIZE {self.FEATURE_SIZE} must be {eighth}, an eighth of IMAGE_SIZE "
                    f"{self.IMAGE_SIZE}: the depth points meet the features"
                )
        return self


class GeneralizedResNetLSSFPN(Module):
    """Lists have one entry per level, of which there are two at least."""

    LAYER_NUMS: SeveralCounts
    LAYER_STRIDES: SeveralCounts
    NUM_FILTERS: SeveralCounts
    OUT_CHANNEL: PositiveInt
    UPSAMPLE_STRIDE: PositiveInt

    @model_validator(mode="after")
    def _check_levels(self) -> GeneralizedResNetLSSFPN:
        check_lengths(self, "LAYER_NUMS", "LAYER_STRIDES", "NUM_FILTERS")
        return self


class MapWeights(Section):
    """Weight of the map beside other tasks."""

    map_weight: NonNegative


class MapLoss(Section):
    """GAMMA and ALPHA of the focal loss; a negative ALPHA balances nothing, as published."""

    LOSS: Literal["focal", "cross_entropy"]
    GAMMA: NonNegative = 2.0
    ALPHA: Annotated[float, Le(1), Words("a number of at most 1")] = -1.0
    LOSS_WEIGHTS: MapWeights

    @model_validator(mode="after")
    def _check_unused(self) -> MapLoss:
        unused = [key for key in ("GAMMA", "ALPHA") if key in self.model_fields_set]
        if self.LOSS == "cross_entropy" and unused:
            raise ValueError(
                f"cross_entropy has no {' and no '.join(unused)}: remove it, or use focal"
            )
        return self


class BEVSegmentationHead(Module):
    """HIDDEN_CHANNEL: as many as come in, if absent."""

    HIDDEN_CHANNEL: PositiveInt = ABSENT
    LOSS_CONFIG: MapLoss


class ImageMaskToken(Module):
    """PATCH_SIZE: pixels, as in ``mask_image_patches``."""

    NAME: Literal["ImageMaskToken"]
    PATCH_SIZE: PositiveInt = ABSENT


class BEVRenderHead(Module):
    """BIN_HEIGHT: metres."""

    BIN_HEIGHT: PositiveFloat = 0.2
