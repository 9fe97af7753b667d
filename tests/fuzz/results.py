"""Files of results: nuScenes' JSON, and the records of a label-efficiency experiment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nsmae_plugin.experiments.label_efficiency.records import RECORD, Record, Trial, read_record
from nsmae_plugin.formats.nuscenes.devkit import Split, score
from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import JSON_JUNK, mutate_bytes, mutate_value


def _damage(rng: np.random.Generator, good: object) -> tuple[str, bytes]:
    if rng.random() < 0.5:
        return mutate_bytes(rng, json.dumps(good).encode())
    name, damaged = mutate_value(rng, good, JSON_JUNK)
    return name, json.dumps(damaged).encode()


def results(folder: Path) -> Draw:
    """Two samples without a box: what is scored, without the devkit, is 0."""
    good = {"meta": {"use_camera": True}, "results": {"a": [], "b": []}}
    path = folder / "results_nusc.json"
    split = Split(folder, "v1.0-mini", "mini_val", frozenset("ab"))

    def draw(rng: np.random.Generator) -> Case:
        name, content = _damage(rng, good)
        path.write_bytes(content)
        return Case(name, lambda: score(split, path, folder)[1]["mAP"] == 0, (path.name,))

    return draw


def records(folder: Path) -> Draw:
    """A record that is read is the one that was written: it has a fingerprint of its settings."""
    record = Record(Trial("pretrained", 0.1, 3), {"epochs": 3, "lr": [0.1, 0.2]})
    record.save(folder)
    path = folder / RECORD
    good = json.loads(path.read_text())

    def draw(rng: np.random.Generator) -> Case:
        name, content = _damage(rng, good)
        path.write_bytes(content)

        def run() -> bool:
            read = read_record(folder)
            return read is not None and read.settings == record.settings

        return Case(name, run, (path.name,))

    return draw
