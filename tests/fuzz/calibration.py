"""``calibration.json`` of a folder of frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from nsmae_plugin.data.frame_folder import NAME, FrameFolderDataset
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import JSON_JUNK, mutate_bytes, mutate_value
from tests.helpers.tiny_frames import HEIGHT, MASKS, WIDTH, camera, configuration, random_points


def calibration(folder: Path) -> Draw:
    """Any sample of finite numbers is right: the damage may be what the user means."""
    good = _description(folder)

    def draw(rng: np.random.Generator) -> Case:
        if rng.random() < 0.3:
            name, content = mutate_bytes(rng, json.dumps(good).encode())
        else:
            name, damaged = mutate_value(rng, good, JSON_JUNK)
            content = json.dumps(damaged).encode()
        (folder / NAME).write_bytes(content)

        def run() -> bool:
            config = configuration(folder, without=MASKS)
            sample = FrameFolderDataset(config, ["car"], training=False)[0]
            return all(
                np.isfinite(sample[key]).all() for key in ("points", "lidar2image", "camera2ego")
            )

        return Case(name, run, (NAME, "a.png", "a.bin", "frame", "sample"))

    return draw


def _description(folder: Path) -> dict:
    one = camera("front", 0.4, "unused")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = one["sensor2lidar_rotation"], one["sensor2lidar_translation"]
    for name in ("a.bin", "b.bin"):
        random_points(np.random.default_rng(0), 0).tofile(folder / name)
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / "a.png")
    placed = {"intrinsics": one["camera_intrinsics"].tolist(), "camera_to_lidar": pose.tolist()}
    sweeps = [{"lidar": "b.bin", "to_frame": np.eye(4).tolist(), "time_lag": 0.05}]
    frame = {"name": "a", "lidar": "a.bin", "cameras": {"front": {"image": "a.png"}}}
    frame |= {"sweeps": sweeps, "lidar_to_global": np.eye(4).tolist()}
    layout = {"columns": ["x", "y", "z", "intensity", "ring"], "dtype": "float32"}
    return {"cameras": {"front": placed}, "frames": [frame], "lidar_files": layout}
