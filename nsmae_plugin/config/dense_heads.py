"""Sections of the detection heads that both hosts have, under OpenPCDet's names.

The keys are those that OpenPCDet reads and those that its own YAML files set. Other heads
(AnchorHeadMulti, VoxelNeXtHead, …) are OpenPCDet's own and stay unchecked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import model_validator

from nsmae_plugin.config.modules import Module
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import (
    ABSENT,
    Fraction,
    LayerCount,
    NonNegative,
    NonNegativeInt,
    PointCloudRange,
    PositiveFloat,
    PositiveInt,
    Ratio,
)


class Branch(Section):
    """Layers of one predicted quantity."""

    out_channels: PositiveInt
    num_conv: LayerCount


class _CommonBranches(Section):
    center: Branch
    dim: Branch
    rot: Branch
    vel: Branch = ABSENT


class _CenterBranches(_CommonBranches):
    center_z: Branch
    iou: Branch = ABSENT


class _TransFusionBranches(_CommonBranches):
    height: Branch


class _CenterBranchConfig(Section):
    HEAD_ORDER: list[str]
    HEAD_DICT: _CenterBranches


class _TransFusionBranchConfig(Section):
    HEAD_ORDER: list[str]
    HEAD_DICT: _TransFusionBranches


class _Assigner(Section):
    """GAUSSIAN_OVERLAP: least overlap of a box with one moved by the radius; MIN_RADIUS: cells."""

    FEATURE_MAP_STRIDE: PositiveInt = ABSENT
    GAUSSIAN_OVERLAP: Fraction
    MIN_RADIUS: NonNegativeInt


class _CenterAssigner(_Assigner):
    NUM_MAX_OBJS: PositiveInt
    DENSE_REG: int = ABSENT


class _FocalCost(Section):
    weight: NonNegative = ABSENT
    alpha: Ratio = ABSENT
    gamma: NonNegative = ABSENT


class _Cost(Section):
    weight: NonNegative = ABSENT


class _Costs(Section):
    cls_cost: _FocalCost
    reg_cost: _Cost
    iou_cost: _Cost


class _TransFusionAssigner(_Assigner):
    DATASET: str = ABSENT
    HUNGARIAN_ASSIGNER: _Costs


class _CenterWeights(Section):
    cls_weight: NonNegative
    loc_weight: NonNegative
    code_weights: list[NonNegative]


class _CenterLoss(Section):
    LOSS_WEIGHTS: _CenterWeights


class _TransFusionWeights(Section):
    cls_weight: NonNegative
    bbox_weight: NonNegative
    hm_weight: NonNegative
    code_weights: list[NonNegative]


class _FocalLoss(Section):
    use_sigmoid: bool
    gamma: NonNegative
    alpha: Ratio


class _TransFusionLoss(Section):
    LOSS_WEIGHTS: _TransFusionWeights
    LOSS_CLS: _FocalLoss


class Suppression(Section):
    """Thresholds and sizes: one for all classes of a group, or one for each class."""

    NMS_TYPE: str
    NMS_THRESH: Ratio | Annotated[list[Ratio], Len(1)]
    NMS_PRE_MAXSIZE: PositiveInt | Annotated[list[PositiveInt], Len(1)]
    NMS_POST_MAXSIZE: PositiveInt | Annotated[list[PositiveInt], Len(1)]
    MULTI_CLASSES_NMS: bool = ABSENT
    SCORE_THRESH: float = ABSENT


class _CenterOutput(Section):
    SCORE_THRESH: float
    POST_CENTER_LIMIT_RANGE: PointCloudRange
    MAX_OBJ_PER_SAMPLE: PositiveInt
    USE_IOU_TO_RECTIFY_SCORE: bool = ABSENT
    IOU_RECTIFIER: list[NonNegative] = ABSENT
    NMS_CONFIG: Suppression


class _TransFusionOutput(Section):
    SCORE_THRESH: float
    POST_CENTER_RANGE: PointCloudRange


class CenterHead(Module):
    """CenterPoint's head."""

    CLASS_AGNOSTIC: bool = ABSENT
    CLASS_NAMES_EACH_HEAD: list[list[str]]
    SHARED_CONV_CHANNEL: PositiveInt
    USE_BIAS_BEFORE_NORM: bool = ABSENT
    BN_EPS: PositiveFloat = ABSENT
    BN_MOM: Ratio = ABSENT
    NUM_HM_CONV: LayerCount
    IOU_REG_LOSS: bool = ABSENT
    SEPARATE_HEAD_CFG: _CenterBranchConfig
    TARGET_ASSIGNER_CONFIG: _CenterAssigner
    LOSS_CONFIG: _CenterLoss
    POST_PROCESSING: _CenterOutput

    @model_validator(mode="after")
    def _check_codes(self) -> CenterHead:
        _check_code_weights(self.SEPARATE_HEAD_CFG, self.LOSS_CONFIG.LOSS_WEIGHTS.code_weights)
        return self


class TransFusionHead(Module):
    """TransFusion's head; NUM_CLASSES is not read, since CLASS_NAMES decides."""

    CLASS_AGNOSTIC: bool = ABSENT
    USE_BIAS_BEFORE_NORM: bool = ABSENT
    NUM_CLASSES: int = ABSENT
    NUM_PROPOSALS: PositiveInt
    HIDDEN_CHANNEL: PositiveInt
    NUM_HEADS: PositiveInt
    NMS_KERNEL_SIZE: PositiveInt
    FFN_CHANNEL: PositiveInt
    DROPOUT: Ratio
    BN_MOMENTUM: Ratio
    ACTIVATION: Literal["relu", "gelu"]
    NUM_HM_CONV: LayerCount
    SEPARATE_HEAD_CFG: _TransFusionBranchConfig
    TARGET_ASSIGNER_CONFIG: _TransFusionAssigner
    LOSS_CONFIG: _TransFusionLoss
    POST_PROCESSING: _TransFusionOutput

    @model_validator(mode="after")
    def _check(self) -> TransFusionHead:
        _check_code_weights(self.SEPARATE_HEAD_CFG, self.LOSS_CONFIG.LOSS_WEIGHTS.code_weights)
        if self.HIDDEN_CHANNEL % self.NUM_HEADS:
            raise ValueError(
                f"NUM_HEADS {self.NUM_HEADS} must divide HIDDEN_CHANNEL {self.HIDDEN_CHANNEL}"
            )
        if self.NMS_KERNEL_SIZE % 2 == 0:
            raise ValueError(f"NMS_KERNEL_SIZE must be odd, not {self.NMS_KERNEL_SIZE}")
        return self


def _check_code_weights(
    branches: _CenterBranchConfig | _TransFusionBranchConfig, weights: list[float]
) -> None:
    """Check that each value of the branches in HEAD_ORDER has a weight."""
    order = branches.HEAD_ORDER
    absent = [name for name in order if getattr(branches.HEAD_DICT, name, None) is None]
    if absent:
        raise ValueError(
            f"SEPARATE_HEAD_CFG.HEAD_DICT has no {', '.join(absent)}, which HEAD_ORDER names"
        )
    length = sum(getattr(branches.HEAD_DICT, name).out_channels for name in order)
    if len(weights) != length:
        raise ValueError(
            f"LOSS_CONFIG.LOSS_WEIGHTS.code_weights has {len(weights)} values, but HEAD_ORDER "
            f"{order} makes codes of {length}"
        )
