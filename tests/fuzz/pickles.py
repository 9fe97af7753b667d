"""Info files: damaged as bytes, and damaged in what they say."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from tiny_frames import VERSION, dataset, write_frames

from fuzz.harness import Case, Draw
from fuzz.mutate import mutate_bytes, mutate_value
from nsmae_plugin.data.infos import read_infos, write_infos


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
