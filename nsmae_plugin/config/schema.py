"""Which keys and values a YAML configuration may hold.

A section is a dict ``key -> kind`` of :mod:`nsmae_plugin.config.schema_kinds`; keys wrapped by
``need`` must be there. Sections chosen by a ``NAME`` (modules, augmentors, processors) are
looked up in the tables below; a ``NAME`` that no table knows belongs to OpenPCDet, and its keys are
OpenPCDet's business.
"""

from __future__ import annotations

from typing import Any

from nsmae_plugin.config.schema_heads import HEADS, MAP_HEADS
from nsmae_plugin.config.schema_kinds import (
    ANYTHING,
    NUMBER,
    OPTIONAL_NUMBER,
    PAIR,
    TRIPLE,
    ListOf,
    need,
)

_PER_MODE = {"train": ANYTHING, "test": ANYTHING}

AUGMENTORS: dict[str, dict[str, Any]] = {
    "gt_sampling": {
        "DB_INFO_PATH": need(ListOf(str)),
        "PREPARE": need({"filter_by_min_points": ListOf(str), "filter_by_difficulty": ListOf(int)}),
        "SAMPLE_GROUPS": need(ListOf(str)),
        "NUM_POINT_FEATURES": need(int),
        "REMOVE_EXTRA_WIDTH": need(TRIPLE),
        "LIMIT_WHOLE_SCENE": bool,
        "FILTER_OBJ_POINTS_BY_TIMESTAMP": bool,
        "TIME_RANGE": PAIR,
        "USE_ROAD_PLANE": bool,
        "DATABASE_WITH_FAKELIDAR": bool,
        "IMG_AUG_TYPE": (str, type(None)),
        "IMG_AUG_IOU_THRESH": NUMBER,
        "USE_SHARED_MEMORY": bool,
        "DB_DATA_PATH": ListOf(str),
        "BACKUP_DB_INFO": ANYTHING,
    },
    "random_world_flip": {"ALONG_AXIS_LIST": need(ListOf(str))},
    "random_world_rotation": {"WORLD_ROT_ANGLE": need((PAIR, int, float))},
    "random_world_scaling": {"WORLD_SCALE_RANGE": need(PAIR)},
    "random_world_translation": {"NOISE_TRANSLATE_STD": need(TRIPLE)},
    "imgaug": {"ROT_LIM": need(PAIR), "RAND_FLIP": need(bool)},
}

PROCESSORS = {
    "mask_points_and_boxes_outside_range": {
        "REMOVE_OUTSIDE_BOXES": need(bool),
        "min_num_corners": int,
        "USE_CENTER_TO_FILTER": bool,
    },
    "shuffle_points": {"SHUFFLE_ENABLED": need(_PER_MODE)},
    "transform_points_to_voxels": {
        "VOXEL_SIZE": need(TRIPLE),
        "MAX_POINTS_PER_VOXEL": need(int),
        "MAX_NUMBER_OF_VOXELS": need(_PER_MODE),
        "DOUBLE_FLIP": bool,
    },
    "transform_points_to_voxels_placeholder": {"VOXEL_SIZE": need(TRIPLE)},
    "image_calibrate": {},
    "image_normalize": {"mean": need(TRIPLE), "std": need(TRIPLE)},
    "mask_image_patches": {"PATCH_SIZE": need(int), "RATIO": need(NUMBER)},
    "mask_voxels": {"RATIO": need(NUMBER)},
    "mask_depth_hints": {"RATIO": need(NUMBER)},
}

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

# Slots of OpenPCDet whose modules the tables above do not describe.
FOREIGN_SLOTS = ("PFE", "POINT_HEAD", "ROI_HEAD")

PRETRAIN_LOSS = {
    "LOSS_WEIGHTS": need(
        {"rgb_weight": need(NUMBER), "depth_weight": need(NUMBER), "bev_depth_weight": need(NUMBER)}
    ),
    "DEPTH_STOP_EPOCH": OPTIONAL_NUMBER,
    "BEV_DEPTH_STOP_EPOCH": OPTIONAL_NUMBER,
}

