"""Info files as bytes: damaged pickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from fuzz.harness import Case, Draw
from fuzz.mutate import mutate_bytes
from nsmae_plugin.data.infos import read_infos


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
