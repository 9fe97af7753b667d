"""Predicted boxes in OpenPCDet's layout, and as a nuScenes results file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.formats.infos import CREATE
from nsmae_plugin.formats.nuscenes.benchmark import MAX_BOXES
from nsmae_plugin.geometry import boxes

MOVING_SPEED = 0.2  # m/s, over the ground
SHOWN = 3  # samples that an error message spells out

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


def prediction_dicts(
    batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """What is predicted for each sample of a batch, in OpenPCDet's layout of annotations.

    Args:
        batch: holds ``frame_id`` and ``metadata`` of every sample.
        predictions: for each sample, unless the network detects nothing, tensors ``pred_boxes``
            (n, 7 or 9), ``pred_scores`` (n,) and ``pred_labels`` (n,), counted from 1.

    Returns:
        For each sample ``frame_id``, ``metadata``, ``name`` (n,) str, whose number OpenPCDet's
        evaluation counts, and, where boxes are predicted, ``score`` (n,), ``boxes_lidar``
        (n, 7 or 9) and ``pred_labels`` (n,).
    """
    result = []
    for index, one in enumerate(predictions):
        boxes = {"name": np.zeros(0, dtype=str)}
        if "pred_boxes" in one:
            boxes = _box_annotation(one, class_names)
        frame = {"frame_id": str(batch["frame_id"][index]), "metadata": batch["metadata"][index]}
        result.append({**boxes, **frame})
    return result


def _box_annotation(one: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    labels = one["pred_labels"].detach().cpu().numpy().astype(np.int64)
    return {
        "name": np.array(class_names)[labels - 1],
        "score": one["pred_scores"].detach().float().cpu().numpy(),
        "boxes_lidar": one["pred_boxes"].detach().float().cpu().numpy(),
        "pred_labels": labels,
    }


def attribute(name: str, velocity: Sequence[float]) -> str:
    """nuScenes attribute of a box of class ``name`` with (vx, vy) in m/s."""
    return ATTRIBUTES[name][0 if math.hypot(*velocity) > MOVING_SPEED else 1]


def sample_results(annotation: Mapping[str, Any], info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The boxes of one sample as a results file holds them, the surest first, 500 at most.

    Args:
        annotation: as :func:`prediction_dicts` makes them.
        info: of the same sample, gives the way from the LiDAR frame into the global one.

    Raises:
        NonFiniteError: a box or score is NaN or infinite.
        DataError: the info does not say where the sensor was.
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


def check_samples(
    annotations: Iterable[Mapping[str, Any]], infos: Iterable[Mapping[str, Any]]
) -> None:
    """Whether every sample of ``infos`` is annotated exactly once.

    Raises:
        DataError: a sample has no annotation, more than one, or is not in ``infos``.
    """
    wanted = {info["token"] for info in infos}
    found: set[str] = set()
    for annotation in annotations:
        token = annotation["metadata"]["token"]
        if token in found or token not in wanted:
            problem = "twice" if token in found else "but the data set has no such sample"
            raise DataError(f"there are predictions for sample {token} {problem}")
        found.add(token)
    missing = sorted(wanted - found)
    if missing:
        raise DataError(
            f"there are no predictions for {len(missing)} of {len(wanted)} samples "
            f"({', '.join(missing[:SHOWN])})"
        )


def make_results(
    annotations: Sequence[Mapping[str, Any]],
    infos: Sequence[Mapping[str, Any]],
    use_camera: bool,
    use_lidar: bool,
) -> dict[str, Any]:
    """The content of a results file for exactly the samples of ``infos``.

    Raises:
        DataError: see :func:`check_samples` and :func:`sample_results`.
        NonFiniteError: a box is NaN or infinite.
    """
    check_samples(annotations, infos)
    frames = {info["token"]: info for info in infos}
    tokens = [annotation["metadata"]["token"] for annotation in annotations]
    results = {
        token: sample_results(annotation, frames[token])
        for token, annotation in zip(tokens, annotations, strict=True)
    }
    meta = {"use_camera": use_camera, "use_lidar": use_lidar}
    meta |= {"use_radar": False, "use_map": False, "use_external": False}
    return {"meta": meta, "results": results}
