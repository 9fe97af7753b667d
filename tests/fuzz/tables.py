"""Tables of a nuScenes database, and its ``splits.json``, on the way to info files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.runs.create_infos import create_infos
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import JSON_JUNK, mutate_bytes, mutate_value
from tests.helpers.tiny_frames import HEIGHT, WIDTH, random_points

VERSION = "v1.0-mini"
SCENES = {"a": "scene-0061", "b": "scene-0103"}  # of mini_train and mini_val
CHANNELS = {"LIDAR_TOP": "lidar", "CAM_FRONT": "camera", "CAM_BACK": "camera"}
NAMED = ("scene", "sample", "sensor", "pose", "splits", "category", "instance", "image", "LiDAR")
TURN = [0.5, 0.5, -0.5, 0.5]


def tables(folder: Path) -> Draw:
    """Infos of finite numbers are right: the damage may be what the user means."""
    good = _database(folder)

    def draw(rng: np.random.Generator) -> Case:
        name = sorted(good)[rng.integers(len(good))]
        damage, content = _damage(rng, good[name])
        return _case(folder, good, f"{name}.json {damage}", {f"{name}.json": content})

    return draw


def splits(folder: Path) -> Draw:
    """As :func:`tables`."""
    good = _database(folder)
    names = {"train": [SCENES["a"]], "val": [SCENES["b"]], "my_val": [SCENES["b"]]}

    def draw(rng: np.random.Generator) -> Case:
        damage, content = _damage(rng, names)
        return _case(folder, good, f"splits.json {damage}", {"splits.json": content})

    return draw


def _damage(rng: np.random.Generator, value: Any) -> tuple[str, bytes]:
    if rng.random() < 0.3:
        return mutate_bytes(rng, json.dumps(value).encode())
    name, damaged = mutate_value(rng, value, JSON_JUNK)
    return name, json.dumps(damaged).encode()


def _case(folder: Path, good: dict[str, Any], name: str, damaged: dict[str, bytes]) -> Case:
    place = folder / VERSION / VERSION
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    whole = {f"{table}.json": json.dumps(rows).encode() for table, rows in good.items()}
    for file, content in {**whole, **damaged}.items():
        (place / file).write_bytes(content)

    def run() -> bool:
        paths = create_infos(folder, VERSION, 2, with_cam=True, out_dir=folder / "out")
        return all(
            np.isfinite(info["gt_boxes"][:, :7]).all()
            and np.isfinite(
                [camera["sensor2lidar_rotation"] for camera in info["cams"].values()]
            ).all()
            for path in paths
            for info in read_infos(path)
        )

    shutil.rmtree(folder / "out", ignore_errors=True)
    return Case(name, run, NAMED)


def _database(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Two scenes of two keyframes, one sweep before the second, two cameras, one car."""
    good: dict[str, list[dict[str, Any]]] = {
        "sensor": [
            {"token": f"s-{name}", "channel": name, "modality": kind}
            for name, kind in CHANNELS.items()
        ],
        "calibrated_sensor": [_calibration(name, kind) for name, kind in CHANNELS.items()],
        "category": [{"token": "c", "name": "vehicle.car"}],
        "instance": [{"token": f"i{scene}", "category_token": "c"} for scene in SCENES],
        **{table: [] for table in ("scene", "sample", "sample_data", "ego_pose")},
        "sample_annotation": [],
    }
    for scene, name in SCENES.items():
        good["scene"].append({"token": scene, "name": name, "first_sample_token": f"{scene}0"})
        for number in (0, 1):
            _add_sample(good, folder / VERSION, scene, number)
    return good


def _calibration(name: str, kind: str) -> dict[str, Any]:
    matrix = [[80.0, 0.0, WIDTH / 2], [0.0, 80.0, HEIGHT / 2], [0.0, 0.0, 1.0]]
    return {
        "token": f"k-{name}",
        "sensor_token": f"s-{name}",
        "translation": [1.0, 0.0, 1.5],
        "rotation": TURN if kind == "camera" else [1.0, 0.0, 0.0, 0.0],
        "camera_intrinsic": matrix if kind == "camera" else [],
    }


def _add_sample(good: dict[str, Any], root: Path, scene: str, number: int) -> None:
    sample, time = f"{scene}{number}", 1_000_000 + 500_000 * number
    good["sample"].append({"token": sample, "scene_token": scene, "timestamp": time})
    for name, kind in CHANNELS.items():
        before = f"{name}-{scene}{number - 1}" if number else ""
        good["ego_pose"].append(
            {
                "token": f"p-{name}-{sample}",
                "translation": [2.0 * number, 0.0, 0.0],
                "rotation": [1.0, 0.0, 0.0, 0.0],
            }
        )
        file = f"samples/{name}-{sample}.{'bin' if kind == 'lidar' else 'png'}"
        good["sample_data"].append(
            {
                "token": f"{name}-{sample}",
                "sample_token": sample,
                "ego_pose_token": f"p-{name}-{sample}",
                "calibrated_sensor_token": f"k-{name}",
                "timestamp": time,
                "is_key_frame": True,
                "filename": file,
                "prev": before,
                "width": WIDTH if kind == "camera" else 0,
                "height": HEIGHT if kind == "camera" else 0,
            }
        )
        (root / "samples").mkdir(parents=True, exist_ok=True)
        if kind == "lidar":
            random_points(np.random.default_rng(number), 0).tofile(root / file)
        else:
            Image.new("RGB", (WIDTH, HEIGHT)).save(root / file)
    good["sample_annotation"].append(
        {
            "token": f"n{sample}",
            "sample_token": sample,
            "instance_token": f"i{scene}",
            "translation": [10.0 + number, 2.0, 1.0],
            "size": [2.0, 4.0, 1.5],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "prev": f"n{scene}0" if number else "",
            "next": "" if number else f"n{scene}1",
            "num_lidar_pts": 5,
            "num_radar_pts": 0,
        }
    )
