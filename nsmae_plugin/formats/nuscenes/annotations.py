"""Annotations of a nuScenes database as boxes of info files, with remarks on omitted ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats.lidar_files import read_points
from nsmae_plugin.formats.lidar_layout import LidarFiles
from nsmae_plugin.formats.nuscenes.tables import NuScenesTables, Record
from nsmae_plugin.geometry.rotations import rotation_matrix
from nsmae_plugin.ops.compiled.roiaware_pool3d_cuda import points_in_boxes_cpu

# nuScenes' ten detection classes.
DETECTION_NAMES = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
# Other annotated categories, which the benchmark and the training ignore.
IGNORED_CATEGORIES = (
    "animal",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "static_object.bicycle_rack",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
)
IGNORED = "ignore"  # OpenPCDet's name for boxes of no detection class
MAX_VELOCITY_GAP = 1.5  # seconds; the devkit gives no velocity over longer gaps
# Reasons why an annotation is no box of a detection class; the category's name follows the last.
IMPOSSIBLE, UNSEEN, COUNTED, CATEGORY = "impossible size", "no point", "counted", "category "

Remarks = dict[str, list[str]]


class AnnotationReader:
    """Boxes of a sample in its LiDAR frame, as OpenPCDet's, and remarks on the annotations.

    Left out are annotations of impossible size and those in which no LiDAR or radar point lies. A
    negative ``num_lidar_pts`` stands for "not counted": the points of the keyframe are counted.
    """

    def __init__(self, tables: NuScenesTables, layout: LidarFiles):
        self.tables, self.layout = tables, layout

    def read(
        self, reference: Record, ref_from_global: np.ndarray
    ) -> tuple[dict[str, Any], Remarks]:
        """The entries of an info, and reason → tokens of annotations.

        Args:
            reference: ``sample_data`` record of the LiDAR's keyframe.
            ref_from_global: (4, 4).

        Raises:
            DataError: a record names another that is not there, or one of another time; or the
                LiDAR file is needed and cannot be read.
        """
        remarks: Remarks = {}
        every = self.tables.annotations[reference["sample_token"]]
        sized = np.array([min(one["size"]) > 0 for one in every], dtype=bool)
        _note(remarks, IMPOSSIBLE, _chosen(every, ~sized))
        annotations = _chosen(every, sized)
        entries = self._entries(annotations, ref_from_global)
        self._count(entries, annotations, reference, remarks)
        radar = np.maximum(entries["num_radar_pts"], 0)
        seen = entries["num_lidar_pts"] + radar > 0
        _note(remarks, UNSEEN, _chosen(annotations, ~seen))
        for one in _chosen(annotations, seen):
            if self._category(one) not in DETECTION_NAMES:
                _note(remarks, f"{CATEGORY}{self._category(one)}", [one])
        return {key: values[seen] for key, values in entries.items()}, remarks

    def _entries(
        self, annotations: list[Record], ref_from_global: np.ndarray
    ) -> dict[str, np.ndarray]:
        turn = ref_from_global[:3, :3]
        velocity = np.array([turn @ self._velocity(one) for one in annotations]).reshape(-1, 3)
        rows = [self._box(one, ref_from_global) for one in annotations]
        names = [DETECTION_NAMES.get(self._category(one), IGNORED) for one in annotations]
        return {
            "gt_boxes": np.concatenate([np.array(rows).reshape(-1, 7), velocity[:, :2]], axis=1),
            "gt_boxes_velocity": velocity,
            "gt_names": np.array(names),
            "gt_boxes_token": np.array([one["token"] for one in annotations]),
            "num_lidar_pts": np.array([int(one["num_lidar_pts"]) for one in annotations], int),
            "num_radar_pts": np.array([int(one["num_radar_pts"]) for one in annotations], int),
        }

    def _count(
        self,
        entries: dict[str, np.ndarray],
        annotations: list[Record],
        reference: Record,
        remarks: Remarks,
    ) -> None:
        """Count the LiDAR points of boxes whose ``num_lidar_pts`` is negative."""
        unknown = entries["num_lidar_pts"] < 0
        if not unknown.any():
            return
        path, token = self.tables.root / reference["filename"], reference["sample_token"]
        points = read_points(path, token, self.layout)
        boxes = torch.from_numpy(entries["gt_boxes"][unknown, :7]).float()
        inside = torch.zeros((len(boxes), len(points)), dtype=torch.int32)
        points_in_boxes_cpu(boxes, torch.from_numpy(points[:, :3].copy()), inside)
        entries["num_lidar_pts"][unknown] = inside.sum(1).numpy()
        _note(remarks, COUNTED, _chosen(annotations, unknown))

    def _box(self, annotation: Record, ref_from_global: np.ndarray) -> list[float]:
        """[x, y, z, length, width, height, heading] in the LiDAR frame."""
        centre = ref_from_global[:3, :3] @ annotation["translation"] + ref_from_global[:3, 3]
        ahead = ref_from_global[:3, :3] @ rotation_matrix(annotation["rotation"])[:, 0]
        width, length, height = annotation["size"]
        return [*centre, length, width, height, np.arctan2(ahead[1], ahead[0])]

    def _category(self, annotation: Record) -> str:
        instance = self.tables.get("instance", annotation["instance_token"])
        return self.tables.get("category", instance["category_token"])["name"]

    def _velocity(self, annotation: Record) -> np.ndarray:
        """(3,) m/s in the global frame from the neighbouring annotations; NaN without any."""
        before, after = annotation["prev"], annotation["next"]
        ends = [
            self.tables.get("sample_annotation", token) if token else annotation
            for token in (before, after)
        ]
        times = [self._time(one) for one in ends]
        own = self._time(annotation)
        for link, ordered in (("prev", times[0] < own), ("next", own < times[1])):
            if annotation[link] and not ordered:
                raise DataError(
                    f"{self.tables.name('sample_annotation', annotation)}: {link} names "
                    f"{annotation[link]}, whose sample is not "
                    f"{'before' if link == 'prev' else 'after'} its own"
                )
        limit = MAX_VELOCITY_GAP * (2 if before and after else 1)
        elapsed = times[1] - times[0]
        if not (before or after) or elapsed > limit:
            return np.full(3, np.nan)
        return (np.array(ends[1]["translation"]) - np.array(ends[0]["translation"])) / elapsed

    def _time(self, annotation: Record) -> float:
        return 1e-6 * self.tables.get("sample", annotation["sample_token"])["timestamp"]


def _chosen(annotations: Sequence[Record], flags: np.ndarray) -> list[Record]:
    return [one for one, flag in zip(annotations, flags, strict=True) if flag]


def _note(remarks: Remarks, reason: str, annotations: Iterable[Record]) -> None:
    for one in annotations:
        remarks.setdefault(reason, []).append(one["token"])


def join(remarks: Iterable[Remarks]) -> Remarks:
    """The remarks of several samples in one."""
    joined: Remarks = {}
    for one in remarks:
        for reason, tokens in one.items():
            joined.setdefault(reason, []).extend(tokens)
    return joined


def describe(infos: Iterable[Mapping[str, Any]], remarks: Remarks) -> tuple[list[str], list[str]]:
    """Report the boxes of a split by class, and omitted ones with the reason."""
    names = Counter(str(name) for info in infos for name in info["gt_names"])
    ignored = names.pop(IGNORED, 0)
    classes = ", ".join(f"{name} {count}" for name, count in names.most_common())
    news = [f"{sum(names.values())} boxes: {classes or 'none of a detection class'}"]
    warnings = []
    for category, tokens in _categories(remarks).items():
        said = f"{len(tokens)} boxes of the category {brief(repr(category))}, kept as 'ignore'"
        if category in IGNORED_CATEGORIES:
            news.append(f"{said} as the benchmark does")
        else:
            warnings.append(
                f"{said}: nuScenes has no such category and nothing is trained on it; give it one "
                "of nuScenes' names in category.json (vehicle.car, human.pedestrian.adult, ...)"
            )
    if IMPOSSIBLE in remarks:
        warnings.append(
            f"{_count(remarks, IMPOSSIBLE)} of impossible size left out; width, length and height "
            "must be positive"
        )
    if COUNTED in remarks:
        news.append(
            f"{len(remarks[COUNTED])} boxes had no number of LiDAR points (num_lidar_pts below 0); "
            "the points of their keyframes were counted"
        )
    if UNSEEN in remarks:
        said = f"{_count(remarks, UNSEEN)} left out: no LiDAR or radar point lies in them"
        if names or ignored:
            news.append(said)
        else:
            warnings.append(
                f"{said}, and no box is left; if nobody has counted, set num_lidar_pts to -1"
            )
    return news, warnings


def _categories(remarks: Remarks) -> Remarks:
    return {
        reason.removeprefix(CATEGORY): tokens
        for reason, tokens in sorted(remarks.items())
        if reason.startswith(CATEGORY)
    }


def _count(remarks: Remarks, reason: str) -> str:
    tokens = remarks[reason]
    return f"{len(tokens)} boxes (first: sample_annotation {brief(repr(tokens[0]))})"
