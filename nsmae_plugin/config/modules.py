"""Sections of the encoders and BEV backbones that both hosts have, under OpenPCDet's names.

A value that follows from another section may be left out (:mod:`nsmae_plugin.config.derived`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len
from pydantic import model_validator

from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import (
    ABSENT,
    MOST_BINS,
    MOST_LAYERS,
    BelowOne,
    Bound,
    LayerCount,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Size,
    Words,
)
from nsmae_plugin.geometry.intervals import count_steps

PerStage = Annotated[list[PositiveInt], Len(4, 4), Words("a list of 4 positive integers")]
LayersPerStage = Annotated[
    list[LayerCount], Len(4, 4), Words(f"a list of 4 integers from 1 to {MOST_LAYERS}")
]
Stages = Annotated[
    list[Annotated[int, Ge(0), Le(3)]], Len(1), Words("a list of numbers of stages, from 0 to 3")
]
SeveralCounts = Annotated[list[PositiveInt], Len(2), Words("a list of 2 or more positive integers")]


class Module(Section):
    """A module without settings."""

    NAME: str


class VoxelResBackBone8x(Module):
    """``last_pad``: padding along z of the last convolution."""

    USE_BIAS: bool = ABSENT
    last_pad: NonNegativeInt = ABSENT


class HeightCompression(Module):
    """The levels of height become channels."""

    NUM_BEV_FEATURES: PositiveInt = ABSENT


class ImageWeights(Section):
    """Initial weights of the image backbone."""

    type: str = ABSENT
    checkpoint: str = ABSENT


class SwinTransformer(Module):
    """Lists have one entry per stage; OUT_INDICES counts them from 0."""

    EMBED_DIMS: PositiveInt
    DEPTHS: LayersPerStage
    NUM_HEADS: PerStage
    WINDOW_SIZE: PositiveInt
    MLP_RATIO: PositiveFloat
    DROP_RATE: BelowOne = ABSENT
    ATTN_DROP_RATE: BelowOne = ABSENT
    DROP_PATH_RATE: BelowOne = ABSENT
    PATCH_NORM: bool = ABSENT
    OUT_INDICES: Stages
    WITH_CP: bool = ABSENT
    CONVERT_WEIGHTS: bool = ABSENT
    INIT_CFG: ImageWeights | None = None

    @model_validator(mode="after")
    def _check_heads(self) -> SwinTransformer:
        widths = [self.EMBED_DIMS * 2**stage for stage in range(len(self.NUM_HEADS))]
        if any(width % heads for width, heads in zip(widths, self.NUM_HEADS, strict=True)):
            raise ValueError(
                f"NUM_HEADS {self.NUM_HEADS} must divide the {widths} channels of the stages "
                "(EMBED_DIMS)"
            )
        return self


class GeneralizedLSSFPN(Module):
    """IN_CHANNELS from the finest level to the coarsest, all of which are used."""

    IN_CHANNELS: SeveralCounts = ABSENT
    OUT_CHANNELS: PositiveInt
    START_LEVEL: Annotated[int, Ge(0), Le(0), Words("0, since every level is used")] = ABSENT
    END_LEVEL: Annotated[int, Ge(-1), Words("an integer of at least -1")] = ABSENT
    NUM_OUTS: PositiveInt = ABSENT

    @model_validator(mode="after")
    def _check_levels(self) -> GeneralizedLSSFPN:
        last = len(self.IN_CHANNELS or []) - 1
        if self.IN_CHANNELS and self.END_LEVEL not in (None, -1, last):
            raise ValueError(f"END_LEVEL must be -1 or {last}, since every level is used")
        return self


class LiftSplat(Module):
    """A lift-splat view transform; bounds are [min, max, step] in metres."""

    IMAGE_SIZE: Size = ABSENT
    IN_CHANNEL: PositiveInt = ABSENT
    OUT_CHANNEL: PositiveInt
    FEATURE_SIZE: Size = ABSENT
    XBOUND: Bound = ABSENT
    YBOUND: Bound = ABSENT
    ZBOUND: Bound
    DBOUND: Bound
    DOWNSAMPLE: Annotated[int, Ge(1), Le(2), Words("1 or 2")]
    ROUNDING: Literal["truncate", "floor"] = "truncate"

    @model_validator(mode="after")
    def _check_layers(self) -> LiftSplat:
        layers = count_steps(self.ZBOUND, "ZBOUND")
        if self.DOWNSAMPLE == 2 and layers > 1:
            raise ValueError(f"ZBOUND gives {layers} layers, but DOWNSAMPLE 2 convolves one")
        nearest, farthest, step = self.DBOUND
        if nearest <= 0:
            raise ValueError(
                f"DBOUND {self.DBOUND} begins at or behind the camera: its first value, the centre "
                "of the nearest depth bin, must be positive"
            )
        if farthest - nearest > step * (MOST_BINS + 0.5):
            raise ValueError(f"DBOUND {self.DBOUND} makes more than {MOST_BINS} bins")
        return self


class ConvFuser(Module):
    """Channels of both maps together, and of the fused one."""

    IN_CHANNEL: PositiveInt = ABSENT
    OUT_CHANNEL: PositiveInt


class BaseBEVBackbone(Module):
    """Lists have one entry per level; there may be no level, or no way back to finer cells."""

    LAYER_NUMS: list[LayerCount | Literal[0]] = ABSENT
    LAYER_STRIDES: list[PositiveInt] = ABSENT
    NUM_FILTERS: list[PositiveInt] = ABSENT
    UPSAMPLE_STRIDES: list[PositiveFloat] = ABSENT
    NUM_UPSAMPLE_FILTERS: list[PositiveInt] = ABSENT
    USE_CONV_FOR_NO_STRIDE: bool = ABSENT
    NUM_FRAME: PositiveInt = ABSENT  # of OpenPCDet's MPPNet, and not read

    @model_validator(mode="after")
    def _check_levels(self) -> BaseBEVBackbone:
        check_lengths(self, "LAYER_NUMS", "LAYER_STRIDES", "NUM_FILTERS")
        check_lengths(self, "UPSAMPLE_STRIDES", "NUM_UPSAMPLE_FILTERS")
        return self


def check_lengths(section: Section, *keys: str) -> None:
    """Check that lists with one entry per level have the same length.

    Raises:
        ValueError: they have not.
    """
    lists: dict[str, Any] = {key: getattr(section, key) or [] for key in keys}
    if len({len(one) for one in lists.values()}) > 1:
        given = ", ".join(f"{key} {one}" for key, one in lists.items())
        raise ValueError(f"every list needs one entry per level, not {given}")
