"""Predict boxes and the map of single frames, and write them as files and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.image_files import check_view, load_image
from nsmae_plugin.formats.lidar_files import read_points, remove_ego_points
from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.geometry.boxes import Boxes, lidar_to_global, make_boxes, to_global
from nsmae_plugin.geometry.calibration import camera_matrices
from nsmae_plugin.runs.loaded_model import LoadedModel
from nsmae_plugin.runs.prediction import BOXES, MAP, Prediction, describe, read_prediction
from nsmae_plugin.runtime import files
from nsmae_plugin.visualization.box_pictures import draw_bev, save_pictures
from nsmae_plugin.visualization.colours import class_colours
from nsmae_plugin.visualization.frame import CameraImage, Frame
from nsmae_plugin.visualization.map_cameras import draw_map_cameras, ground_plane
from nsmae_plugin.visualization.map_pictures import draw_map
from nsmae_plugin.visualization.panels import save_figures

Info = Mapping[str, Any]  # entry of an info file
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A network, its frames, and options for files and pictures.

    Attributes:
        loaded: network and data.
        config: as ``load_config`` gives it.
        threshold: boxes with a lower score are neither written nor drawn.
        network: description of configuration and weights, for captions and files.
        map_threshold: map cells with a lower probability are drawn as free of a class.
        draw_labels: draw the vector map, not the predicted one, into the images.

    Raises:
        ConfigError: the dataset has no info files in nuScenes' layout.
    """

    loaded: LoadedModel
    config: Any
    device: torch.device
    threshold: float
    network: str
    map_threshold: float = 0.5
    draw_labels: bool = False

    def __post_init__(self) -> None:
        infos = getattr(self.loaded.dataset, "infos", None)
        if not infos or "token" not in infos[0]:
            raise ConfigError(
                f"DATA_CONFIG.DATASET {self.config.DATA_CONFIG.DATASET} has no info files in "
                "nuScenes' layout; take MultiModalNuScenesDataset, or put the frames into a folder"
            )

    def info(self, index: int) -> Info:
        """Entry ``index`` of the info files.

        Raises:
            DataError: when there is none.
        """
        self.loaded.check(index)
        return self.loaded.dataset.infos[index]

    def predict(self, index: int) -> Prediction:
        """Boxes, map or both of frame ``index``.

        Raises:
            ConfigError: the network predicts neither.
            NonFiniteError: a number of its prediction is NaN or infinite.
            DataError: there is no such frame, or a file of it is missing or damaged.
        """
        batch = self.loaded.batch_of(index)
        # Not inference_mode: during a training, a module may keep a tensor created here.
        with torch.no_grad():
            predictions = self.loaded.model(host.to_device(batch, self.device))[0]
        result = predictions[0] if isinstance(predictions, list) else {}
        return read_prediction(result, batch, self.config, self.map_threshold)

    def detect(self, index: int) -> Boxes:
        """All boxes of frame ``index``, best first, in its LiDAR frame.

        Raises:
            ConfigError: the network is no detector.
            NonFiniteError, DataError: see :meth:`predict`.
        """
        boxes = self.predict(index).boxes
        if boxes is None:
            raise ConfigError(
                f"MODEL.NAME {self.config.MODEL.NAME} predicts no boxes: it has no DENSE_HEAD"
            )
        return boxes

    def truth(self, index: int) -> Boxes | None:
        """The annotated boxes of the configured classes; None where there are no annotations."""
        info = self.info(index)
        if "gt_boxes" not in info:
            return None
        kept = np.isin(info["gt_names"], self.config.CLASS_NAMES)
        return make_boxes(info["gt_boxes"][kept], info["gt_names"][kept])

    def save(self, index: int, folder: Path) -> list[Path]:
        """Predict, and write into ``folder``; returns ``boxes.json`` and the pictures of the boxes,
        then ``map.npz`` and the pictures of the map: what the network predicts of the two.

        Raises:
            ConfigError, NonFiniteError, DataError: see :meth:`predict`; or the vector map is to be
                drawn, and the sample has none.
        """
        prediction = self.predict(index)
        if self.draw_labels and prediction.map is None:
            raise ConfigError(f"MODEL.NAME {self.config.MODEL.NAME} predicts no map; omit --labels")
        files.make_folder(folder)
        info, boxes = self.info(index), prediction.boxes
        kept = make_boxes([], [], []) if boxes is None else boxes.above(self.threshold)
        frame = self._frame(info, kept, None if boxes is None else self.truth(index))
        written = []
        if boxes is not None:
            _tell(info["token"], boxes, kept, self.threshold)
            written += self._save_boxes(info, frame, folder)
        if prediction.map is not None:
            written += self._save_map(info, frame, prediction.map, folder)
        return written

    def figures(self, index: int) -> dict[str, Figure]:
        """Predict, and draw ``boxes`` from above and the ``map``: what the network predicts.

        Raises:
            ConfigError, NonFiniteError, DataError: see :meth:`predict`.
        """
        prediction = self.predict(index)
        info, boxes = self.info(index), prediction.boxes
        kept = make_boxes([], [], []) if boxes is None else boxes.above(self.threshold)
        frame = self._frame(info, kept, None if boxes is None else self.truth(index))
        figures = {}
        if boxes is not None:
            figures["boxes"] = draw_bev(frame, class_colours(self.config.CLASS_NAMES))
        if prediction.map is not None:
            figures["map"] = draw_map(frame, prediction.map)
        for figure in figures.values():
            figure.suptitle(f"sample {info['token']}", fontsize=10)
        return figures

    def _save_boxes(self, info: Info, frame: Frame, folder: Path) -> list[Path]:
        path = folder / BOXES
        text = json.dumps(self._as_json(info, frame.predicted), indent=1, allow_nan=False)
        files.write_text(path, text + "\n")
        caption = f"{info['token']} · {self.network} · score ≥ {self.threshold:g}"
        colours = class_colours(self.config.CLASS_NAMES)
        return [path, *save_pictures(frame, colours, caption, folder)]

    def _save_map(self, info: Info, frame: Frame, view: BEVMap, folder: Path) -> list[Path]:
        if self.draw_labels and view.labels is None:
            raise DataError(
                f"no vector map of sample {info['token']} is known that --labels could draw"
            )
        _tell_map(info["token"], view)
        path = view.save(folder / MAP, info["token"], self.network, lidar_to_global(info))
        by = f"{self.network} · probability ≥ {self.map_threshold:g}"
        caption = f"{info['token']} · {by}"
        paths = [path, *save_figures({"map": draw_map(frame, view)}, caption, folder)]
        if frame.images:
            figure = draw_map_cameras(frame, view, ground_plane(info), self.draw_labels)
            caption = f"{info['token']} · {'vector map' if self.draw_labels else by}"
            paths += save_figures({"map_cameras": figure}, caption, folder)
        return paths

    def _as_json(self, info: Info, predicted: Boxes) -> dict[str, Any]:
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

    def _frame(self, info: Info, predicted: Boxes, truth: Boxes | None) -> Frame:
        """The frame to draw, including existing sensors that the network does not use."""
        root = Path(self.loaded.dataset.root_path)
        lidar = root / info.get("lidar_path", "")
        points, read = None, getattr(self.loaded.dataset, "read_points", read_points)
        if lidar.is_file():
            points = remove_ego_points(read(lidar, info["token"]))
        x_min, y_min, _, x_max, y_max, _ = map(float, self.config.DATA_CONFIG.POINT_CLOUD_RANGE)
        return Frame(
            images=tuple(
                _camera_image(name, root / camera["data_path"], info["token"], camera)
                for name, camera in info.get("cams", {}).items()
                if (root / camera["data_path"]).is_file()
            ),
            points=points,
            predicted=predicted,
            truth=truth,
            extent=(x_min, x_max, y_min, y_max),
        )


def _camera_image(name: str, path: Path, token: str, camera: Mapping[str, Any]) -> CameraImage:
    image = load_image(path, token)
    check_view(path, token, camera, image.size)
    return CameraImage(name, image, camera_matrices(camera)["lidar2image"])


def _tell(token: str, everything: Boxes, predicted: Boxes, threshold: float) -> None:
    count = f"{len(predicted)} of {len(everything)}"
    scores = () if everything.scores is None else everything.scores
    best = f", the best {max(scores):.3f}" if len(scores) else ""
    logger.info("%s: %s boxes score at least %g%s", token, count, threshold, best)


def _tell_map(token: str, view: BEVMap) -> None:
    """Area share and IoU of each class."""
    shares, iou = view.masks.mean(axis=(1, 2)), view.iou()
    words = []
    for number, name in enumerate(view.classes):
        told = f"{name} {100 * shares[number]:.1f} %"
        if iou is not None and not np.isnan(iou[number]):
            told += f" (IoU {100 * iou[number]:.1f} %)"
        words.append(told)
    logger.info("%s: of the map %s", token, ", ".join(words))
