"""Scores of predicted BEV maps: cells counted sample by sample, IoU over a whole dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.formats.maps import map_iou
from nsmae_plugin.formats.maps.bev_map import save_map
from nsmae_plugin.formats.maps.map_classes import describe_drawing, drawing_of, map_classes
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.runtime import files

SUMMARY = "map_metrics.json"


def map_counts(
    batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> list[np.ndarray]:
    """Of each sample (C, T, 3) int64, as :func:`nsmae_plugin.formats.maps.map_iou.count_cells`.

    Args:
        batch: holds ``metadata`` and ``gt_masks_bev`` (B, C, Y, X), on the device of the network.
        predictions: for each sample ``masks_bev`` (C, Y, X), probabilities on the same grid.

    Raises:
        DataError: the data has no labels, or labels of another shape.
        NonFiniteError: naming the sample whose probabilities are NaN or infinite.
    """
    tokens = [one["token"] for one in batch["metadata"]]
    if "gt_masks_bev" not in batch:
        raise DataError(
            f"the network predicts a map, but sample {tokens[0]} has no gt_masks_bev to compare it "
            "with: evaluate frames that have a vector map, with DATA_CONFIG.MAP_CONFIG"
        )
    probabilities = torch.stack([one["masks_bev"].detach() for one in predictions])
    finite = probabilities.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise NonFiniteError(
            f"the map predicted for sample {tokens[finite.index(False)]} is NaN or infinite: the "
            "weights of this network are broken, or its input is"
        )
    labels = torch.as_tensor(batch["gt_masks_bev"], device=probabilities.device).bool()
    return list(map_iou.count_cells(probabilities, labels).cpu().numpy())


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
        """See :func:`map_counts`."""
        return map_counts(batch, predictions)

    def save(self, path: Path, token: str, prediction: Mapping[str, Any]) -> None:
        """Write probabilities, classes and grid; see :func:`save_map`."""
        probabilities = prediction["masks_bev"].detach().float().cpu().numpy()
        grid, classes = map_grid(self.map_config), map_classes(self.map_config)
        save_map(path, token, probabilities, classes, grid)

    def score(self, records: Sequence[np.ndarray], folder: Path) -> tuple[str, dict[str, float]]:
        """Table and metrics of all samples; writes ``map_metrics.json``.

        Both say how the labels were drawn, without which scores do not compare.

        Raises:
            DataError: no cell belongs to any class.
        """
        total = np.sum(records, axis=0)
        summary = map_iou.summarise(total, self.map_config["CLASSES"], len(records))
        summary["labels"] = drawing_of(self.map_config)
        files.write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
        table = f"{map_iou.format_table(summary)}\nlabels: {describe_drawing(summary['labels'])}"
        return table, map_iou.metrics(summary)
