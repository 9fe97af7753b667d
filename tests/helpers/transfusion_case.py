"""A small TransFusion head and batches for it."""

from typing import Any

import torch
from easydict import EasyDict

CLASSES = [
    *("car", "truck", "construction_vehicle", "bus", "trailer"),
    *("barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone"),
]
RANGE = [-12.8, -12.8, -5.0, 12.8, 12.8, 3.0]  # metres; 32 x 32 cells of 0.8 m
CHANNELS = 12


def head_config(**changes: Any) -> EasyDict:
    """OpenPCDet's section, narrower; dotted keys of ``changes`` are written with double _."""
    branches = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
    config = EasyDict(
        NAME="TransFusionHead",
        CLASS_AGNOSTIC=False,
        USE_BIAS_BEFORE_NORM=False,
        NUM_PROPOSALS=20,
        HIDDEN_CHANNEL=16,
        NUM_CLASSES=10,
        NUM_HEADS=4,
        NMS_KERNEL_SIZE=3,
        FFN_CHANNEL=24,
        DROPOUT=0.0,
        BN_MOMENTUM=0.05,
        ACTIVATION="relu",
        NUM_HM_CONV=2,
        SEPARATE_HEAD_CFG={
            "HEAD_ORDER": list(branches),
            "HEAD_DICT": {k: {"out_channels": n, "num_conv": 2} for k, n in branches.items()},
        },
        TARGET_ASSIGNER_CONFIG={
            "FEATURE_MAP_STRIDE": 8,
            "DATASET": "nuScenes",
            "GAUSSIAN_OVERLAP": 0.1,
            "MIN_RADIUS": 2,
            "HUNGARIAN_ASSIGNER": {
                "cls_cost": {"gamma": 2.0, "alpha": 0.25, "weight": 0.15},
                "reg_cost": {"weight": 0.25},
                "iou_cost": {"weight": 0.25},
            },
        },
        LOSS_CONFIG={
            "LOSS_WEIGHTS": {
                "cls_weight": 1.0,
                "bbox_weight": 0.25,
                "hm_weight": 1.0,
                "code_weights": [1.0] * 8 + [0.2] * 2,
            },
            "LOSS_CLS": {"use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
        },
        POST_PROCESSING={
            "SCORE_THRESH": 0.0,
            "POST_CENTER_RANGE": [-14.0, -14.0, -10.0, 14.0, 14.0, 10.0],
        },
    )
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for name in parents:
            section = section[name]
        section[last] = value
    return config


def arguments(**changes: Any) -> dict[str, Any]:
    """Arguments of the head besides its section."""
    return {
        "input_channels": CHANNELS,
        "num_class": len(CLASSES),
        "class_names": CLASSES,
        "grid_size": torch.tensor([256, 256, 40]).numpy(),
        "point_cloud_range": RANGE,
        "voxel_size": [0.1, 0.1, 0.2],
    } | changes


def gt_boxes(*counts: int, seed: int = 0, spread: float = 13.5) -> torch.Tensor:
    """(B, max count, 10): boxes about the range, some centres a little outside; padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.zeros(len(counts), max(counts, default=0), 10)
    for sample, count in enumerate(counts):
        uniform = torch.rand(count, 10, generator=generator)
        boxes[sample, :count, :2] = (uniform[:, :2] * 2 - 1) * spread
        boxes[sample, :count, 2] = uniform[:, 2] * 2 - 2
        boxes[sample, :count, 3:6] = 0.4 + uniform[:, 3:6] * 6
        boxes[sample, :count, 6] = (uniform[:, 6] * 2 - 1) * 3.1
        boxes[sample, :count, 7:9] = uniform[:, 7:9] * 10 - 5
        boxes[sample, :count, 9] = torch.randint(1, 11, (count,), generator=generator).float()
    return boxes


def make_batch(*counts: int, seed: int = 0, size: tuple[int, int] = (32, 32)) -> dict[str, Any]:
    """Features (B, CHANNELS, Y, X) and ``counts`` boxes in each sample."""
    generator = torch.Generator().manual_seed(seed + 100)
    return {
        "batch_size": len(counts),
        "spatial_features_2d": torch.randn(len(counts), CHANNELS, *size, generator=generator),
        "gt_boxes": gt_boxes(*counts, seed=seed),
    }
