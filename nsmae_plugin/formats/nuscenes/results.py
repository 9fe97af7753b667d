"""Predicted boxes as a nuScenes results file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.formats.infos import CREATE
from nsmae_plugin.formats.nuscenes.devkit import MAX_BOXES
from nsmae_plugin.geometry import boxes

MOVING_SPEED = 0.2  # m/s, over the ground

# Attribute of a box that moves, of one that stands. Networks do not predict attributes; the more
# frequent one of nuScenes' training split stands in, as in OpenPCDet. Barriers and cones have none.
ATTRIBUTES = {
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}


def attribute(name: str, velocity: Sequence[float]) -> str:
    """nuScenes attribute of a box of class ``name`` with (vx, vy) in m/s."""
    return ATTRIBUTES[name][0 if math.hypot(*velocity) > MOVING_SPEED else 1]


def sample_results(annotation: Mapping[str, Any], info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The boxes of one sample in the format of a results file, at most 500, best first.

    Args:
        annotation: in OpenPCDet's layout, with ``name``, ``score`` and ``boxes_lidar``.
        info: of the same sample, with the pose of its LiDAR.

    Raises:
        NonFiniteError: a box or score is NaN or infinite.
        DataError: the info has no pose.
    """
    token = info["token"]
    values, scores = annotation["boxes_lidar"], annotation["score"]
    if not (np.isfinite(values).all() and np.isfinite(scores).all()):
        raise NonFiniteError(
            f"a predicted box of sample {token} is NaN or infinite: the weights of this network "
            "are broken, or its input is"
        )
    matrix = boxes.lidar_to_global(info)
    if matrix is None:
        raise DataError(
            f"the info of sample {token} holds no ref_from_car and car_from_global, so its boxes "
            f"have no place in the global frame; {CREATE}"
        )
    order = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    names = [str(annotation["name"][index]) for index in order]
    placed = boxes.to_global(boxes.make_boxes(values[order], names, scores[order]), matrix)
    result = []
    for box, name, score in zip(placed, names, scores[order], strict=True):
        velocity = box["velocity"] or [0.0, 0.0]  # networks without a velocity branch
        result.append(
            {
                **box,
                "sample_token": token,
                "velocity": velocity,
                "detection_name": name,
                "detection_score": float(score),
                "attribute_name": attribute(name, velocity),
            }
        )
    return result


def make_results(
    annotations: Sequence[Mapping[str, Any]],
    infos: Sequence[Mapping[str, Any]],
    use_camera: bool,
    use_lidar: bool,
) -> dict[str, Any]:
    """The content of a results file.

    Args:
        annotations: of every sample of ``infos``, in any order.

    Raises:
        DataError, NonFiniteError: see :func:`sample_results`.
    """
    frames = {info["token"]: info for info in infos}
    tokens = [annotation["metadata"]["token"] for annotation in annotations]
    results = {
        token: sample_results(annotation, frames[token])
        for token, annotation in zip(tokens, annotations, strict=True)
    }
    meta = {"use_camera": use_camera, "use_lidar": use_lidar}
    meta |= {"use_radar": False, "use_map": False, "use_external": False}
    return {"meta": meta, "results": results}
