"""A few hand-made frames in the layout of info files: random points, uniform images with one dot.

Cameras stand at the LiDAR's place, look horizontally and divide the full turn evenly; the first
looks along x. Every point's intensity is its number, so that it can be found again anywhere.
"""

import copy
import shutil
from pathlib import Path

import numpy as np
from easydict import EasyDict
from PIL import Image

from nsmae_plugin import host
from nsmae_plugin.data.masking import PROCESSORS
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.formats.gt_database import write_gt_database
from nsmae_plugin.formats.infos import read_infos, write_infos

VERSION = "v1.0-mini"
WIDTH, HEIGHT, FOCAL = 160, 96, 80.0
SWEEPS = 3
POINTS = 400
DOT = 4  # pixels, edge of the white square
CLASSES = ["car", "pedestrian"]

for _name, _function in PROCESSORS.items():
    host.register("processor", _name, _function)

AUGMENTORS = {
    "flip": {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x", "y"]},
    "rotation": {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78, 0.78]},
    "scaling": {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.9, 1.1]},
    "translation": {
        "NAME": "random_world_translation",
        "NOISE_TRANSLATE_STD": [0.5, 0.5, 0.5],
    },
    "imgaug": {"NAME": "imgaug", "ROT_LIM": [-5.4, 5.4], "RAND_FLIP": True},
}

CONFIG = {
    "DATASET": "MultiModalNuScenesDataset",
    "VERSION": VERSION,
    "MAX_SWEEPS": SWEEPS,
    "PRED_VELOCITY": True,
    "SET_NAN_VELOCITY_TO_ZEROS": True,
    "USE_LABELS": False,
    "DATA_SPLIT": {"train": "train", "test": "val"},
    "INFO_PATH": {"train": ["infos.pkl"], "test": ["infos.pkl"]},
    "POINT_CLOUD_RANGE": [-30.0, -30.0, -5.0, 30.0, 30.0, 3.0],
    "CAMERA_CONFIG": {
        "USE_CAMERA": True,
        "IMAGE": {
            "FINAL_DIM": [48, 96],
            "RESIZE_LIM_TRAIN": [0.6, 0.9],
            "RESIZE_LIM_TEST": [0.75, 0.75],
        },
    },
    "DATA_AUGMENTOR": {"AUG_CONFIG_LIST": [], "DISABLE_AUG_LIST": ["placeholder"]},
    "POINT_FEATURE_ENCODING": {
        "encoding_type": "absolute_coordinates_encoding",
        "used_feature_list": ["x", "y", "z", "intensity", "timestamp"],
        "src_feature_list": ["x", "y", "z", "intensity", "timestamp"],
    },
    "DATA_PROCESSOR": [
        {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
        {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}},
        {
            "NAME": "transform_points_to_voxels",
            "VOXEL_SIZE": [0.5, 0.5, 0.5],
            "MAX_POINTS_PER_VOXEL": 5,
            "MAX_NUMBER_OF_VOXELS": {"train": 2000, "test": 2000},
        },
        {"NAME": "image_calibrate"},
        {"NAME": "image_normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]},
        {"NAME": "mask_image_patches", "PATCH_SIZE": 8, "RATIO": 0.5},
        {"NAME": "mask_voxels", "RATIO": 0.9},
        {"NAME": "mask_depth_points", "RATIO": 0.75},
    ],
}
MASKS = tuple(PROCESSORS)


def camera(channel: str, azimuth: float, path: str) -> dict:
    """Entry of ``cams`` of a camera that looks along ``azimuth`` (radians from x towards y)."""
    ahead = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    rotation = np.stack([np.cross(down, ahead), down, ahead], axis=1)
    return {
        "data_path": path,
        "type": channel,
        "sample_data_token": f"{channel}-token",
        "sensor2ego_translation": [1.0, 0.0, 1.5],
        "sensor2ego_rotation": [1.0, 0.0, 0.0, 0.0],
        "ego2global_translation": [400.0, 1100.0, 0.0],
        "ego2global_rotation": [1.0, 0.0, 0.0, 0.0],
        "timestamp": 0,
        "sensor2lidar_rotation": rotation,
        "sensor2lidar_translation": np.array([0.1, 0.2, -0.3]),
        "camera_intrinsics": np.array(
            [[FOCAL, 0.0, WIDTH / 2], [0.0, FOCAL, HEIGHT / 2], [0.0, 0.0, 1.0]]
        ),
    }


def random_points(rng: np.random.Generator, first_number: int) -> np.ndarray:
    """(POINTS, 5) within 20 m, away from the car; intensity counts from ``first_number``."""
    radius, angle = rng.uniform(4, 20, POINTS), rng.uniform(-np.pi, np.pi, POINTS)
    columns = [radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-2, 1, POINTS)]
    columns += [first_number + np.arange(POINTS), np.zeros(POINTS)]
    return np.stack(columns, axis=1).astype(np.float32)


