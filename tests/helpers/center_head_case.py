"""A small CenterHead: its configuration, labels and features, for the tests of either host."""

import numpy as np
import torch
from easydict import EasyDict

from nsmae_plugin.host.builtin.modules.center_head import CenterHead

CLASSES = ["car", "truck", "bus", "pedestrian"]
GROUPS = [["car"], ["truck", "bus"], ["pedestrian"]]
LIMITS = [-8.0, -6.0, -5.0, 8.0, 6.0, 3.0]  # metres
VOXEL, STRIDE = [0.1, 0.1, 0.2], 8  # cells of 0.8 m: 20 along x, 15 along y
CHANNELS = 6


def head_config(**changes):
    return EasyDict(
        {
            "NAME": "CenterHead",
            "CLASS_AGNOSTIC": False,
            "CLASS_NAMES_EACH_HEAD": GROUPS,
            "SHARED_CONV_CHANNEL": 8,
            "USE_BIAS_BEFORE_NORM": True,
            "NUM_HM_CONV": 2,
            "SEPARATE_HEAD_CFG": {
                "HEAD_ORDER": ["center", "center_z", "dim", "rot", "vel"],
                "HEAD_DICT": {
                    "center": {"out_channels": 2, "num_conv": 2},
                    "center_z": {"out_channels": 1, "num_conv": 1},
                    "dim": {"out_channels": 3, "num_conv": 2},
                    "rot": {"out_channels": 2, "num_conv": 3},
                    "vel": {"out_channels": 2, "num_conv": 2},
                },
            },
            "TARGET_ASSIGNER_CONFIG": {
                "FEATURE_MAP_STRIDE": STRIDE,
                "NUM_MAX_OBJS": 12,
                "GAUSSIAN_OVERLAP": 0.1,
                "MIN_RADIUS": 2,
            },
            "LOSS_CONFIG": {
                "LOSS_WEIGHTS": {
                    "cls_weight": 1.0,
                    "loc_weight": 0.25,
                    "code_weights": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 1.0, 1.0],
                }
            },
            "POST_PROCESSING": {
                "SCORE_THRESH": 0.1,
                "POST_CENTER_LIMIT_RANGE": [-8.0, -6.0, -10.0, 8.0, 6.0, 10.0],
                "MAX_OBJ_PER_SAMPLE": 60,
                "NMS_CONFIG": {
                    "NMS_TYPE": "nms_gpu",
                    "NMS_THRESH": 0.2,
                    "NMS_PRE_MAXSIZE": 40,
                    "NMS_POST_MAXSIZE": 20,
                },
            },
            **changes,
        }
    )


def head_arguments(**changes):
    """All arguments of the constructor, as a detector passes them."""
    return {
        "model_cfg": head_config(),
        "input_channels": CHANNELS,
        "num_class": len(CLASSES),
        "class_names": CLASSES,
        "grid_size": np.array([160, 120, 40]),
        "point_cloud_range": np.array(LIMITS, dtype=np.float32),
        "voxel_size": VOXEL,
        "predict_boxes_when_training": False,
        **changes,
    }


def make_head(**changes):
    """A built-in CenterHead whose configuration is changed."""
    torch.manual_seed(0)
    return CenterHead(**head_arguments(model_cfg=head_config(**changes)))


def batch_of(labels):
    """The inputs of a head in training mode."""
    features = random_features(len(labels)).to(labels.device)
    return {"spatial_features_2d": features, "gt_boxes": labels, "batch_size": len(labels)}


def random_labels(counts, seed=0):
    """(B, max, 10) boxes all over the map and a little beyond; the rows after a sample's are 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(len(counts), max(counts), 10)
    low = torch.tensor([-8.4, -6.4, -3, 0.4, 0.3, 0.5, -3.1, -5, -5])
    high = torch.tensor([8.4, 6.4, 1, 9.0, 3.0, 3.0, 3.1, 5, 5])
    for sample, count in enumerate(counts):
        boxes = low + (high - low) * torch.rand(count, 9, generator=generator)
        classes = torch.randint(1, len(CLASSES) + 1, (count, 1), generator=generator)
        labels[sample, :count] = torch.cat([boxes, classes], dim=1)
    return labels


def random_features(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, CHANNELS, 15, 20, generator=generator)
