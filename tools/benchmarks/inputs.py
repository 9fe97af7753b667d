"""Inputs: made-up ones of the right shapes and statistics, and frames of a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.masking import hidden_subset, image_patch_mask
from nsmae_plugin.geometry.bev_grid import map_grid
from tools.benchmarks.measure import MeasurementError

BEAMS, AZIMUTHS = 32, 1084  # of nuScenes' LiDAR: 34,688 returns a sweep
SENSOR_HEIGHT = 1.84  # metres above the ground
FOCAL = 1266.0  # pixels, of nuScenes' front cameras at 900 x 1600
RAW_SIZE = (900, 1600)
OBJECTS = 40  # in a sample of nuScenes, about
AREAS = 4  # of each class of the map
# Radians from the x axis. Along an axis whole planes of the frustum lie on the faces of BEV cells,
# and which cell they fall into is a matter of rounding.
FIRST_CAMERA = 0.1


def ring_of_cameras(
    batch: int, cameras: int, image_size: tuple[int, int], device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Calibration of cameras that look outwards at equal angles, 0.3 m below the LiDAR.

    The images are nuScenes': resized to the width of ``image_size`` plus a tenth, cropped to it at
    the bottom and in the middle. No augmentation of the cloud.

    Returns:
        The matrices of a batch, by OpenPCDet's names: (batch, cameras, 4, 4) and, for
        ``lidar_aug_matrix``, (batch, 4, 4).
    """
    intrinsics = torch.eye(4)
    intrinsics[0, 0] = intrinsics[1, 1] = FOCAL
    intrinsics[0, 2], intrinsics[1, 2] = RAW_SIZE[1] / 2, RAW_SIZE[0] / 2
    resize = 1.1 * image_size[1] / RAW_SIZE[1]
    augmentation = torch.eye(4)
    augmentation[0, 0] = augmentation[1, 1] = resize
    augmentation[0, 3] = (image_size[1] - resize * RAW_SIZE[1]) / 2
    augmentation[1, 3] = image_size[0] - resize * RAW_SIZE[0]
    angles = [FIRST_CAMERA + 2 * math.pi * i / cameras for i in range(cameras)]
    camera2lidar = torch.stack([_outward_pose(angle) for angle in angles])
    intrinsics = intrinsics.expand(cameras, 4, 4)
    matrices = {
        "camera_intrinsics": intrinsics,
        "camera2lidar": camera2lidar,
        "lidar2camera": torch.linalg.inv(camera2lidar),
        "lidar2image": intrinsics @ torch.linalg.inv(camera2lidar),
        "camera2ego": camera2lidar,
        "img_aug_matrix": augmentation.expand(cameras, 4, 4),
    }
    rig = {key: matrix.repeat(batch, 1, 1, 1) for key, matrix in matrices.items()}
    rig["lidar_aug_matrix"] = torch.eye(4).repeat(batch, 1, 1)
    return {key: matrix.to(device) for key, matrix in rig.items()}


def _outward_pose(angle: float) -> torch.Tensor:
    """Camera (x right, y down, z ahead) to LiDAR (x ahead, y left, z up), 0.8 m off its centre."""
    cos, sin = math.cos(angle), math.sin(angle)
    rows = [[sin, 0, cos, 0.8 * cos], [-cos, 0, sin, 0.8 * sin], [0, -1, 0, -0.3], [0, 0, 0, 1]]
    return torch.tensor(rows)


def made_up_dataset(config: Any) -> SimpleNamespace:
    """A stand-in for the dataset of a detector, from the configuration alone."""
    data = config.DATA_CONFIG
    extent = np.array(data.POINT_CLOUD_RANGE, dtype=np.float32)
    steps = [step for step in data.DATA_PROCESSOR if "VOXEL_SIZE" in step]
    voxel_size = list(steps[0].VOXEL_SIZE)
    return SimpleNamespace(
        dataset_cfg=data,
        class_names=config.CLASS_NAMES,
        point_feature_encoder=SimpleNamespace(
            num_point_features=len(data.POINT_FEATURE_ENCODING.used_feature_list)
        ),
        point_cloud_range=extent,
        voxel_size=voxel_size,
        grid_size=np.round((extent[3:] - extent[:3]) / voxel_size).astype(np.int64),
        depth_downsample_factor=None,
    )


