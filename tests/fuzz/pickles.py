"""Info files: damaged as bytes, and damaged in what they say."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from nsmae_plugin.formats.infos import read_infos, write_infos
from nsmae_plugin.host.builtin.database_sampler import DatabaseSampler
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import mutate_bytes, mutate_value
from tests.helpers.tiny_frames import VERSION, dataset, write_frames


def info_pickles(folder: Path) -> Draw:
    """Any list that can be read is right here: what it holds is checked frame by frame."""
    info = {"token": "a", "boxes": np.ones((3, 9)), "names": np.array(["car"] * 3), "sweeps": []}
    path = folder / "infos.pkl"

    def draw(rng: np.random.Generator) -> Case:
        content = pickle.dumps([info] * 2, protocol=int(rng.integers(6)))
        name, content = mutate_bytes(rng, content)
        path.write_bytes(content)
        return Case(name, lambda: isinstance(read_infos(path), list), (path.name,))

    return draw


def infos(folder: Path) -> Draw:
    """Any sample of finite numbers is right: the damage may be what the user means."""
    good = write_frames(folder, frames=2, cameras=2)
    path = folder / VERSION / "infos.pkl"

    def draw(rng: np.random.Generator) -> Case:
        name, content = mutate_value(rng, good)
        write_infos(path, content)
        training, labels = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        number = int(rng.integers(2))

        def run() -> bool:
            frames = dataset(folder, training=training, USE_LABELS=labels)
            return _finite(frames[min(number, len(frames) - 1)])

        return Case(name, run, (path.name, "token-"))

    return draw


def _finite(sample: dict) -> bool:
    arrays = [np.asarray(value) for key, value in sample.items() if key != "camera_imgs"]
    arrays += [np.asarray(image) for image in sample.get("camera_imgs", ())]
    return all(np.isfinite(one).all() for one in arrays if one.dtype.kind == "f")


def databases(folder: Path) -> Draw:
    """Lists of ground-truth databases, as far as the objects can be pasted."""
    folder.joinpath("a.bin").write_bytes(np.ones((3, 5), np.float32).tobytes())
    entry = {"name": "car", "path": "a.bin", "image_idx": 0, "gt_idx": 1}
    entry |= {"box3d_lidar": np.arange(1.0, 10.0), "num_points_in_gt": 3}
    good = {"car": [entry, {**entry, "gt_idx": 2}], "pedestrian": []}
    path = folder / "dbinfos.pkl"
    settings = {
        "DB_INFO_PATH": [path.name],
        "PREPARE": {"filter_by_min_points": ["car:2"]},
        "SAMPLE_GROUPS": ["car:2", "pedestrian:1"],
        "NUM_POINT_FEATURES": 5,
    }
    empty = {
        "points": np.zeros((4, 5), np.float32),
        "gt_boxes": np.zeros((0, 9), np.float32),
        "gt_names": np.zeros(0, dtype=str),
        "gt_boxes_mask": np.zeros(0, dtype=bool),
    }

    def draw(rng: np.random.Generator) -> Case:
        name, content = mutate_value(rng, good)
        write_infos(path, content)

        def run() -> bool:
            sample = DatabaseSampler(folder, settings, ["car", "pedestrian"])(dict(empty))
            return bool(np.isfinite(sample["points"]).all())

        return Case(name, run, (path.name, "of the ground-truth database"))

    return draw
