"""Predicted boxes as a nuScenes results file, and the data set's methods that make and score it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin import boxes
from nsmae_plugin.data.infos import CREATE
from nsmae_plugin.errors import ConfigError, DataError, NonFiniteError
from nsmae_plugin.evaluation import nuscenes_benchmark
from nsmae_plugin.evaluation.nuscenes_benchmark import MAX_BOXES, Benchmark

RESULTS = "results_nusc.json"
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
    """The boxes of each sample of a batch, in OpenPCDet's layout of annotations.

    Args:
        batch: holds ``frame_id`` and ``metadata`` of every sample.
        predictions: for each sample tensors ``pred_boxes`` (n, 7 or 9), ``pred_scores`` (n,) and
            ``pred_labels`` (n,), counted from 1.

    Returns:
        For each sample ``name`` (n,) str, ``score`` (n,), ``boxes_lidar`` (n, 7 or 9),
        ``pred_labels`` (n,), ``frame_id`` and ``metadata``.
    """
    result = []
    for index, one in enumerate(predictions):
        labels = one["pred_labels"].detach().cpu().numpy().astype(np.int64)
        result.append(
            {
                "name": np.array(class_names)[labels - 1],
                "score": one["pred_scores"].detach().float().cpu().numpy(),
                "boxes_lidar": one["pred_boxes"].detach().float().cpu().numpy(),
                "pred_labels": labels,
                "frame_id": str(batch["frame_id"][index]),
                "metadata": batch["metadata"][index],
            }
        )
    return result


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


def make_results(
    annotations: Iterable[Mapping[str, Any]],
    infos: Iterable[Mapping[str, Any]],
    use_camera: bool,
    use_lidar: bool,
) -> dict[str, Any]:
    """The content of a results file for exactly the samples of ``infos``.

    Raises:
        DataError: a sample has no annotation, more than one, or is not in ``infos``.
        NonFiniteError: a box is NaN or infinite.
    """
    frames = {info["token"]: info for info in infos}
    results: dict[str, list[dict[str, Any]]] = {}
    for annotation in annotations:
        token = annotation["metadata"]["token"]
        if token in results or token not in frames:
            problem = "twice" if token in results else "but the data set has no such sample"
            raise DataError(f"there are predictions for sample {token} {problem}")
        results[token] = sample_results(annotation, frames[token])
    missing = [token for token in frames if token not in results]
    if missing:
        raise DataError(
            f"there are no predictions for {len(missing)} of {len(frames)} samples "
            f"({', '.join(missing[:SHOWN])}); a sample without boxes needs an empty list"
        )
    meta = {"use_camera": use_camera, "use_lidar": use_lidar}
    meta |= {"use_radar": False, "use_map": False, "use_external": False}
    return {"meta": meta, "results": results}


class NuScenesEvaluation:
    """Gives a nuScenes data set OpenPCDet's two methods for evaluation.

    The data set has ``dataset_cfg``, ``class_names``, ``root_path`` (folder of the version),
    ``infos``, ``use_camera``, ``use_lidar`` and ``logger``.
    """

    dataset_cfg: Any
    class_names: Any
    root_path: Path
    infos: list[dict[str, Any]]
    use_camera: bool
    use_lidar: bool
    logger: logging.Logger

    @staticmethod
    def generate_prediction_dicts(
        batch_dict: Mapping[str, Any],
        pred_dicts: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """As :func:`prediction_dicts`; also writes ``<frame_id>.json`` into ``output_path``.

        Such a file holds ``token`` and, in the LiDAR frame, ``names``, ``scores`` and ``boxes``.
        """
        annotations = prediction_dicts(batch_dict, pred_dicts, class_names)
        if output_path is None:
            return annotations
        for one in annotations:
            content = {
                "token": one["metadata"]["token"],
                "names": one["name"].tolist(),
                "scores": one["score"].tolist(),
                "boxes": one["boxes_lidar"].tolist(),
            }
            path = output_path / f"{one['frame_id']}.json"
            path.write_text(json.dumps(content), encoding="utf-8")
        return annotations

    def benchmark(self) -> Benchmark:
        """What the devkit is going to evaluate, checked before a network runs for hours.

        Raises:
            ConfigError: a class that nuScenes does not evaluate, or a split that it does not know.
            DataError: the info files hold other samples than the split, or no annotations.
        """
        foreign = [name for name in self.class_names if name not in ATTRIBUTES]
        if foreign:
            raise ConfigError(
                f"CLASS_NAMES: the nuScenes benchmark has no class {', '.join(foreign)}; it has "
                f"{', '.join(ATTRIBUTES)}"
            )
        split = self.dataset_cfg.DATA_SPLIT["test"]
        found = nuscenes_benchmark.find(self.root_path, self.dataset_cfg.VERSION, split)
        found.check_samples([info["token"] for info in self.infos], "the info files hold")
        if found.has_labels and not any(len(info.get("gt_names", ())) for info in self.infos):
            raise DataError(
                f"no sample of the split {found.split} of {self.root_path} has an annotated box: "
                "there is nothing to score; evaluate a labelled split"
            )
        return found

    def evaluation(
        self, det_annos: Sequence[Mapping[str, Any]], class_names: Sequence[str], **kwargs: Any
    ) -> tuple[str, dict[str, float]]:
        """Write ``results_nusc.json`` into ``output_path`` and let the devkit score it.

        Args:
            det_annos: of every sample of the data set exactly once, as
                :meth:`generate_prediction_dicts` makes them.
            kwargs: ``output_path``, where the files go; the rest is OpenPCDet's and not needed.

        Returns:
            Text with the devkit's table, and ``{metric: value}``; for v1.0-test, which has no
            public annotations, a remark and no metrics.

        Raises:
            ConfigError, DataError: see :meth:`benchmark` and :func:`make_results`.
            NonFiniteError: a box is NaN or infinite.
        """
        found = self.benchmark()
        folder = Path(kwargs["output_path"])
        folder.mkdir(parents=True, exist_ok=True)
        content = make_results(det_annos, self.infos, self.use_camera, self.use_lidar)
        path = folder / RESULTS
        path.write_text(json.dumps(content), encoding="utf-8")
        if not found.has_labels:
            return f"no annotations in {found.version}: submit {path}", {}
        text, metrics = nuscenes_benchmark.score(found, path, folder)
        absent = [name for name in ATTRIBUTES if name not in class_names]
        if absent:
            text = f"not in CLASS_NAMES, counted with AP 0: {', '.join(absent)}\n\n{text}"
        return text, metrics