def made_up_batch(config: Any, batch: int, cameras: int = 6, mode: str = "train") -> dict[str, Any]:
    """A collated batch with the sizes that a configuration gives real nuScenes samples.

    Scans of flat ground and walls, images of noise, masks at the configured ratios.

    Args:
        mode: ``train``, with labels if the configuration has any; ``test``, without.
    """
    rng = np.random.default_rng(0)
    data = config.DATA_CONFIG
    result: dict[str, Any] = {
        "batch_size": batch,
        "frame_id": np.array([f"made_up_{sample}" for sample in range(batch)]),
        "lidar_aug_matrix": np.tile(np.eye(4, dtype=np.float32), (batch, 1, 1)),
    }
    scans = [scan(data.MAX_SWEEPS, data.POINT_CLOUD_RANGE, rng) for _ in range(batch)]
    result["points"] = stack_samples(scans)
    steps = {step.NAME: step for step in data.DATA_PROCESSOR}
    if "transform_points_to_voxels" in steps:
        result.update(_voxels(scans, data, steps, mode, rng))
    if data.CAMERA_CONFIG.USE_CAMERA:
        result.update(_images(batch, cameras, data, steps, rng))
        if "mask_depth_points" in steps:
            ratio = steps["mask_depth_points"].RATIO
            result["depth_point_mask"] = hidden_subset(len(result["points"]), ratio, rng)
    return {**result, **_labels(config, batch, rng)} if mode == "train" else result


def first_frames(config: Any, batch: int) -> dict[str, Any]:
    """A collated batch of the first training frames of the configuration's dataset.

    Raises:
        MeasurementError: the dataset has fewer frames.
    """
    nsmae_plugin.register()
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    if len(dataset) < batch:
        raise MeasurementError(f"the dataset has {len(dataset)} frames, fewer than --batch {batch}")
    with seeded(0):  # the augmentation
        return dataset.collate_batch([dataset[index] for index in range(batch)])


