"""From a checkpoint and frames to boxes, files and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin import host
from nsmae_plugin.boxes import Boxes, lidar_to_global, make_boxes, to_global
from nsmae_plugin.data.images import camera_matrices, load_image
from nsmae_plugin.data.points import read_points, remove_ego_points
from nsmae_plugin.errors import ConfigError, DataError, NonFiniteError
from nsmae_plugin.evaluation.prepare import Trial
from nsmae_plugin.visualization.boxes import class_colours
from nsmae_plugin.visualization.detection import Photograph, Scenery, save_pictures

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inference:
    """A detector, the frames that it is tried on, and what is kept of its boxes.

    Attributes:
        trial: network and data.
        config: as ``load_config`` gives it.
        threshold: boxes with a lower score are neither written nor drawn.
        network: configuration and weights in words, for captions and files.

    Raises:
        ConfigError: when the data set is not in nuScenes' layout.
    """

    trial: Trial
    config: Any
    device: torch.device
    threshold: float
    network: str

    def __post_init__(self) -> None:
        infos = getattr(self.trial.dataset, "infos", None)
        if not infos or "token" not in infos[0]:
            raise ConfigError(
                f"DATA_CONFIG.DATASET {self.config.DATA_CONFIG.DATASET} has no info files in "
                "nuScenes' layout; take MultiModalNuScenesDataset, or put the frames into a folder"
            )

    def info(self, index: int) -> Mapping[str, Any]:
        """Entry ``index`` of the info files.

        Raises:
            DataError: when there is none.
        """
        infos = self.trial.dataset.infos
        if not 0 <= index < len(infos):
            raise DataError(f"there is no sample {index}: the split has {len(infos)}, from 0 on")
        return infos[index]

    def detect(self, index: int) -> Boxes:
        """All boxes of frame ``index``, best first, in its LiDAR frame.

        Raises:
            ConfigError: the network is no detector.
            NonFiniteError: a box or score is NaN or infinite.
            DataError: there is no such frame, or a file of it is missing or damaged.
        """
        batch = host.to_device(self.trial.batch_of(index), self.device)
        with torch.inference_mode():
            predictions = self.trial.model(batch)[0]
        if not isinstance(predictions, list) or "pred_boxes" not in predictions[0]:
            raise ConfigError(
                f"MODEL.NAME {self.config.MODEL.NAME} predicts no boxes; tools/infer.py needs a "
                "detector (tools/visualize.py draws what a pre-trained network renders)"
            )
        values, scores, labels = (
            predictions[0][f"pred_{key}"].detach().cpu().double().numpy()
            for key in ("boxes", "scores", "labels")
        )
        if not (np.isfinite(values).all() and np.isfinite(scores).all()):
            raise NonFiniteError(
                f"the network predicts NaN or infinity for sample {self.info(index)['token']}; its "
                "weights are damaged, or its training diverged"
            )
        order = np.argsort(-scores, kind="stable")
        names = [self.config.CLASS_NAMES[int(label) - 1] for label in labels[order]]
        return make_boxes(values[order], names, scores[order])

    def truth(self, index: int) -> Boxes | None:
        """The annotated boxes of the configured classes; None where there are no annotations."""
        info = self.info(index)
        if "gt_boxes" not in info:
            return None
        kept = np.isin(info["gt_names"], self.config.CLASS_NAMES)
        return make_boxes(info["gt_boxes"][kept], info["gt_names"][kept])

    def save(self, index: int, folder: Path) -> list[Path]:
        """Detect, and write into ``folder``; returns ``boxes.json`` and the pictures."""
        info, everything = self.info(index), self.detect(index)
        predicted = everything.above(self.threshold)
        _tell(info["token"], everything, predicted, self.threshold)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "boxes.json"
        text = json.dumps(self._as_json(info, predicted), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        caption = f"{info['token']} · {self.network} · score ≥ {self.threshold:g}"
        colours = class_colours(self.config.CLASS_NAMES)
        return [path, *save_pictures(self._scenery(index, predicted), colours, caption, folder)]

    def _as_json(self, info: Mapping[str, Any], predicted: Boxes) -> dict[str, Any]:
        matrix = lidar_to_global(info)
        boxes = describe(predicted)
        if matrix is not None:
            for box, placed in zip(boxes, to_global(predicted, matrix), strict=True):
                box["global"] = placed
        return {
            "sample": info["token"],
            "network": self.network,
            "score_threshold": self.threshold,
            "lidar_to_global": None if matrix is None else matrix.tolist(),
            "boxes": boxes,
        }

    def _scenery(self, index: int, predicted: Boxes) -> Scenery:
        """Everything to draw: also a sensor that the network does not use, when its files exist."""
        info, root = self.info(index), Path(self.trial.dataset.root_path)
        lidar = root / info["lidar_path"]
        points = None
        if lidar.is_file():
            points = remove_ego_points(read_points(lidar, info["token"]))
        x_min, y_min, _, x_max, y_max, _ = map(float, self.config.DATA_CONFIG.POINT_CLOUD_RANGE)
        return Scenery(
            photographs=tuple(
                Photograph(
                    name,
                    load_image(root / camera["data_path"], info["token"]),
                    camera_matrices(camera)["lidar2image"],
                )
                for name, camera in info.get("cams", {}).items()
                if (root / camera["data_path"]).is_file()
            ),
            points=points,
            predicted=predicted,
            truth=self.truth(index),
            extent=(x_min, x_max, y_min, y_max),
        )


def _tell(token: str, everything: Boxes, predicted: Boxes, threshold: float) -> None:
    count = f"{len(predicted)} of {len(everything)}"
    scores = () if everything.scores is None else everything.scores
    best = f", the best {max(scores):.3f}" if len(scores) else ""
    logger.info("%s: %s boxes score at least %g%s", token, count, threshold, best)


def describe(boxes: Boxes) -> list[dict[str, Any]]:
    """Predicted boxes as JSON objects: ``name``, ``score`` and, under ``lidar``, the box itself."""
    assert boxes.scores is not None
    return [
        {
            "name": name,
            "score": float(score),
            "lidar": {
                "center": values[:3].tolist(),
                "size": values[3:6].tolist(),
                "yaw": float(values[6]),
                "velocity": values[7:9].tolist() if np.isfinite(values[7:9]).all() else None,
            },
        }
        for name, score, values in zip(boxes.names, boxes.scores, boxes.values, strict=True)
    ]
