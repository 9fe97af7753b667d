"""A dataset specification without frames: ranges, voxels, classes and features."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass
class DatasetSpecification:
    """A stand-in for a dataset, for tests that only build a network.

    Attributes:
        point_cloud_range: x, y, z of the lower, then of the upper corner (m).
        voxel_size: x, y, z (m).
        class_names: of the boxes.
        num_point_features: of a point.
        dataset_cfg: DATA_CONFIG.
    """

    point_cloud_range: Any
    voxel_size: Any
    class_names: Any = ("car",)
    num_point_features: int = 5
    dataset_cfg: Any = field(default_factory=dict)
    depth_downsample_factor: int | None = None
    logger: Any = None

    def __post_init__(self):
        self.class_names = list(self.class_names)
        self.point_cloud_range = np.array(self.point_cloud_range, dtype=np.float32)
        lower, upper = np.split(self.point_cloud_range, 2)
        self.grid_size = np.round((upper - lower) / np.array(self.voxel_size)).astype(np.int64)
        self.point_feature_encoder = SimpleNamespace(num_point_features=self.num_point_features)


def specification_of(config) -> DatasetSpecification:
    """The specification of the dataset that a configuration describes."""
    data = config.DATA_CONFIG
    (voxel_size,) = (step.VOXEL_SIZE for step in data.DATA_PROCESSOR if "VOXEL_SIZE" in step)
    return DatasetSpecification(
        data.POINT_CLOUD_RANGE,
        voxel_size,
        config.CLASS_NAMES,
        len(data.POINT_FEATURE_ENCODING.used_feature_list),
        data,
    )