def scan(sweeps: int, extent: list[float], rng: np.random.Generator) -> np.ndarray:
    """(P, 5) x, y, z, intensity, timestamp: beams that end on the ground or on a wall.

    Args:
        extent: the range to crop to, metres; lower and upper corner.
    """
    elevation = np.radians(np.linspace(-30.0, 10.0, BEAMS))[:, None]
    azimuth = np.linspace(-np.pi, np.pi, AZIMUTHS, endpoint=False)
    walls = np.repeat(rng.uniform(5.0, 60.0, 1 + AZIMUTHS // 20), 20)[:AZIMUTHS]
    clouds = []
    for sweep in range(sweeps):
        ground = np.where(elevation < 0, SENSOR_HEIGHT / np.tan(-np.minimum(elevation, -1e-3)), 1e3)
        reach = np.minimum(ground, walls) + rng.normal(0.0, 0.05, (BEAMS, AZIMUTHS))
        turned = azimuth + rng.uniform(0.0, 2 * np.pi / AZIMUTHS)
        xyz = np.stack(
            (reach * np.cos(turned), reach * np.sin(turned), reach * np.tan(elevation)), axis=-1
        )
        features = np.stack((rng.random(reach.shape), np.full(reach.shape, 0.05 * sweep)), axis=-1)
        clouds.append(np.concatenate((xyz, features), axis=-1).reshape(-1, 5))
    cloud = np.concatenate(clouds).astype(np.float32)
    inside = (cloud[:, :3] >= extent[:3]).all(1) & (cloud[:, :3] < extent[3:]).all(1)
    return cloud[inside]


def _voxels(
    scans: list[np.ndarray],
    data: Any,
    steps: Mapping[str, Any],
    mode: str,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    config = steps["transform_points_to_voxels"]
    ratio = steps["mask_voxels"].RATIO if "mask_voxels" in steps else 0.0
    voxels, coords, hidden_coords = [], [], []
    for cloud in scans:
        zyx = ((cloud[:, :3] - data.POINT_CLOUD_RANGE[:3]) / config.VOXEL_SIZE).astype(int)[:, ::-1]
        unique, first = np.unique(zyx, axis=0, return_index=True)
        kept = rng.permutation(len(unique))[: config.MAX_NUMBER_OF_VOXELS[mode]]
        hidden = hidden_subset(len(kept), ratio, rng)
        points = np.zeros((int((~hidden).sum()), config.MAX_POINTS_PER_VOXEL, 5), np.float32)
        points[:, 0] = cloud[first[kept[~hidden]]]
        voxels.append(points)
        coords.append(unique[kept[~hidden]])
        hidden_coords.append(unique[kept[hidden]])
    result = {
        "voxels": np.concatenate(voxels),
        "voxel_num_points": np.ones(sum(map(len, voxels)), np.float32),
        "voxel_coords": stack_samples(coords),
    }
    return {**result, "hidden_voxel_coords": stack_samples(hidden_coords)} if ratio else result


def _images(
    batch: int, cameras: int, data: Any, steps: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    height, width = data.CAMERA_CONFIG.IMAGE.FINAL_DIM
    result = {
        key: value.numpy()
        for key, value in ring_of_cameras(batch, cameras, (height, width)).items()
    }
    shape = (batch, cameras, 3, height, width)
    result["camera_imgs"] = rng.standard_normal(shape, dtype=np.float32)
    for key, name in (("image_mean", "mean"), ("image_std", "std")):
        result[key] = np.tile(np.float32(steps["image_normalize"][name]), (batch, 1))
    if "mask_image_patches" in steps:
        size, ratio = steps["mask_image_patches"].PATCH_SIZE, steps["mask_image_patches"].RATIO
        masks = [image_patch_mask(cameras, height, width, size, ratio, rng) for _ in range(batch)]
        result["image_patch_mask"] = np.stack(masks)
    return result


def _labels(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The labels that a configuration asks for: ``gt_boxes``, ``gt_masks_bev``, both or none."""
    data = config.DATA_CONFIG
    labels = {}
    if data.get("USE_LABELS", True):
        boxes = [_boxes(config, rng) for _ in range(batch)]
        labels["gt_boxes"] = np.stack(boxes).astype(np.float32)
    if data.get("MAP_CONFIG") is not None:
        classes, shape = data.MAP_CONFIG.CLASSES, map_grid(data.MAP_CONFIG).shape
        masks = [[_areas(shape, rng) for _ in classes] for _ in range(batch)]
        labels["gt_masks_bev"] = np.array(masks)
    return labels


def _boxes(config: Any, rng: np.random.Generator) -> np.ndarray:
    """(OBJECTS, 8 or 10): box, velocity if it is predicted, label from 1."""
    lower, upper = np.split(np.array(config.DATA_CONFIG.POINT_CLOUD_RANGE), 2)
    columns: list[np.ndarray] = [
        rng.uniform(0.9 * lower[:2], 0.9 * upper[:2], (OBJECTS, 2)),
        rng.uniform(-1.5, 0.0, (OBJECTS, 1)),
        rng.uniform(0.5, 5.0, (OBJECTS, 3)),
        rng.uniform(-np.pi, np.pi, (OBJECTS, 1)),
    ]
    if config.DATA_CONFIG.get("PRED_VELOCITY", False):
        columns.append(rng.normal(0.0, 3.0, (OBJECTS, 2)))
    columns.append(rng.integers(1, 1 + len(config.CLASS_NAMES), (OBJECTS, 1)))
    return np.concatenate(columns, axis=1)


def _areas(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for _ in range(AREAS):
        row, column = (int(rng.integers(size)) for size in shape)
        mask[row : row + shape[0] // 4, column : column + shape[1] // 20 + 1] = True
    return mask


def stack_samples(parts: list[np.ndarray]) -> np.ndarray:
    """Rows of all samples, each behind the number of its sample, as OpenPCDet collates them."""
    return np.concatenate(
        [np.pad(one, ((0, 0), (1, 0)), constant_values=i) for i, one in enumerate(parts)]
    )
