"""Map expansion files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nsmae_plugin.formats.maps.vector_map import load_map
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import JSON_JUNK, mutate_bytes, mutate_value
from tests.helpers.map_files import LINE_WIDTH, LOCATION, ORIGIN, SECTION, street, write_map


def maps(folder: Path) -> Draw:
    """Areas of finite corners are right: the damage may be what the map says."""
    path = write_map(folder, street())
    good = json.loads(path.read_text())

    def draw(rng: np.random.Generator) -> Case:
        if rng.random() < 0.5:
            name, content = mutate_bytes(rng, json.dumps(good).encode())
        else:
            name, damaged = mutate_value(rng, good, JSON_JUNK)
            content = json.dumps(damaged).encode()
        # Read once as long as size and time are the same, which a fast loop may not change.
        content += b" " * int(rng.integers(1 << 16))
        path.write_bytes(content)

        def run() -> bool:
            areas = load_map(folder, LOCATION, SECTION["CLASSES"], LINE_WIDTH)
            areas.near(ORIGIN - 20, ORIGIN + 20)
            return bool(np.isfinite(areas.rings.points).all())

        return Case(name, run, (path.name,))

    return draw
