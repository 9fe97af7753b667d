"""Which keys and values a YAML configuration may hold.

A section is a dict ``key -> kind`` of :mod:`nsmae_plugin.config.schema_kinds`; keys wrapped by
``need`` must be there. Modules are looked up by ``NAME`` in the tables below; a ``NAME`` that no
table knows belongs to OpenPCDet.
"""

from __future__ import annotations

from typing import Any

from nsmae_plugin.config.schema_heads import HEADS, MAP_HEADS
from nsmae_plugin.config.schema_kinds import (
    NUMBER,
    OPTIONAL_NUMBER,
    TRIPLE,
    ListOf,
    need,
)

_LSS = {
    "IMAGE_SIZE": ListOf(int, 2),
    "IN_CHANNEL": int,
    "OUT_CHANNEL": need(int),
    "FEATURE_SIZE": ListOf(int, 2),
    "XBOUND": TRIPLE,
    "YBOUND": TRIPLE,
    "ZBOUND": need(TRIPLE),
    "DBOUND": need(TRIPLE),
    "DOWNSAMPLE": need(int),
    "ROUNDING": str,
}

MODULES: dict[str, dict[str, dict[str, Any]]] = {
    "MASK_TOKEN": {"ImageMaskToken": {"PATCH_SIZE": need(int)}},
    "VFE": {"MeanVFE": {}},
    "BACKBONE_3D": {"VoxelResBackBone8x": {"USE_BIAS": bool, "last_pad": int}},
    "MAP_TO_BEV": {"HeightCompression": {"NUM_BEV_FEATURES": int}},
    "IMAGE_BACKBONE": {
        "SwinTransformer": {
            "EMBED_DIMS": need(int),
            "DEPTHS": need(ListOf(int, 4)),
            "NUM_HEADS": need(ListOf(int, 4)),
            "WINDOW_SIZE": need(int),
            "MLP_RATIO": need(NUMBER),
            "DROP_RATE": NUMBER,
            "ATTN_DROP_RATE": NUMBER,
            "DROP_PATH_RATE": NUMBER,
            "PATCH_NORM": bool,
            "OUT_INDICES": need(ListOf(int)),
            "WITH_CP": bool,
            "CONVERT_WEIGHTS": bool,
            "INIT_CFG": ({"type": str, "checkpoint": str}, type(None)),
        }
    },
    "NECK": {
        "GeneralizedLSSFPN": {
            "IN_CHANNELS": ListOf(int),
            "OUT_CHANNELS": need(int),
            "START_LEVEL": int,
            "END_LEVEL": int,
            "NUM_OUTS": int,
        }
    },
    "VTRANSFORM": {
        "FactorizedLSSTransform": {**_LSS, "KERNELS": str},
        "FactorizedDepthLSSTransform": {**_LSS, "KERNELS": str},
        "DepthLSSTransform": _LSS,
    },
    "FUSER": {"ConvFuser": {"IN_CHANNEL": int, "OUT_CHANNEL": need(int)}},
    "BACKBONE_2D": {
        "BaseBEVBackbone": {
            "LAYER_NUMS": ListOf(int),
            "LAYER_STRIDES": ListOf(int),
            "NUM_FILTERS": ListOf(int),
            "UPSAMPLE_STRIDES": ListOf(NUMBER),
            "NUM_UPSAMPLE_FILTERS": ListOf(int),
            "USE_CONV_FOR_NO_STRIDE": bool,
            "NUM_FRAME": int,  # not read, but in a configuration of OpenPCDet's
        },
        "GeneralizedResNetLSSFPN": {
            "LAYER_NUMS": need(ListOf(int)),
            "LAYER_STRIDES": need(ListOf(int)),
            "NUM_FILTERS": need(ListOf(int)),
            "OUT_CHANNEL": need(int),
            "UPSAMPLE_STRIDE": need(int),
        },
    },
    "DENSE_HEAD": HEADS,
    "MAP_HEAD": MAP_HEADS,
    "PERSPECTIVE_HEAD": {"PerspectiveRenderHead": {"IN_CHANNELS": need(int)}},
    "BEV_HEAD": {"BEVRenderHead": {"NUM_BINS": need(int)}},
}

PRETRAIN_LOSS = {
    "LOSS_WEIGHTS": need(
        {"rgb_weight": need(NUMBER), "depth_weight": need(NUMBER), "bev_depth_weight": need(NUMBER)}
    ),
    "DEPTH_STOP_EPOCH": OPTIONAL_NUMBER,
    "BEV_DEPTH_STOP_EPOCH": OPTIONAL_NUMBER,
}
