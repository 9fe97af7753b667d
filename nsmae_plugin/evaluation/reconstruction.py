"""How well a pre-training network reconstructs a data set, beside what trivial predictors reach.

Everything is kept as float64 sums and counts over the cells of each sample, added up over all
samples and all processes, and divided once at the end: the result does not depend on the batch size
or on how the data set is sharded. Cells are those of the feature grid (camera view) and of the BEV
feature grid.

A metric whose set of cells is empty (no camera, no LiDAR, nothing hidden) is left out.
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
from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.evaluation.reconstruction_table import format_table
from nsmae_plugin.models.scores import (
    ColourTotal,
    DepthTotal,
    MeanTotal,
    Record,
    cells_of_patches,
    colour_record,
    depth_record,
)
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.files import replacing, write_text

SUMMARY = "reconstruction_metrics.json"
_DEPTH_VIEWS = {"depth": "target_depth", "bev_depth": "target_bev"}


def evaluate(
    model: nn.Module, loader: Iterable[dict[str, Any]], device: torch.device | str
) -> dict[str, float]:
    """Reconstruction metrics of ``model`` over all of ``loader``.

    Under ``torch.distributed`` every process evaluates its shard and all return the joint result.
    The model is put into evaluation mode and given back in the mode it came in.

    Args:
        model: returns ``(pred_dicts, {})`` in evaluation mode, see
            :class:`~nsmae_plugin.detectors.nsmae.NSMAE`.
        loader: collated batches of numpy arrays.
        device: where the model lives.

    Returns:
        ``{name: value}``, with

        - ``rgb_mse``, ``rgb_psnr`` and the same with ``_masked`` / ``_visible``: the colour
          rendered in all cells that the images fill, in those of them within hidden and within
          visible patches; colours in [0, 1], PSNR in dB with peak 1;
        - ``depth_mae`` and ``depth_mae_hidden`` / ``_visible``: mean absolute error in metres over
          all target cells, those without and those with a LiDAR hint in the input;
          ``bev_depth_mae*`` likewise in the view from above;
        - ``opacity``, ``bev_opacity``: mean over all rays;
        - ``loss_*``, ``weighted_*``: the loss terms;
        - ``baseline_mean_*``: the same errors for predicting the mean colour (per channel) or the
          mean depth of the evaluated targets everywhere; ``baseline_median_*depth_mae*`` for the
          median depth, the constant with the least mean absolute error;
        - ``baseline_mean_depth``, ``baseline_median_depth`` and ``bev_`` ones: those constants (m);
        - ``samples``: how many samples were seen.

    Raises:
        DataError: when the loader is empty in every process.
        NonFiniteError: when a rendering is NaN or infinite, naming the sample; in every process.
    """
    total = ReconstructionMeter()
    for part in distributed.on_all(lambda: _measure_shard(model, loader, device)):
        total.join(part)
    return total.compute()


class ReconstructionScorer:
    """Scores renderings, as datasets score predictions (:mod:`nsmae_plugin.data.scoring`)."""

    def predicted(self, prediction: Mapping[str, Any]) -> bool:
        return rendered(prediction)

    def measure(
        self, batch: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The sums of every sample, see :func:`measure`."""
        frames = map(str, batch["frame_id"])
        return [measure(*pair) for pair in zip(predictions, frames, strict=True)]

    def save(self, path: Path, token: str, prediction: Mapping[str, Any]) -> None:
        save(path, token, prediction)

    def score(
        self, records: Sequence[Mapping[str, Any]], folder: Path
    ) -> tuple[str, dict[str, float]]:
        """Table and metrics of all samples; writes ``reconstruction_metrics.json``."""
        meter = ReconstructionMeter()
        for record in records:
            meter.add(record)
        metrics = meter.compute()
        write_text(folder / SUMMARY, json.dumps(metrics, indent=1) + "\n")
        return format_table({"network": metrics}), metrics


def rendered(sample: Mapping[str, Any]) -> bool:
    """Return whether a sample holds renderings of a network."""
    return any(name.startswith("rendered_") for name in sample)


def save(path: Path, token: str, sample: Mapping[str, Any]) -> None:
    """Write the renderings of a sample and their targets to a ``.npz``, with its ``token``."""
    arrays = {
        name: value.detach().cpu().numpy()
        for name, value in sample.items()
        if name.startswith(("rendered_", "target_"))
    }
    with replacing(path) as file:
        np.savez_compressed(file, token=np.array(token), **arrays)


