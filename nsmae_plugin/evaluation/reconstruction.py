"""How well a pre-training network reconstructs a data set, beside what trivial predictors reach.

Everything is accumulated as float64 sums and counts over cells, over all batches and all processes,
and divided once at the end: the result does not depend on the batch size or on how the data set is
sharded. Cells are those of the feature grid (camera view) and of the BEV feature grid.

A metric whose set of cells is empty (no camera, no LiDAR, nothing hidden) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsmae_plugin import host
from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.evaluation.sums import ColourSums, DepthSums, MeanSums
from nsmae_plugin.training import distributed

_DEPTH_VIEWS = {"depth": "target_depth", "bev_depth": "target_bev"}


def evaluate(
    model: nn.Module, loader: Iterable[dict[str, Any]], device: torch.device | str
) -> dict[str, float]:
    """Reconstruction metrics of ``model`` over all of ``loader``.

    Under ``torch.distributed`` every process evaluates its shard and all return the joint result.
    The model is put into evaluation mode and given back in the mode it came in.

    Args:
        model: returns ``(batch_dict, {})`` in evaluation mode, with ``rendered_*``, ``target_*``
            and ``loss_terms``.
        loader: collated batches of numpy arrays.
        device: where the model lives.

    Returns:
        ``{name: value}``, with

        - ``rgb_mse``, ``rgb_psnr`` and the same with ``_masked`` / ``_visible``: the colour
          rendered in all cells, in those within hidden and within visible patches; colours in
          [0, 1], PSNR in dB with peak 1;
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
        NonFiniteError: when a rendering is NaN or infinite, naming the samples; in every process.
    """
    meter = ReconstructionMeter(device)
    distributed.on_all(lambda: _measure_shard(model, loader, device, meter))
    meter.all_reduce()
    return meter.compute()


def _measure_shard(
    model: nn.Module,
    loader: Iterable[dict[str, Any]],
    device: torch.device | str,
    meter: ReconstructionMeter,
) -> None:
    # The wrapper's forward synchronises buffers, and would wait for processes with fewer batches.
    model = distributed.bare(model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in loader:
                rendered, _ = model(host.to_device(batch, device))
                meter.update(rendered)
    finally:
        model.train(was_training)


def cells_of_patches(patch_mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cells that lie wholly inside hidden, and wholly inside visible, image patches.

    Args:
        patch_mask: (..., Hp, Wp) bool, True where the patch is hidden.
        grid: (fH, fW) of the feature grid over the same image.

    Returns:
        ``hidden, visible``, each (..., fH, fW) bool. A cell across both kinds of patch is in
        neither.
    """
    maps = patch_mask.reshape(-1, 1, *patch_mask.shape[-2:]).float()
    share = F.interpolate(maps, size=grid, mode="area")
    share = share.reshape(*patch_mask.shape[:-2], *grid)
    tolerance = 1e-5  # the pooled average of ones may miss 1 by rounding
    return share > 1 - tolerance, share < tolerance


class ReconstructionMeter:
    """Accumulates the metrics of :func:`evaluate`, batch by batch."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._samples = MeanSums(device)
        self._colour = ColourSums(device)
        self._depths = {name: DepthSums(device) for name in _DEPTH_VIEWS}
        self._means: dict[str, MeanSums] = {}

    def update(self, batch: Mapping[str, Any]) -> None:
        """Add a batch that the network has rendered.

        Raises:
            NonFiniteError: when a rendering is NaN or infinite.
        """
        _check_finite(batch)
        self._samples.add(1.0, batch["batch_size"])
        cells = {"rgb": self._add_colour(batch)}
        for name, target in _DEPTH_VIEWS.items():
            cells[name] = self._add_depth(batch, name, target)
        for name in ("opacity", "bev_opacity"):
            opacity = batch.get(f"rendered_{name}")
            if opacity is not None:
                self._mean(name).add(opacity.double().mean(), opacity.numel())
        for term, value in batch.get("loss_terms", {}).items():
            # A term is a mean over the cells of its target, and so weighs as many.
            kind = term.removeprefix("loss_").removeprefix("weighted_")
            self._mean(term).add(value, cells.get(kind, batch["batch_size"]))

    def all_reduce(self) -> None:
        """Join the sums of all processes; without ``torch.distributed`` nothing happens."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        names = distributed.gather(list(self._means))
        # The order of all processes must agree, and a process may have had no batch at all.
        self._means = {name: self._mean(name) for name in sorted(set().union(*names))}
        for sums in (self._samples, self._colour, *self._depths.values(), *self._means.values()):
            sums.all_reduce()

    def compute(self) -> dict[str, float]:
        """The metrics so far.

        Raises:
            DataError: when there was no sample.
        """
        if not self._samples.weight:
            raise DataError("nothing to evaluate: the loader gave no batch (is the split empty?)")
        result = self._colour.metrics()
        for name, sums in self._depths.items():
            result.update(sums.metrics(name))
        for name, mean in self._means.items():
            if mean.weight:
                result[name] = float(mean.total / mean.weight)
        result["samples"] = float(self._samples.weight)
        return result

    def _mean(self, name: str) -> MeanSums:
        return self._means.setdefault(name, MeanSums(self._device))

    def _add_colour(self, batch: Mapping[str, Any]) -> int:
        if "rendered_rgb" not in batch:
            return 0
        rendered, target = batch["rendered_rgb"], batch["target_rgb"]
        everywhere = torch.ones_like(target.select(-3, 0), dtype=torch.bool)
        hidden, visible = ~everywhere, everywhere
        if "image_patch_mask" in batch:
            hidden, visible = cells_of_patches(batch["image_patch_mask"], tuple(target.shape[-2:]))
        self._colour.add(rendered, target, (everywhere, hidden, visible))
        return everywhere.numel()

    def _add_depth(self, batch: Mapping[str, Any], name: str, target: str) -> int:
        if f"rendered_{name}" not in batch or f"{target}_mask" not in batch:
            return 0
        valid, hidden = batch[f"{target}_mask"], batch[f"{target}_hidden"]
        self._depths[name].add(batch[f"rendered_{name}"], batch[f"target_{name}"], valid, hidden)
        return int(valid.sum())


def _check_finite(batch: Mapping[str, Any]) -> None:
    for name, value in batch.items():
        if name.startswith("rendered_") and not torch.isfinite(value).all():
            frames = ", ".join(str(frame) for frame in batch.get("frame_id", ()))
            raise NonFiniteError(
                f"{name} is NaN or infinite in frames [{frames}]: "
                "the weights of this network are broken, or its input is"
            )
