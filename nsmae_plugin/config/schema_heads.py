"""Which keys and values the sections of heads may hold (``MODEL.DENSE_HEAD``, ``MODEL.MAP_HEAD``).

The keys of detection heads are OpenPCDet's, those that it reads and those that its own YAML files
set.
"""

from __future__ import annotations

from typing import Any

from nsmae_plugin.config.schema_kinds import NUMBER, ListOf, need

Section = dict[str, Any]

_RANGE = ListOf(NUMBER, 6)
_BRANCH = {"out_channels": need(int), "num_conv": need(int)}
_PER_GROUP = (int, float, ListOf(NUMBER))  # a number, or one for each class


def _branches(compulsory: list[str], optional: list[str]) -> Section:
    """SEPARATE_HEAD_CFG: the order of the branches and the layers of each."""
    layers: Section = {name: need(_BRANCH) for name in compulsory}
    layers |= dict.fromkeys(optional, _BRANCH)
    return {"HEAD_ORDER": need(ListOf(str)), "HEAD_DICT": need(layers)}


_CENTER_HEAD: Section = {
    "CLASS_AGNOSTIC": bool,
    "CLASS_NAMES_EACH_HEAD": need(ListOf(ListOf(str))),
    "SHARED_CONV_CHANNEL": need(int),
    "USE_BIAS_BEFORE_NORM": bool,
    "BN_EPS": NUMBER,
    "BN_MOM": NUMBER,
    "NUM_HM_CONV": need(int),
    "IOU_REG_LOSS": bool,
    "SEPARATE_HEAD_CFG": need(_branches(["center", "center_z", "dim", "rot"], ["vel", "iou"])),
    "TARGET_ASSIGNER_CONFIG": need(
        {
            "FEATURE_MAP_STRIDE": int,
            "NUM_MAX_OBJS": need(int),
            "GAUSSIAN_OVERLAP": need(NUMBER),
            "MIN_RADIUS": need(int),
            "DENSE_REG": int,
        }
    ),
    "LOSS_CONFIG": need(
        {
            "LOSS_WEIGHTS": need(
                {
                    "cls_weight": need(NUMBER),
                    "loc_weight": need(NUMBER),
                    "code_weights": need(ListOf(NUMBER)),
                }
            )
        }
    ),
    "POST_PROCESSING": need(
        {
            "SCORE_THRESH": need(NUMBER),
            "POST_CENTER_LIMIT_RANGE": need(_RANGE),
            "MAX_OBJ_PER_SAMPLE": need(int),
            "USE_IOU_TO_RECTIFY_SCORE": bool,
            "IOU_RECTIFIER": ListOf(NUMBER),
            "NMS_CONFIG": need(
                {
                    "NMS_TYPE": need(str),
                    "NMS_THRESH": need(_PER_GROUP),
                    "NMS_PRE_MAXSIZE": need(_PER_GROUP),
                    "NMS_POST_MAXSIZE": need(_PER_GROUP),
                    "MULTI_CLASSES_NMS": bool,
                    "SCORE_THRESH": NUMBER,
                }
            ),
        }
    ),
}

_TRANSFUSION_HEAD: Section = {
    "CLASS_AGNOSTIC": bool,
    "USE_BIAS_BEFORE_NORM": bool,
    "NUM_CLASSES": int,  # not read: CLASS_NAMES decides
    "NUM_PROPOSALS": need(int),
    "HIDDEN_CHANNEL": need(int),
    "NUM_HEADS": need(int),
    "NMS_KERNEL_SIZE": need(int),
    "FFN_CHANNEL": need(int),
    "DROPOUT": need(NUMBER),
    "BN_MOMENTUM": need(NUMBER),
    "ACTIVATION": need(str),
    "NUM_HM_CONV": need(int),
    "SEPARATE_HEAD_CFG": need(_branches(["center", "height", "dim", "rot"], ["vel"])),
    "TARGET_ASSIGNER_CONFIG": need(
        {
            "FEATURE_MAP_STRIDE": int,
            "DATASET": str,
            "GAUSSIAN_OVERLAP": need(NUMBER),
            "MIN_RADIUS": need(int),
            "HUNGARIAN_ASSIGNER": need(
                {
                    "cls_cost": need({"weight": NUMBER, "alpha": NUMBER, "gamma": NUMBER}),
                    "reg_cost": need({"weight": NUMBER}),
                    "iou_cost": need({"weight": NUMBER}),
                }
            ),
        }
    ),
    "LOSS_CONFIG": need(
        {
            "LOSS_WEIGHTS": need(
                {
                    "cls_weight": need(NUMBER),
                    "bbox_weight": need(NUMBER),
                    "hm_weight": need(NUMBER),
                    "code_weights": need(ListOf(NUMBER)),
                }
            ),
            "LOSS_CLS": need(
                {"use_sigmoid": need(bool), "gamma": need(NUMBER), "alpha": need(NUMBER)}
            ),
        }
    ),
    "POST_PROCESSING": need({"SCORE_THRESH": need(NUMBER), "POST_CENTER_RANGE": need(_RANGE)}),
}

#: Other heads (AnchorHeadMulti, VoxelNeXtHead, ...) are OpenPCDet's own and stay unchecked.
HEADS: dict[str, Section] = {"CenterHead": _CENTER_HEAD, "TransFusionHead": _TRANSFUSION_HEAD}

MAP_HEADS: dict[str, Section] = {
    "BEVSegmentationHead": {
        "HIDDEN_CHANNEL": int,
        "LOSS_CONFIG": need(
            {
                "LOSS": need(str),
                "GAMMA": NUMBER,
                "ALPHA": NUMBER,
                "LOSS_WEIGHTS": need({"map_weight": need(NUMBER)}),
            }
        ),
    }
}
