"""LiDAR files: damaged bytes, other layouts, files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import mutate_bytes
from tests.helpers.tiny_frames import VERSION, dataset, random_points, write_frames

COLUMNS = {"4": [0, 1, 2, 3], "3": [0, 1, 2], "6": [0, 1, 2, 3, 4, 4], "7": [0, 1, 2, 3, 4, 4, 3]}
KINDS = ("bytes", "layout", "units", "values", "special")


def clouds(folder: Path) -> Draw:
    """Read through the dataset, as keyframe or sweep.

    Bytes that change are right as long as they are coordinates of points: nothing tells them apart.
    Other layouts never are.
    """
    (info,) = write_frames(folder, frames=1, cameras=1)
    paths = [folder / VERSION / one["lidar_path"] for one in (info, *info["sweeps"])]
    good = [path.read_bytes() for path in paths]

    def draw(rng: np.random.Generator) -> Case:
        for path, content in zip(paths, good, strict=True):
            _clear(path)
            path.write_bytes(content)
        number = int(rng.integers(len(paths)))
        kind = KINDS[rng.integers(len(KINDS))]
        name = _damage(rng, kind, paths[number], good[number])

        def run() -> bool:
            sample = dataset(folder, training=False, without=("mask_voxels",))[0]
            points = np.asarray(sample["points"])
            finite = np.isfinite(points).all() and np.abs(points).max() < 1e6
            return bool(finite) and kind not in ("layout", "units", "special")

        return Case(f"{kind}: {name}", run, (paths[number].name,))

    return draw


def _clear(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _damage(rng: np.random.Generator, kind: str, path: Path, good: bytes) -> str:
    cloud = np.frombuffer(good, np.float32).reshape(-1, 5).copy()
    cloud[:, 4] = np.arange(len(cloud)) % 32
    if kind == "bytes":
        name, content = mutate_bytes(rng, good)
        path.write_bytes(content)
        return name
    if kind == "layout":
        name = list(COLUMNS)[rng.integers(len(COLUMNS))]
        dtype = (np.float32, np.float64, np.float16)[rng.integers(3)]
        rows = (len(cloud) // 20) * 20 if rng.random() < 0.8 else len(cloud)
        cloud[:rows, COLUMNS[name]].astype(dtype).tofile(path)
        return f"{name} columns of {dtype.__name__}"
    if kind == "units":
        factor = 10.0 ** rng.integers(3, 12)
        (cloud * np.float32([factor] * 3 + [1, 1])).astype(np.float32).tofile(path)
        return f"{factor:g} per metre"
    if kind == "values":
        value = (np.nan, np.inf, -1e30, 1e6, -5.0)[rng.integers(5)]
        rows = rng.integers(len(cloud), size=rng.integers(1, 30))
        cloud[rows, rng.integers(4)] = value
        cloud.tofile(path)
        return f"{value} in {len(rows)} points"
    return _special(rng, path)


def _special(rng: np.random.Generator, path: Path) -> str:
    path.unlink()
    choice = ("pipe", "device", "folder", "sparse", "missing", "loop", "header")[rng.integers(7)]
    if choice == "pipe":
        os.mkfifo(path)
    elif choice == "device":
        path.symlink_to(("/dev/zero", "/dev/null", "/dev/tty")[rng.integers(3)])
    elif choice == "folder":
        path.mkdir()
    elif choice == "sparse":
        path.touch()
        os.truncate(path, 20 * int(rng.integers(1 << 24, 1 << 33)))
    elif choice == "loop":
        path.symlink_to(path)
    elif choice == "header":
        with path.open("wb") as file:
            np.save(file, random_points(rng, 0))
    return choice