def write_frame(root: Path, number: int, cameras: int, rng: np.random.Generator) -> dict:
    """Write the files of one frame below ``root`` and return its info."""
    sweeps = []
    for position in range(SWEEPS):
        path = f"lidar_{number}_{position}.pcd.bin"
        random_points(rng, position * POINTS).tofile(root / path)
        shift = np.eye(4)
        shift[:3, 3] = rng.uniform(-1, 1, 3)
        sweeps.append({"lidar_path": path, "transform_matrix": shift, "time_lag": 0.05 * position})
    cams = {}
    for position in range(cameras):
        path = f"image_{number}_{position}.png"
        pixels = np.full((HEIGHT, WIDTH, 3), 20 * (position + 1), np.uint8)
        Image.fromarray(pixels).save(root / path)
        channel = f"CAM_{position}"
        cams[channel] = camera(channel, 2 * np.pi * position / cameras, path)
    boxes = np.array([[10.0, 2, 0, 4, 2, 1.5, 0.3, 3, 1], [-5, 8, -1, 1, 1, 2, -2, np.nan, np.nan]])
    return {
        "token": f"token-{number}",
        "lidar_path": sweeps[0]["lidar_path"],
        "timestamp": 0.5 * number,
        "sweeps": sweeps[1:],
        "cams": cams,
        "gt_boxes": boxes,
        "gt_names": np.array(["car", "pedestrian"]),
        "num_lidar_pts": np.array([5, 1]),
    }


def write_frames(root: Path, frames: int = 2, cameras: int = 3) -> list[dict]:
    """Write ``root/v1.0-mini`` with an info file ``infos.pkl``; returns the infos."""
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(frames * 10 + cameras)
    infos = [write_frame(folder, number, cameras, rng) for number in range(frames)]
    write_infos(folder / "infos.pkl", infos)
    return infos


def draw_dot(root: Path, info: dict, channel: str, pixel: np.ndarray) -> np.ndarray:
    """White square of DOT whole pixels nearest to ``pixel`` (u, v); returns its centre."""
    path = root / VERSION / info["cams"][channel]["data_path"]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left, top = np.round(pixel - DOT / 2).astype(int)
    image[top : top + DOT, left : left + DOT] = 255
    Image.fromarray(image).save(path)
    return np.array([left, top]) + DOT / 2


def configuration(root: Path, augmentors=(), without=(), **changes) -> EasyDict:
    """CONFIG with data root, named augmentors in the given order, less some processors."""
    config = copy.deepcopy(CONFIG)
    config |= {"DATA_PATH": str(root), **changes}
    config["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"] = [
        copy.deepcopy(AUGMENTORS[name]) for name in augmentors
    ]
    config["DATA_PROCESSOR"] = [
        step for step in config["DATA_PROCESSOR"] if step["NAME"] not in without
    ]
    return EasyDict(config)


def dataset(root: Path, training=True, **options) -> MultiModalNuScenesDataset:
    """The dataset over the frames below ``root``."""
    return MultiModalNuScenesDataset(configuration(root, **options), CLASSES, training=training)


def link_database(source: Path, target: Path) -> Path:
    """A database of one's own below ``target``: links to the sensor files, copies of the tables."""
    (target / VERSION).mkdir()
    for folder in ("samples", "sweeps", "maps"):
        if (source / VERSION / folder).exists():
            (target / VERSION / folder).symlink_to(source / VERSION / folder)
    tables = Path(VERSION, VERSION)
    shutil.copytree(source / tables, target / tables)
    return target


def all_infos(root: Path) -> list[dict]:
    """The infos of a database with three sweeps, training split first."""
    return [
        info
        for split in ("train", "val")
        for info in read_infos(root / VERSION / f"nuscenes_infos_3sweeps_{split}.pkl")
    ]


def add_gt_database(source: Path, target: Path) -> Path:
    """A copy below ``target`` of a database with three sweeps, with its ground-truth database."""
    root = link_database(source, target)
    for path in (source / VERSION).glob("*.pkl"):
        shutil.copy(path, root / VERSION)
    infos = read_infos(root / VERSION / "nuscenes_infos_3sweeps_train.pkl")
    write_gt_database(root / VERSION, infos, max_sweeps=3)
    return root