DATA_CONFIG = {
    "DATASET": need(str),
    "DATA_PATH": need(str),
    "VERSION": need(str),
    "MAX_SWEEPS": need(int),
    "PRED_VELOCITY": bool,
    "SET_NAN_VELOCITY_TO_ZEROS": bool,
    "FILTER_MIN_POINTS_IN_GT": (int, bool),
    "USE_LABELS": bool,
    "USE_LIDAR": bool,
    "LIDAR_FILES": {"COLUMNS": ListOf(str), "DTYPE": str},
    "DATA_SPLIT": need({"train": str, "test": str}),
    "INFO_PATH": need({"train": ListOf(str), "test": ListOf(str)}),
    "POINT_CLOUD_RANGE": need(ListOf(NUMBER, 6)),
    "BALANCED_RESAMPLING": bool,
    "LABEL_FRACTION": NUMBER,
    "LABEL_FRACTION_BY": str,
    "LABEL_FRACTION_SEED": int,
    "MAP_CONFIG": {
        "CLASSES": need(ListOf(str)),
        "XBOUND": need(TRIPLE),
        "YBOUND": need(TRIPLE),
        "LINE_WIDTH": need(NUMBER),
        "RASTERISER": str,
    },
    "CAMERA_CONFIG": {
        "USE_CAMERA": bool,
        "IMAGE": need(
            {
                "FINAL_DIM": need(ListOf(int, 2)),
                "RESIZE_LIM_TRAIN": need(PAIR),
                "RESIZE_LIM_TEST": need(PAIR),
            }
        ),
    },
    "DATA_AUGMENTOR": {"DISABLE_AUG_LIST": ListOf(str), "AUG_CONFIG_LIST": need(ANYTHING)},
    "POINT_FEATURE_ENCODING": need(
        {
            "encoding_type": need(str),
            "used_feature_list": need(ListOf(str)),
            "src_feature_list": need(ListOf(str)),
        }
    ),
    "DATA_PROCESSOR": need(ANYTHING),
}

# Of these, what only MultiModalNuScenesDataset knows -> what OpenPCDet's NuScenesDataset does.
OWN_DATA_KEYS = {
    "USE_LABELS": True,
    "USE_LIDAR": True,
    "LABEL_FRACTION": 1.0,
    "LABEL_FRACTION_BY": "frames",
    "LABEL_FRACTION_SEED": 0,
    "MAP_CONFIG": None,
    "LIDAR_FILES": None,
}

HOOK = (
    {
        "DisableAugmentationHook": {
            "DISABLE_AUG_LIST": need(ListOf(str)),
            "NUM_LAST_EPOCHS": need(int),
        }
    },
    type(None),
)

OPTIMIZATION = {
    "BATCH_SIZE_PER_GPU": need(int),
    "NUM_EPOCHS": need(int),
    "OPTIMIZER": need(str),
    "LR": need(NUMBER),
    "LR_SCALE": dict.fromkeys((*MODULES, *FOREIGN_SLOTS), NUMBER),
    "WEIGHT_DECAY": need(NUMBER),
    "NO_DECAY": ListOf(str),
    "BETAS": PAIR,
    "MOMENTUM": NUMBER,
    "MOMS": PAIR,
    "PCT_START": NUMBER,
    "DIV_FACTOR": NUMBER,
    "WARMUP_ITER": int,
    "DECAY_STEP_LIST": ListOf(NUMBER),
    "LR_DECAY": NUMBER,
    "LR_CLIP": NUMBER,
    "LR_WARMUP": bool,
    "WARMUP_EPOCH": NUMBER,
    "BN_MOMENTUM": NUMBER,
    "GRAD_NORM_CLIP": need(NUMBER),
    "CLIP_BY_BRANCH": bool,
    "LOSS_SCALE_FP16": NUMBER,
    "USE_AMP": bool,
    "ACCUMULATE_STEPS": int,
}

# Sections by their place in a configuration, as far as the tables above describe them.
SECTIONS: dict[str, Any] = {
    "DATA_CONFIG": DATA_CONFIG,
    "MODEL": MODULES,
    "OPTIMIZATION": OPTIMIZATION,
    "HOOK": HOOK,
}
