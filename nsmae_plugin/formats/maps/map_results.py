"""Scores of predicted BEV maps: intersection over union, counted in integers.

A class is scored as mit-han-lab/bevfusion does: a cell belongs to the class when its probability
reaches a threshold, true and false cells are summed over the whole dataset, and the best IoU
over the thresholds is reported. Counts of samples and processes are integers, so sums are exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.formats.maps.bev_map import save_map
from nsmae_plugin.formats.maps.map_classes import describe_drawing, drawing_of
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.runtime import files

SUMMARY = "map_metrics.json"
THRESHOLDS = (0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65)
NAMES = tuple(f"{threshold:.2f}" for threshold in THRESHOLDS)


def count_cells(probabilities: Tensor, labels: Tensor) -> Tensor:
    """True positive, false positive and false negative cells, on the device of the arguments.

    Args:
        probabilities: (B, C, Y, X) finite float; compared with the thresholds in float32; equality
            reaches a threshold.
        labels: (B, C, Y, X) bool.

    Returns:
        (B, C, T, 3) int64 for the T of :data:`THRESHOLDS`.

    Raises:
        DataError: shapes that differ.
    """
    if probabilities.shape != labels.shape:
        raise DataError(
            f"the network predicts maps of shape {tuple(probabilities.shape)}, the labels "
            f"gt_masks_bev have {tuple(labels.shape)}: both must follow DATA_CONFIG.MAP_CONFIG"
        )
    batch, classes = labels.shape[:2]
    thresholds = torch.tensor(THRESHOLDS, device=labels.device)
    # How many thresholds each cell reaches; one histogram of that holds all counts.
    reached = torch.bucketize(probabilities.float(), thresholds, right=True)
    bins = len(THRESHOLDS) + 1
    rows = torch.arange(batch * classes, device=labels.device).view(batch, classes, 1, 1)
    places = (2 * rows + labels.long()) * bins + reached
    histogram = torch.bincount(places.flatten(), minlength=2 * bins * batch * classes)
    histogram = histogram.view(batch, classes, 2, bins)
    positive = histogram.flip(-1).cumsum(-1).flip(-1)  # cells that reach at least so many
    false_positive, true_positive = positive[..., 0, 1:], positive[..., 1, 1:]
    false_negative = positive[..., 1, :1] - true_positive
    return torch.stack([true_positive, false_positive, false_negative], dim=-1)


def summarise(counts: np.ndarray, classes: Sequence[str], samples: int) -> dict[str, Any]:
    """Metrics from the counts of a whole dataset, in plain JSON types.

    Args:
        counts: (C, T, 3) integers, the sums of :func:`count_cells` over all samples.
        classes: C names.

    Returns:
        ``mean_iou`` (of the best IoUs), ``iou`` {class: best IoU}, ``best_threshold`` {class: the
        lowest threshold that gives it}, ``iou_at`` {threshold: {class: IoU}},
        ``classes_without_labels`` and ``samples``. A class without any labelled cell
        has no IoU and appears in that list only.

    Raises:
        DataError: no cell belongs to any class.
    """
    labelled = (counts[:, 0, 0] + counts[:, 0, 2]) > 0
    if not labelled.any():
        raise DataError(
            f"not one cell of {samples} samples belongs to a class of DATA_CONFIG.MAP_CONFIG."
            f"CLASSES ({', '.join(classes)}): there is nothing to score; check CLASSES and the "
            "map expansion"
        )
    present = [name for name, there in zip(classes, labelled, strict=True) if there]
    known = counts[labelled]
    values = known[..., 0] / known.sum(-1)
    best = values.argmax(1)
    return {
        "mean_iou": float(values.max(1).mean()),
        "iou": dict(zip(present, values.max(1).tolist(), strict=True)),
        "best_threshold": {name: THRESHOLDS[i] for name, i in zip(present, best, strict=True)},
        "iou_at": {
            threshold: dict(zip(present, column.tolist(), strict=True))
            for threshold, column in zip(NAMES, values.T, strict=True)
        },
        "classes_without_labels": [name for name in classes if name not in present],
        "samples": samples,
    }


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """``mIoU`` and ``IoU/<class>`` of a summary."""
    return {
        "mIoU": summary["mean_iou"],
        **{f"IoU/{name}": value for name, value in summary["iou"].items()},
    }


def format_table(summary: dict[str, Any]) -> str:
    """A row per class: the best IoU, its threshold, and the IoU at every threshold."""
    columns = "".join(name.rjust(8) for name in NAMES)
    lines = [f"{'map IoU (%)':20}{'best':>8}{'at':>6} {columns}"]
    for name, value in summary["iou"].items():
        cells = "".join(f"{100 * summary['iou_at'][at][name]:8.2f}" for at in NAMES)
        lines.append(f"{name:20}{100 * value:8.2f}{summary['best_threshold'][name]:6.2f} {cells}")
    lines.append(f"{'mIoU':20}{100 * summary['mean_iou']:8.2f}")
    if summary["classes_without_labels"]:
        absent = ", ".join(summary["classes_without_labels"])
        lines.append(f"no cell of the split is {absent}: left out of the mean")
    return "\n".join(lines)


class MapScorer:
    """Scores predicted maps (:class:`nsmae_plugin.data.scoring.Scorer`); records are map counts.

    Args:
        map_config: the section ``MAP_CONFIG``; None where there are no maps to compare with.
    """

    def __init__(self, map_config: Any):
        self.map_config = map_config

    def predicted(self, prediction: Mapping[str, Any]) -> bool:
        return "masks_bev" in prediction

    def measure(
        self, batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
    ) -> list[np.ndarray]:
        """Counts (C, T, 3) int64 of each sample, see :func:`count_cells`.

        Args:
            batch: holds ``metadata`` and ``gt_masks_bev`` (B, C, Y, X), on the network's device.
            predictions: for each sample ``masks_bev`` (C, Y, X), probabilities on the same grid.

        Raises:
            DataError: the data has no labels, or labels of another shape.
            NonFiniteError: naming the sample whose probabilities are NaN or infinite.
        """
        tokens = [one["token"] for one in batch["metadata"]]
        if "gt_masks_bev" not in batch:
            raise DataError(
                f"the network predicts a map, but sample {tokens[0]} has no gt_masks_bev to "
                "compare it with: evaluate frames that have a vector map, with "
                "DATA_CONFIG.MAP_CONFIG"
            )
        probabilities = torch.stack([one["masks_bev"].detach() for one in predictions])
        finite = probabilities.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            raise NonFiniteError(
                f"the map predicted for sample {tokens[finite.index(False)]} is NaN or infinite: "
                "the weights of this network are broken, or its input is"
            )
        labels = torch.as_tensor(batch["gt_masks_bev"], device=probabilities.device).bool()
        return list(count_cells(probabilities, labels).cpu().numpy())

    def save(self, path: Path, token: str, prediction: Mapping[str, Any]) -> None:
        """Write probabilities, classes and grid; see :func:`save_map`."""
        probabilities = prediction["masks_bev"].detach().float().cpu().numpy()
        classes = self.map_config["CLASSES"]
        save_map(path, token, probabilities, classes, map_grid(self.map_config))

    def score(self, records: Sequence[np.ndarray], folder: Path) -> tuple[str, dict[str, float]]:
        """Table and metrics of all samples; writes ``map_metrics.json``.

        Both say how the labels were drawn, without which scores do not compare.

        Raises:
            DataError: no cell belongs to any class.
        """
        total = np.sum(records, axis=0)
        summary = summarise(total, self.map_config["CLASSES"], len(records))
        summary["labels"] = drawing_of(self.map_config)
        files.write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
        table = f"{format_table(summary)}\nlabels: {describe_drawing(summary['labels'])}"
        return table, metrics(summary)
