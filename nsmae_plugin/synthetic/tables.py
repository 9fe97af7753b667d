"""Records of a nuScenes database (schema: docs/schema_nuscenes.md of nuscenes-devkit)."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from nsmae_plugin.geometry.rotations import rotation_matrix

Record = dict[str, Any]
Tables = dict[str, list[Record]]

CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
# Visibility token -> (level, least share of an object's pixels that some camera sees).
VISIBILITIES = {
    "1": ("v0-40", 0.0),
    "2": ("v40-60", 0.4),
    "3": ("v60-80", 0.6),
    "4": ("v80-100", 0.8),
}
TABLE_NAMES = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)


def make_token(*names: object) -> str:
    """A token of 32 hexadecimal digits that depends on the names alone."""
    return hashlib.md5("/".join(map(str, names)).encode(), usedforsecurity=False).hexdigest()


def pose_fields(translation: Iterable[float], rotation: Iterable[float]) -> Record:
    """The two fields of a pose: metres, and a quaternion (w, x, y, z)."""
    return {
        "translation": [float(value) for value in translation],
        "rotation": [float(value) for value in rotation],
    }


def fixed_tables(seed: int) -> Tables:
    """Categories, attributes and visibility levels."""
    return {
        "category": [
            {**_named(seed, "category", name), "index": i}
            for i, name in enumerate(CATEGORIES, start=1)
        ],
        "attribute": [_named(seed, "attribute", name) for name in ATTRIBUTES],
        "visibility": [
            {"token": token, "level": level, "description": ""}
            for token, (level, _) in VISIBILITIES.items()
        ],
    }


def _named(seed: int, kind: str, name: str) -> Record:
    return {"token": make_token(seed, kind, name), "name": name, "description": ""}


def visibility_token(visible: int, covered: int) -> str:
    """Token for the share of an object's pixels that the cameras see; '1' when none is theirs."""
    share = visible / covered if covered else 0.0
    return max(token for token, (_, least) in VISIBILITIES.items() if share >= least)


def link(records: list[Record]) -> None:
    """Set ``prev`` and ``next`` of records that follow each other."""
    for record in records:
        record["prev"] = record["next"] = ""
    for first, second in itertools.pairwise(records):
        first["next"], second["prev"] = second["token"], first["token"]


def merge(parts: Iterable[Tables]) -> Tables:
    """One set of tables out of several, each table in the order of the parts."""
    tables: Tables = defaultdict(list)
    for part in parts:
        for name, records in part.items():
            tables[name] += records
    return {name: tables[name] for name in TABLE_NAMES}


def annotation_counts(points: np.ndarray, centre, rotation: np.ndarray, size) -> int:
    """LiDAR points (n, 3) inside a box of size (width, length, height), all in one frame."""
    width, length, height = size
    local = (points - centre) @ rotation_matrix(rotation)
    return int((np.abs(local) <= np.array([length, width, height]) / 2).all(1).sum())
