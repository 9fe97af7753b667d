"""Scores of what networks predict for the frames of a dataset: boxes, maps, reconstructions.

A dataset holds a :class:`Scoring`, to which it delegates OpenPCDet's two methods of evaluation.
Boxes are scored by the dataset's own benchmark, everything else by a :class:`Scorer`: of maps, and
those of :func:`register_scorer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.maps.map_results import MapScorer
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.file_names import file_name

SHOWN = 3  # samples that an error message spells out

Frames = Sequence[Mapping[str, Any]]
Scores = tuple[str, dict[str, float]]


class Scorer(Protocol):
    """Scores one kind of prediction, from records of single samples that are plain data."""

    def predicted(self, prediction: Mapping[str, Any]) -> bool:
        """Return whether a sample's prediction is of this kind."""

    def measure(
        self, batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """A record for each sample of a batch."""

    def save(self, path: Path, token: str, prediction: Mapping[str, Any]) -> None:
        """Write the prediction of one sample to a ``.npz``."""

    def score(self, records: Sequence[Any], folder: Path) -> Scores:
        """Table and metrics of all samples; writes a JSON file into ``folder``."""


class Benchmark(Protocol):
    """Scores boxes by the rules of a dataset."""

    def check(self, infos: Frames, class_names: Sequence[str], boxes: bool) -> Any:
        """Check before the evaluation that it will be possible; ``boxes``: of boxes as well."""

    def score(
        self,
        annotations: Sequence[Mapping[str, Any]],
        infos: Frames,
        class_names: Sequence[str],
        folder: Path,
    ) -> Scores:
        """Table and metrics of the boxes in all annotations."""


_registered: dict[str, Scorer] = {}


def register_scorer(key: str, scorer: Scorer) -> None:
    """Register a scorer for another kind of prediction, with records under ``key``."""
    _registered[key] = scorer


class Scoring:
    """Annotates the samples of a dataset with predictions, and scores them.

    Args:
        dataset: its name, for messages.
        map_config: the section ``MAP_CONFIG``, or None.
        benchmark: of boxes, or None where the dataset has none.
    """

    def __init__(self, dataset: str, map_config: Any, benchmark: Benchmark | None):
        self.dataset, self.benchmark = dataset, benchmark
        self._maps = MapScorer(map_config)

    @property
    def scorers(self) -> dict[str, Scorer]:
        """Key of the records in an annotation → their scorer."""
        return {"map_counts": self._maps, **_registered}

    def check(self, infos: Frames, class_names: Sequence[str], boxes: bool = True) -> Any:
        """Check before the evaluation that its predictions can be scored.

        Raises:
            ConfigError, DataError: from the benchmark; or there is none, and ``boxes`` to score.
        """
        if self.benchmark is not None:
            return self.benchmark.check(infos, class_names, boxes)
        if boxes:
            raise ConfigError(
                f"{self.dataset} has no benchmark that could score boxes; `nsmae infer` writes "
                "and draws them"
            )
        return None

    def annotate(
        self,
        batch: Mapping[str, Any],
        predictions: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """As :func:`box_annotations`, with the records of the scorers.

        With ``output_path`` a sample's boxes go to ``<token>.json``, which holds ``token`` and, in
        the LiDAR frame, ``names``, ``scores`` and ``boxes``; its map, or what was rendered, goes to
        ``<token>.npz``.

        Raises:
            DataError, NonFiniteError: from the scorers; a token that cannot name a file.
        """
        annotations = box_annotations(batch, predictions, class_names)
        for key, scorer in self.scorers.items():
            if scorer.predicted(predictions[0]):
                records = scorer.measure(batch, predictions)
                for annotation, record in zip(annotations, records, strict=True):
                    annotation[key] = record
        if output_path is not None:
            for annotation, prediction in zip(annotations, predictions, strict=True):
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
        for scorer in self.scorers.values():
            if scorer.predicted(prediction):
                scorer.save(Path(f"{path}.npz"), token, prediction)

    def score(
        self,
        annotations: Sequence[Mapping[str, Any]],
        infos: Frames,
        class_names: Sequence[str],
        folder: Path,
    ) -> Scores:
        """Score the predictions; files with details are written into ``folder``.

        Args:
            annotations: of every frame of ``infos`` exactly once, as :meth:`annotate` makes them.

        Returns:
            Text with the tables, and ``{metric: value}``.

        Raises:
            ConfigError, DataError: see :meth:`check`; nothing was predicted.
            NonFiniteError: a box is NaN or infinite.
        """
        files.make_folder(folder)
        check_samples(annotations, infos)
        found = []
        if "boxes_lidar" in annotations[0]:
            self.check(infos, class_names)
            assert self.benchmark is not None
            found.append(self.benchmark.score(annotations, infos, class_names, folder))
        for key, scorer in self.scorers.items():
            if key in annotations[0]:
                found.append(scorer.score([one[key] for one in annotations], folder))
        if not found:
            raise DataError("the network predicts no pred_boxes, no masks_bev and renders nothing")
        metrics = {name: value for _, part in found for name, value in part.items()}
        return "\n\n".join(text for text, _ in found), metrics


def box_annotations(
    batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The predicted boxes of each sample of a batch, in OpenPCDet's layout of annotations.

    Args:
        batch: holds ``frame_id`` and ``metadata`` of every sample.
        predictions: for each sample, unless the network detects nothing, tensors ``pred_boxes``
            (n, 7 or 9), ``pred_scores`` (n,) and ``pred_labels`` (n,), counted from 1.

    Returns:
        For each sample ``frame_id``, ``metadata``, ``name`` (n,) str and, where boxes are
        predicted, ``score`` (n,), ``boxes_lidar`` (n, 7 or 9) and ``pred_labels`` (n,).
    """
    return [
        {**_boxes(one, class_names), "frame_id": str(frame), "metadata": metadata}
        for one, frame, metadata in zip(
            predictions, batch["frame_id"], batch["metadata"], strict=True
        )
    ]


def _boxes(one: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    if "pred_boxes" not in one:
        return {"name": np.zeros(0, dtype=str)}  # OpenPCDet's evaluation counts them
    labels = one["pred_labels"].detach().cpu().numpy().astype(np.int64)
    return {
        "name": np.array(class_names)[labels - 1],
        "score": one["pred_scores"].detach().float().cpu().numpy(),
        "boxes_lidar": one["pred_boxes"].detach().float().cpu().numpy(),
        "pred_labels": labels,
    }


def check_samples(annotations: Iterable[Mapping[str, Any]], infos: Frames) -> None:
    """Check that every frame of ``infos`` is annotated exactly once.

    Raises:
        DataError: a frame has no annotation, more than one, or is not in ``infos``.
    """
    wanted = {info["token"] for info in infos}
    found: set[str] = set()
    for annotation in annotations:
        token = annotation["metadata"]["token"]
        if token in found or token not in wanted:
            problem = "twice" if token in found else "but the dataset has no such sample"
            raise DataError(f"there are predictions for sample {token} {problem}")
        found.add(token)
    missing = sorted(wanted - found)
    if missing:
        raise DataError(
            f"there are no predictions for {len(missing)} of {len(wanted)} samples "
            f"({', '.join(missing[:SHOWN])})"
        )
