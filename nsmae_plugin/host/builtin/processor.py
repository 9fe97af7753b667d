"""Processing under OpenPCDet's names and YAML keys, without torchvision and scikit-image."""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from PIL import Image

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.boxes import GROUND_CORNERS, box_points
from nsmae_plugin.geometry.rotations import yaw_matrix
from nsmae_plugin.host.builtin.registry import StepPipeline
from nsmae_plugin.host.builtin.voxels import voxelize

GRID_STEPS = ("transform_points_to_voxels", "transform_points_to_voxels_placeholder")


class PointFeatureEncoder:
    """Picks the columns of ``used_feature_list`` out of ``src_feature_list``, x, y, z first."""

    def __init__(self, config: Any, point_cloud_range: np.ndarray | None = None):
        self.point_encoding_config, self.point_cloud_range = config, point_cloud_range
        self.used_feature_list = list(config["used_feature_list"])
        self.src_feature_list = list(config["src_feature_list"])

    @property
    def num_point_features(self) -> int:
        return len(self.used_feature_list)

    def forward(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """Replace ``points`` (P, source features) by (P, used features)."""
        points = data_dict["points"]
        if points.shape[1] != len(self.src_feature_list):
            raise ConfigError(
                f"src_feature_list names {len(self.src_feature_list)} features, but the points "
                f"have {points.shape[1]}"
            )
        used = [name for name in self.used_feature_list if name not in ("x", "y", "z")]
        columns = [0, 1, 2, *(self.src_feature_list.index(name) for name in used)]
        if columns != list(range(points.shape[1])):
            points = points[:, columns]
        return {**data_dict, "points": points, "use_lead_xyz": True}


class DataProcessor(StepPipeline):
    """The steps of ``DATA_PROCESSOR``; sets ``grid_size`` (3,) x, y, z and ``voxel_size``."""

    SLOT = "processor"
    STEPS = (
        "mask_points_and_boxes_outside_range",
        "shuffle_points",
        *GRID_STEPS,
        "image_calibrate",
        "image_normalize",
    )

    def __init__(
        self,
        processor_configs: Sequence[Any],
        point_cloud_range: np.ndarray,
        training: bool,
        num_point_features: int,
    ):
        self.point_cloud_range, self.training = point_cloud_range, training
        self.num_point_features = num_point_features
        self.mode = "train" if training else "test"
        self.grid_size: np.ndarray | None = None
        self.voxel_size: list[float] | None = None
        for config in processor_configs:
            if config["NAME"] in GRID_STEPS:
                self._set_grid(config)
        self.data_processor_queue = [self.build_step(config) for config in processor_configs]

    def forward(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """Apply all steps in their order."""
        for step in self.data_processor_queue:
            data_dict = step(data_dict=data_dict)
        return data_dict

    def mask_points_and_boxes_outside_range(self, data_dict: Any, config: Any) -> Any:
        """Drop points outside the range in x or y (the voxels decide about z) and, while training,
        boxes whose centre, or ``min_num_corners`` corners, lie outside."""
        data_dict = dict(data_dict)
        low, high = self.point_cloud_range[:3], self.point_cloud_range[3:]
        points, boxes = data_dict.get("points"), data_dict.get("gt_boxes")
        if points is not None:
            data_dict["points"] = points.compress(_within(points, low, high), axis=0)
        if boxes is not None and config["REMOVE_OUTSIDE_BOXES"] and self.training:
            if config.get("USE_CENTER_TO_FILTER", True):
                kept = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(axis=1)
            else:
                corners = box_points(boxes, GROUND_CORNERS)
                count = ((corners >= low[:2]) & (corners <= high[:2])).all(axis=2).sum(axis=1)
                kept = 2 * count >= config.get("min_num_corners", 1)  # each stands for two of 8
            data_dict["gt_boxes"] = boxes[kept]
        return data_dict

    def shuffle_points(self, data_dict: Any, config: Any) -> Any:
        """Shuffle the points where ``SHUFFLE_ENABLED`` says so for the mode."""
        if not config["SHUFFLE_ENABLED"][self.mode]:
            return data_dict
        order = np.random.permutation(len(data_dict["points"]))  # noqa: NPY002 (seeded by loader)
        return {**data_dict, "points": data_dict["points"].take(order, axis=0)}

    def transform_points_to_voxels_placeholder(self, data_dict: Any, config: Any) -> Any:
        """Leave the sample alone: the step sets the grid only."""
        return data_dict

    def transform_points_to_voxels(self, data_dict: Any, config: Any) -> Any:
        """Add ``voxels`` (V, M, F), ``voxel_coords`` (V, 3) z, y, x, ``voxel_num_points`` (V,)."""
        voxels, coords, counts = voxelize(
            data_dict["points"],
            self.point_cloud_range,
            config["VOXEL_SIZE"],
            config["MAX_POINTS_PER_VOXEL"],
            config["MAX_NUMBER_OF_VOXELS"][self.mode],
        )
        return {
            **data_dict,
            "voxels": voxels,
            "voxel_coords": coords,
            "voxel_num_points": counts,
        }

    def _set_grid(self, config: Any) -> None:
        if config.get("DOUBLE_FLIP"):
            raise ConfigError("transform_points_to_voxels: DOUBLE_FLIP needs OpenPCDet as host")
        self.voxel_size = config["VOXEL_SIZE"]
        grid = BEVGrid.of_voxels(self.point_cloud_range, self.voxel_size, stride=1)
        self.grid_size = np.array(grid.size, np.int64)

    def image_calibrate(self, data_dict: Any, config: Any) -> Any:
        """Turn ``img_process_infos`` into ``img_aug_matrix``, (4, 4) float32 per camera."""
        matrices = [image_matrix(*info) for info in data_dict["img_process_infos"]]
        return {**data_dict, "img_aug_matrix": matrices}

    def image_normalize(self, data_dict: Any, config: Any) -> Any:
        """8-bit images to one float32 tensor (N, 3, H, W): scaled to [0, 1], less mean, over std.

        Images of different sizes become a list of tensors (3, H, W).
        """
        images = data_dict["camera_imgs"]
        if len({image.size for image in images}) > 1:
            return {**data_dict, "camera_imgs": [normalized([one], config)[0] for one in images]}
        return {**data_dict, "camera_imgs": normalized(images, config)}


@numba.njit
def _within(points, low, high):  # type: ignore[no-untyped-def]
    """(P,) whether x and y lie between ``low`` and ``high``, or on them."""
    inside = np.empty(len(points), np.bool_)
    for number in range(len(points)):
        x, y = points[number, 0], points[number, 1]
        inside[number] = (low[0] <= x) & (x <= high[0]) & (low[1] <= y) & (y <= high[1])
    return inside


def normalized(images: Sequence[Image.Image], config: Any) -> torch.Tensor:
    """(N, 3, H, W) float32 of images of one size, from a table of the 256 values per channel."""
    grey, moments = torch.arange(256) / 255, zip(config["mean"], config["std"], strict=True)
    table = torch.stack([(grey - mean) / std for mean, std in moments]).numpy()
    width, height = images[0].size
    result = np.empty((len(images), 3, height, width), np.float32)
    for image, target in zip(images, result, strict=True):
        _look_up(np.asarray(image), table, target)
    return torch.from_numpy(result)


@numba.njit
def _look_up(pixels, table, target):  # type: ignore[no-untyped-def]
    """Fill (C, H, W) from (H, W, C) 8-bit pixels and (C, 256) values."""
    height, width, channels = pixels.shape
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                target[channel, row, column] = table[channel, pixels[row, column, channel]]


def image_matrix(resize: float, crop: Sequence[float], flip: bool, degrees: float) -> np.ndarray:
    """(4, 4) float32 raw pixel → pixel after scaling, cropping, mirroring and turning.

    Args:
        crop: left, top, right, bottom in pixels of the scaled image.
        degrees: counter-clockwise as seen, about the centre of the crop (PIL's ``rotate``).
    """
    left, top, right, bottom = crop
    centre = np.array([right - left, bottom - top]) / 2
    turn = yaw_matrix(np.deg2rad(degrees)).T  # v points down
    mirror = np.diag([-1.0 if flip else 1.0, 1.0])
    matrix = np.eye(4)
    matrix[:2, :2] = turn @ mirror * resize
    # A raw pixel p lies at resize * p - corner - centre from the centre, before mirror and turn.
    matrix[:2, 3] = turn @ mirror @ (-np.array([left, top]) - centre) + centre
    return matrix.astype(np.float32)
