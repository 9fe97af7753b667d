"""A nuScenes data set's own methods that score what a network predicts: boxes, maps, renderings."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.evaluation import reconstruction
from nsmae_plugin.formats.maps import map_results
from nsmae_plugin.formats.maps.bev_map import save_map
from nsmae_plugin.formats.maps.map_classes import map_classes
from nsmae_plugin.formats.nuscenes import benchmark
from nsmae_plugin.formats.nuscenes.benchmark import Benchmark
from nsmae_plugin.formats.nuscenes.results import (
    ATTRIBUTES,
    check_samples,
    make_results,
    prediction_dicts,
)
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.file_names import file_name

RESULTS = "results_nusc.json"


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

    def generate_prediction_dicts(
        self,
        batch_dict: Mapping[str, Any],
        pred_dicts: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """As :func:`prediction_dicts`, with what :meth:`evaluation` adds up of maps and renderings.

        A sample with a predicted map gets ``map_counts``
        (:func:`nsmae_plugin.formats.maps.map_results.map_counts`), one that was rendered
        ``reconstruction`` (:func:`nsmae_plugin.evaluation.reconstruction.measure`).

        With ``output_path`` a sample's boxes go to ``<token>.json``, that holds ``token`` and,
        in the LiDAR frame, ``names``, ``scores`` and ``boxes``; its map goes to ``<token>.npz``,
        see :func:`~nsmae_plugin.formats.maps.bev_map.save_map`, and so do its renderings
        and their targets, under the network's names. (The stem of a LiDAR
        file, which OpenPCDet takes for ``frame_id``, may be the same in two scenes.)

        Raises:
            DataError, NonFiniteError: from those functions; a token that cannot name a file.
        """
        annotations = prediction_dicts(batch_dict, pred_dicts, class_names)
        if "masks_bev" in pred_dicts[0]:
            counts = map_results.map_counts(batch_dict, pred_dicts)
            for annotation, one in zip(annotations, counts, strict=True):
                annotation["map_counts"] = one
        if reconstruction.rendered(pred_dicts[0]):
            for annotation, prediction in zip(annotations, pred_dicts, strict=True):
                frame = annotation["frame_id"]
                annotation["reconstruction"] = reconstruction.measure(prediction, frame)
        if output_path is not None:
            for annotation, prediction in zip(annotations, pred_dicts, strict=True):
                self._save(annotation, prediction, output_path)
        return annotations

    def _save(
        self, annotation: Mapping[str, Any], prediction: Mapping[str, Any], folder: Path
    ) -> None:
        token = annotation["metadata"]["token"]
        path = folder / file_name(token, "the token of a sample")
        if "boxes_lidar" in annotation:
            content = {
                "token": token,
                "names": annotation["name"].tolist(),
                "scores": annotation["score"].tolist(),
                "boxes": annotation["boxes_lidar"].tolist(),
            }
            files.write_text(f"{path}.json", json.dumps(content))
        if "masks_bev" in prediction:
            probabilities = prediction["masks_bev"].detach().float().cpu().numpy()
            grid = map_grid(self.dataset_cfg.MAP_CONFIG)
            classes = map_classes(self.dataset_cfg.MAP_CONFIG)
            save_map(Path(f"{path}.npz"), token, probabilities, classes, grid)
        if reconstruction.rendered(prediction):
            reconstruction.save(Path(f"{path}.npz"), token, prediction)

    def benchmark(self, boxes: bool = True) -> Benchmark:
        """What is going to be evaluated, checked before a network runs for hours.

        Args:
            boxes: whether boxes are, and not a map alone.

        Raises:
            ConfigError: a class that nuScenes does not evaluate, or a split that it does not know.
            DataError: the info files hold other samples than the split, or no annotations.
        """
        foreign = [name for name in self.class_names if name not in ATTRIBUTES]
        if boxes and foreign:
            raise ConfigError(
                f"CLASS_NAMES: the nuScenes benchmark has no class {', '.join(foreign)}; it has "
                f"{', '.join(ATTRIBUTES)}"
            )
        split = self.dataset_cfg.DATA_SPLIT["test"]
        found = benchmark.find(self.root_path, self.dataset_cfg.VERSION, split)
        found.check_samples([info["token"] for info in self.infos], "the info files hold")
        labelled = any(len(info.get("gt_names", ())) for info in self.infos)
        if boxes and found.has_labels and not labelled:
            raise DataError(
                f"no sample of the split {found.split} of {self.root_path} has an annotated box: "
                "there is nothing to score; evaluate a labelled split"
            )
        return found

    def evaluation(
        self, det_annos: Sequence[Mapping[str, Any]], class_names: Sequence[str], **kwargs: Any
    ) -> tuple[str, dict[str, float]]:
        """Score boxes by the devkit, maps by their IoU and renderings by their errors.

        What was predicted is scored.

        Args:
            det_annos: of every sample of the data set exactly once, as
                :meth:`generate_prediction_dicts` makes them.
            kwargs: ``output_path``, where ``results_nusc.json`` and the devkit's files,
                ``map_metrics.json`` or ``reconstruction_metrics.json`` go; the rest is OpenPCDet's
                and not needed.

        Returns:
            Text with the tables, and ``{metric: value}``; for boxes in v1.0-test, which has no
            public annotations, a remark and no metrics.

        Raises:
            ConfigError, DataError: see :meth:`benchmark`, :func:`make_results` and
                :func:`nsmae_plugin.formats.maps.map_results.score`; nothing was predicted.
            NonFiniteError: a box is NaN or infinite.
        """
        folder = Path(kwargs["output_path"])
        files.make_folder(folder)
        check_samples(det_annos, self.infos)
        texts: list[str] = []
        metrics: dict[str, float] = {}
        if "boxes_lidar" in det_annos[0]:
            text, found = self._score_boxes(det_annos, class_names, folder)
            texts.append(text)
            metrics |= found
        if "map_counts" in det_annos[0]:
            text, found = map_results.score(det_annos, self.dataset_cfg.MAP_CONFIG, folder)
            texts.append(text)
            metrics |= found
        if "reconstruction" in det_annos[0]:
            text, found = reconstruction.score(det_annos, folder)
            texts.append(text)
            metrics |= found
        if not texts:
            raise DataError("the network predicts no pred_boxes, no masks_bev and renders nothing")
        return "\n\n".join(texts), metrics

    def _score_boxes(
        self, annotations: Sequence[Mapping[str, Any]], class_names: Sequence[str], folder: Path
    ) -> tuple[str, dict[str, float]]:
        found = self.benchmark()
        content = make_results(annotations, self.infos, self.use_camera, self.use_lidar)
        path = folder / RESULTS
        files.write_text(path, json.dumps(content))
        if not found.has_labels:
            return f"no annotations in {found.version}: submit {path}", {}
        text, metrics = benchmark.score(found, path, folder)
        absent = [name for name in ATTRIBUTES if name not in class_names]
        if absent:
            text = f"not in CLASS_NAMES, counted with AP 0: {', '.join(absent)}\n\n{text}"
        return text, metrics
