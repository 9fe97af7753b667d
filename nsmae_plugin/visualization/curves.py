"""Training curves, read from the ``metrics.jsonl`` of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.runtime.reading import GIB, read_bytes

Record = dict[str, Any]

COLUMNS = 3
# Only held-out data has markers: it is recorded much less often than the training loss.
SPLITS = {
    "train": ("training", "tab:blue", ""),
    "validation": ("validation", "tab:green", "."),
    "test": ("held out", "tab:orange", "."),
}
_NOT_METRICS = {"epoch", "step", "split", "samples"}
_BASELINES = {"mean": ("predicting the mean", "--"), "median": ("predicting the median", ":")}
# The metric that each loss term averages, as the baselines name it.
_AVERAGED = {
    "loss_rgb": "rgb_mse",
    "loss_depth": "depth_mae",
    "loss_bev_depth": "bev_depth_mae",
}


def read_metrics(path: Path) -> list[Record]:
    """Read the records of a run, in the order written.

    A last line without a newline is still being written, and left out.

    Raises:
        DataError: the file is missing or has no record, or a line is not a record.
    """
    content = read_bytes(path, "the metrics", "name the folder of a run", GIB)
    text = content.decode("utf-8", errors="replace")
    complete = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    records = [_record(line, f"{path}:{row}") for row, line in enumerate(complete, 1) if line]
    if not records:
        raise DataError(f"{path} holds no metrics yet")
    return records


def _record(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({brief(error)})") from error
    if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
        raise DataError(f"{where} must be an object with 'step' and 'split'")
    return record


def metric_names(records: Sequence[Record]) -> list[str]:
    """Names of all recorded metrics, loss terms first, without the baselines."""
    names = {
        name: None
        for record in records
        for name, value in record.items()
        if name not in _NOT_METRICS
        and not name.startswith("baseline_")
        and isinstance(value, (int, float))
    }
    return sorted(names, key=lambda name: (not name.startswith("loss"), "weighted" in name, name))


def draw_curves(records: Sequence[Record], metrics: Sequence[str] | None = None) -> Figure:
    """Draw one panel per metric over the optimiser steps: training, held-out data and baselines.

    Args:
        records: from :func:`read_metrics`.
        metrics: the metrics to draw, in this order; None draws all.

    Raises:
        DataError: a metric was never recorded.
    """
    known = metric_names(records)
    for name in metrics or ():
        if name not in known:
            raise DataError(f"no metric {name!r} was recorded; recorded are: {', '.join(known)}")
    names = list(metrics or known)
    rows = math.ceil(len(names) / COLUMNS)
    columns = min(COLUMNS, len(names))
    figure = Figure(figsize=(4.6 * columns, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(axes, names, strict=False):
        _draw_metric(panel, records, name)
    for panel in axes[len(names) :]:
        panel.remove()
    return figure


def _draw_metric(axes: Axes, records: Sequence[Record], name: str) -> None:
    for split, (label, colour, marker) in SPLITS.items():
        points = _series(records, name, split)
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=label, color=colour, marker=marker, linewidth=1)
    metric = _AVERAGED.get(name, name)
    for kind, (label, style) in _BASELINES.items():
        name_of_baseline = f"baseline_{kind}_{metric}"
        points = _series(records, name_of_baseline, "test")
        points = points or _series(records, name_of_baseline, "validation")
        if points:
            axes.axhline(points[-1][1], label=label, color="0.4", linestyle=style, linewidth=1)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("optimiser step", fontsize=8)
    axes.set_ylabel(unit(name), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _series(records: Sequence[Record], name: str, split: str) -> list[tuple[int, float]]:
    return [
        (record["step"], record[name])
        for record in records
        if record["split"] == split and name in record
    ]


def unit(name: str) -> str:
    """Unit of a metric, as an axis label."""
    if "psnr" in name:
        return "dB"
    if name.startswith("weighted") or name == "loss":
        return "weighted loss"
    if name.endswith("rgb") or "mse" in name:
        return "squared error"
    return "m" if "depth" in name else ""
