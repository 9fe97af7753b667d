"""Predicted BEV maps: the counts of a batch, and the score of a whole data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.formats.maps import map_iou
from nsmae_plugin.formats.maps.map_classes import describe_drawing, drawing_of
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


def score(
    annotations: Sequence[Mapping[str, Any]], map_cfg: Mapping[str, Any], folder: Path
) -> tuple[str, dict[str, float]]:
    """Table and metrics of all samples of a data set; writes ``map_metrics.json``.

    Both say how the labels were drawn, without which scores do not compare.

    Args:
        annotations: of every sample, each with ``map_counts``.
        map_cfg: the section ``MAP_CONFIG``, whose ``CLASSES`` are in the order of the counts.

    Raises:
        DataError: no cell belongs to any class.
    """
    total = np.sum([one["map_counts"] for one in annotations], axis=0)
    summary = map_iou.summarise(total, map_cfg["CLASSES"], len(annotations))
    summary["labels"] = drawing_of(map_cfg)
    files.write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    table = f"{map_iou.format_table(summary)}\nlabels: {describe_drawing(summary['labels'])}"
    return table, map_iou.metrics(summary)