def _measure_shard(
    model: nn.Module, loader: Iterable[dict[str, Any]], device: torch.device | str
) -> ReconstructionMeter:
    # The wrapper's forward synchronises buffers, and would wait for processes with fewer batches.
    model = distributed.unwrap(model)
    meter = ReconstructionMeter()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in loader:
                samples, _ = model(host.to_device(batch, device))
                for frame, sample in zip(batch["frame_id"], samples, strict=True):
                    meter.add(measure(sample, frame))
    finally:
        model.train(was_training)
    return meter


def measure(sample: Mapping[str, Any], frame: str) -> dict[str, Any]:
    """The sums of one sample that a network has rendered, in plain numbers and arrays.

    Args:
        sample: what :class:`~nsmae_plugin.detectors.nsmae.NSMAE` predicts for it.
        frame: its name, for the error message.

    Returns:
        ``rgb`` (:func:`~nsmae_plugin.models.scores.colour_record`), ``depth`` and ``bev_depth``
        (:func:`~nsmae_plugin.models.scores.depth_record`), as far as they are rendered, and
        ``means`` {name: (mean, weight)}.

    Raises:
        NonFiniteError: a rendering is NaN or infinite.
    """
    _check_finite(sample, frame)
    record: dict[str, Any] = {}
    cells = {}
    if "rendered_rgb" in sample:
        record["rgb"] = _colour(sample)
        cells["rgb"] = float(record["rgb"]["cells"][0])
    for view, target in _DEPTH_VIEWS.items():
        if f"rendered_{view}" in sample and f"{target}_mask" in sample:
            record[view] = depth_record(
                sample[f"rendered_{view}"],
                sample[f"target_{view}"],
                sample[f"{target}_mask"],
                sample[f"{target}_hidden"],
            )
            cells[view] = float(sample[f"{target}_mask"].sum())
    return {**record, "means": _means(sample, cells)}


def _colour(sample: Mapping[str, Any]) -> Record:
    target, filled = sample["target_rgb"], sample["target_rgb_mask"]
    hidden, visible = torch.zeros_like(filled), filled
    if "image_patch_mask" in sample:
        hidden, visible = cells_of_patches(sample["image_patch_mask"], tuple(target.shape[-2:]))
    cells = (filled, hidden & filled, visible & filled)
    return colour_record(sample["rendered_rgb"], target, cells)


def _means(sample: Mapping[str, Any], cells: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Mean and weight of the opacities, and of the loss terms, which are means over ``cells``."""
    means = {}
    for name in ("opacity", "bev_opacity"):
        opacity = sample.get(f"rendered_{name}")
        if opacity is not None:
            means[name] = (float(opacity.double().mean()), float(opacity.numel()))
    for term, value in sample.get("loss_terms", {}).items():
        kind = term.removeprefix("loss_").removeprefix("weighted_")
        means[term] = (value, cells.get(kind, 1.0))
    return means


def _check_finite(sample: Mapping[str, Any], frame: str) -> None:
    for name, value in sample.items():
        if name.startswith("rendered_") and not torch.isfinite(value).all():
            raise NonFiniteError(
                f"{name} is NaN or infinite in frame {frame}: "
                "the weights of this network are broken, or its input is"
            )


class ReconstructionMeter:
    """Adds up the metrics of :func:`evaluate`, sample by sample."""

    def __init__(self) -> None:
        self._samples = 0
        self._colour = ColourTotal("rgb")
        self._depths = {view: DepthTotal(view) for view in _DEPTH_VIEWS}
        self._means: dict[str, MeanTotal] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a sample, as :func:`measure` gives it."""
        self._samples += 1
        if "rgb" in record:
            self._colour.add(record["rgb"])
        for view, total in self._depths.items():
            if view in record:
                total.add(record[view])
        for name, (mean, weight) in record["means"].items():
            self._means.setdefault(name, MeanTotal(name)).add((mean, weight))

    def join(self, other: ReconstructionMeter) -> None:
        """Add the samples of another process."""
        self._samples += other._samples
        self._colour.join(other._colour)
        for view, total in self._depths.items():
            total.join(other._depths[view])
        for name, mean in other._means.items():
            self._means.setdefault(name, MeanTotal(name)).join(mean)

    def compute(self) -> dict[str, float]:
        """The metrics so far.

        Raises:
            DataError: when there was no sample.
        """
        if not self._samples:
            raise DataError("nothing to evaluate: the loader gave no batch (is the split empty?)")
        result = self._colour.metrics()
        for total in (*self._depths.values(), *self._means.values()):
            result.update(total.metrics())
        result["samples"] = float(self._samples)
        return result
