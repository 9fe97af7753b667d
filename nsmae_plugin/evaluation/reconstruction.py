"""Reconstruction metrics of a pre-training network, and of trivial predictors for comparison.

The render heads measure every sample in float64 sums and counts. These are added up over all
samples and processes and divided once at the end, so the metrics depend neither on the batch size
nor on how the dataset is sharded. A metric over an empty set of cells (no camera, no LiDAR, nothing
hidden) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, DataError, NonFiniteError
from nsmae_plugin.evaluation.prediction_loop import evaluating
from nsmae_plugin.models.render_head import RenderHead
from nsmae_plugin.models.scores import MeanTotal, Total
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.files import replacing, write_text

SUMMARY = "reconstruction_metrics.json"
_PREDICTORS = {"mean": "mean predictor", "median": "median predictor"}


def evaluate(
    model: nn.Module, loader: Iterable[dict[str, Any]], device: torch.device | str
) -> dict[str, float]:
    """Reconstruction metrics of ``model`` over all of ``loader``.

    Under ``torch.distributed`` every process evaluates its shard, and all return the joint result.
    The model runs in evaluation mode; its mode is restored afterwards.

    Args:
        model: returns ``(pred_dicts, {})`` in evaluation mode, see
            :class:`~nsmae_plugin.detectors.nsmae.NSMAE`.
        loader: collated batches of numpy arrays.
        device: device of the model.

    Returns:
        ``{name: value}``: the metrics of its render heads (``totals``), and

        - ``loss_*``, ``weighted_*``: the loss terms, unweighted and weighted;
        - ``baseline_mean_*``, ``baseline_median_*``: the metrics of predicting the mean or the
          median of the evaluated targets everywhere;
        - ``samples``: number of samples.

    Raises:
        DataError: the loader is empty in every process.
        NonFiniteError: a rendering is NaN or infinite; names the sample; in every process.
    """
    meter = ReconstructionMeter()
    for part in distributed.on_all(lambda: _measure_shard(model, loader, device)):
        meter.join(part)
    return meter.compute()


class ReconstructionScorer:
    """Scores renderings in a dataset's evaluation; a :class:`nsmae_plugin.data.scoring.Scorer`."""

    def predicted(self, prediction: Mapping[str, Any]) -> bool:
        """Return whether a prediction holds renderings."""
        return bool(prediction.get("render_heads"))

    def measure(
        self, batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The record of every sample, see :func:`measure`."""
        frames = map(str, batch["frame_id"])
        return [measure(*pair) for pair in zip(predictions, frames, strict=True)]

    def save(self, path: Path, token: str, prediction: Mapping[str, Any]) -> None:
        """Write the renderings of a sample and their targets to a ``.npz``, with its ``token``."""
        arrays = {
            name: value.detach().cpu().numpy()
            for name, value in prediction.items()
            if name.startswith(("rendered_", "target_"))
        }
        with replacing(path) as file:
            np.savez_compressed(file, token=np.array(token), **arrays)

    def score(
        self, records: Sequence[Mapping[str, Any]], folder: Path
    ) -> tuple[str, dict[str, float]]:
        """Table and metrics of all samples; writes ``reconstruction_metrics.json``."""
        meter = ReconstructionMeter()
        for record in records:
            meter.add(record)
        metrics = meter.compute()
        write_text(folder / SUMMARY, json.dumps(metrics, indent=1) + "\n")
        heads = [host.lookup("render_head", name) for name in records[0]["heads"]]
        return format_table({"network": metrics}, heads), metrics


def _measure_shard(
    model: nn.Module, loader: Iterable[dict[str, Any]], device: torch.device | str
) -> ReconstructionMeter:
    meter = ReconstructionMeter()
    with evaluating(model) as network, torch.inference_mode():
        for batch in loader:
            samples, _ = network(host.to_device(batch, device))
            for frame, sample in zip(batch["frame_id"], samples, strict=True):
                meter.add(measure(sample, frame))
    return meter


def measure(sample: Mapping[str, Any], frame: str) -> dict[str, Any]:
    """The record of one sample that a network has rendered, in plain numbers and arrays.

    Args:
        sample: prediction of :class:`~nsmae_plugin.detectors.nsmae.NSMAE`.
        frame: name of the sample, for the error message.

    Returns:
        ``heads`` {NAME: record of the head} and ``losses`` {term: (mean, number of cells)}.

    Raises:
        ConfigError: the network renders nothing.
        NonFiniteError: a rendering is NaN or infinite.
    """
    _check_finite(sample, frame)
    if not sample.get("render_heads"):
        raise ConfigError("the network renders nothing: it has no MODEL.RENDER_HEADS")
    heads = {name: host.lookup("render_head", name) for name in sample["render_heads"]}
    cells = {
        term: float(mask.sum())
        for head in heads.values()
        for term, mask in head.cells(sample).items()
    }
    losses = {
        name: (value, cells.get(name.removeprefix("loss_").removeprefix("weighted_"), 1.0))
        for name, value in sample.get("loss_terms", {}).items()
    }
    return {"heads": {name: head.record(sample) for name, head in heads.items()}, "losses": losses}


def _check_finite(sample: Mapping[str, Any], frame: str) -> None:
    for name, value in sample.items():
        if name.startswith("rendered_") and not torch.isfinite(value).all():
            raise NonFiniteError(
                f"{name} is NaN or infinite in frame {frame}: "
                "the weights of this network are broken, or its input is"
            )


class ReconstructionMeter:
    """Adds up the records of samples, and computes the metrics of :func:`evaluate`."""

    def __init__(self) -> None:
        self._samples = 0
        self._heads: dict[str, dict[str, Total]] = {}
        self._losses: dict[str, MeanTotal] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a sample; ``record`` is from :func:`measure`."""
        self._samples += 1
        for name, parts in record["heads"].items():
            for key, part in parts.items():
                self._totals(name)[key].add(part)
        for term, mean in record["losses"].items():
            self._losses.setdefault(term, MeanTotal(term)).add(mean)

    def join(self, other: ReconstructionMeter) -> None:
        """Add the samples of another process."""
        self._samples += other._samples
        for name, totals in other._heads.items():
            for key, total in totals.items():
                self._totals(name)[key].join(total)
        for term, total in other._losses.items():
            self._losses.setdefault(term, MeanTotal(term)).join(total)

    def compute(self) -> dict[str, float]:
        """The metrics of all samples so far.

        Raises:
            DataError: there are none.
        """
        if not self._samples:
            raise DataError("nothing to evaluate: the loader gave no batch (is the split empty?)")
        totals = [total for part in self._heads.values() for total in part.values()]
        result = {}
        for total in (*totals, *self._losses.values()):
            result.update(total.metrics())
        result["samples"] = float(self._samples)
        return result

    def _totals(self, name: str) -> dict[str, Total]:
        if name not in self._heads:
            self._heads[name] = host.lookup("render_head", name).totals()
        return self._heads[name]


def format_table(
    networks: Mapping[str, Mapping[str, float]], heads: Iterable[RenderHead | type[RenderHead]]
) -> str:
    """Text table with one row per metric that any network has.

    Metrics that also exist for a trivial predictor come first.

    Args:
        networks: column title → metrics from :func:`evaluate`, all on the
            same data, so that the predictors of the first network are those of all.
        heads: the render heads of the networks, which title the rows.
    """
    columns = dict(networks)
    reference = next(iter(networks.values()))
    for kind, title in _PREDICTORS.items():
        prefix = f"baseline_{kind}_"
        columns[title] = {
            name.removeprefix(prefix): value
            for name, value in reference.items()
            if name.startswith(prefix)
        }
    titles = {name: title for head in heads for name, title in head.rows.items()}
    names = [name for name in titles if any(name in metrics for metrics in networks.values())]
    predicted = {name for title in _PREDICTORS.values() for name in columns[title]}
    names.sort(key=lambda name: name not in predicted)
    rows = [
        [titles[name], *(_number(metrics.get(name)) for metrics in columns.values())]
        for name in names
    ]
    return _align([["", *columns], *rows])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _align(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
