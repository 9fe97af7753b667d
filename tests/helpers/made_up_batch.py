"""A made-up batch as the dataset delivers it: flat ground, smooth random images."""

from functools import cache

import numpy as np

from nsmae_plugin import host

EXTENT, VOXEL = 12.8, 0.2  # metres; 128 x 128 x 40 voxels, 16 x 16 BEV cells
CORNERS = (-EXTENT, -EXTENT, -5, EXTENT, EXTENT, 3)
HEIGHT, WIDTH = 64, 96
LIDAR_KEYS = ("voxels", "voxel_coords", "voxel_num_points", "hidden_voxel_coords")
CAMERA_KEYS = ("camera_imgs", "image_patch_mask", "image_mean", "image_std", "lidar2image")


@cache
def _made_up_batch(samples, cameras):
    rng = np.random.default_rng(0)
    points, voxels, coords, hidden = [], [], [], []
    for sample in range(samples):
        # Ground with random height, in front of the sensor and all around.
        xyz = rng.uniform((-EXTENT, -EXTENT, -3.0), (EXTENT, EXTENT, -1.0), (2000, 3))
        cloud = np.column_stack([np.full(2000, sample), xyz, rng.random((2000, 2))])
        points.append(cloud)
        index = np.floor((xyz - (-EXTENT, -EXTENT, -5)) / VOXEL).astype(int)[:, ::-1]
        unique, first = np.unique(index, axis=0, return_index=True)
        visible = rng.random(len(unique)) < 0.3
        rows = np.column_stack([np.full(len(unique), sample), unique])
        coords.append(rows[visible])
        hidden.append(rows[~visible])
        voxels.append(cloud[first[visible]][:, None, 1:])
    batch = {
        "batch_size": samples,
        "frame_id": np.array([f"frame{sample}" for sample in range(samples)]),
        "points": np.concatenate(points),
        "voxels": np.concatenate(voxels),
        "voxel_coords": np.concatenate(coords),
        "hidden_voxel_coords": np.concatenate(hidden),
        "lidar_aug_matrix": np.tile(np.eye(4), (samples, 1, 1)),
    }
    batch["voxel_num_points"] = np.ones(len(batch["voxels"]))
    batch["depth_point_mask"] = rng.random(len(batch["points"])) < 0.9
    return {**batch, **_cameras(rng, samples, cameras)}


def _cameras(rng, samples, cameras):
    """Cameras at the LiDAR, looking around; smooth random pictures."""
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = [[60, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]]
    poses = []
    for camera in range(cameras):
        angle = 2 * np.pi * camera / cameras
        ahead, right = (np.cos(angle), np.sin(angle), 0), (np.sin(angle), -np.cos(angle), 0)
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack([right, (0, 0, -1), ahead])
        poses.append(pose)
    shape = (samples, cameras)
    camera2lidar = np.broadcast_to(np.stack(poses), (*shape, 4, 4))
    coarse = rng.normal(size=(*shape, 3, HEIGHT // 16, WIDTH // 16))
    return {
        "camera_imgs": coarse.repeat(16, axis=-1).repeat(16, axis=-2),
        "image_patch_mask": rng.random((*shape, HEIGHT // 8, WIDTH // 8)) < 0.5,
        "image_mean": np.tile([0.485, 0.456, 0.406], (samples, 1)),
        "image_std": np.tile([0.12, 0.12, 0.12], (samples, 1)),
        "camera_intrinsics": np.broadcast_to(intrinsics, (*shape, 4, 4)),
        "camera2lidar": camera2lidar,
        "lidar2image": intrinsics @ np.linalg.inv(camera2lidar),
        "img_aug_matrix": np.broadcast_to(np.eye(4), (*shape, 4, 4)),
    }


def made_up_batch(mode="both", samples=2, cameras=2, device="cpu"):
    unused = {"both": (), "camera": LIDAR_KEYS, "lidar": CAMERA_KEYS}[mode]
    batch = {k: v for k, v in _made_up_batch(samples, cameras).items() if k not in unused}
    return host.to_device(
        {k: np.array(v) if k != "batch_size" else v for k, v in batch.items()}, device
    )
