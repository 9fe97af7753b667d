"""Run a network over a dataset and score the predictions."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from nsmae_plugin import host
from nsmae_plugin.detectors.outputs import BOXES, RENDERINGS, outputs_of
from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime import distributed, files
from nsmae_plugin.runtime.distributed import World

RESULT = "result.txt"  # written last; it marks a complete evaluation
WARM_UP = 0.1  # share of the batches that the latency ignores
Shard = list[tuple[int, dict[str, Any]]]  # index and annotation of every sample of one process


@dataclass
class Predictions:
    """Predictions for all samples of a dataset.

    Attributes:
        annotations: one per sample, in the order of the dataset and in OpenPCDet's layout; with
            ``map_counts`` if the network predicts maps, and ``reconstruction`` if it renders.
        recall: ``gt`` (number of annotated boxes) and the number of them found, by ``roi_<IoU>``
            and ``rcnn_<IoU>``; empty without labels or boxes.
        latency: forward time per sample in milliseconds, in one process; None if not measured.
    """

    annotations: list[dict[str, Any]]
    recall: dict[str, int] = field(default_factory=dict)
    latency: float | None = None

    def metrics(self) -> dict[str, float]:
        """Recall under OpenPCDet's names: ``recall/rcnn_0.3`` and so on.

        One-stage detectors have no ``recall/roi_*``.
        """
        total = max(self.recall.get("gt", 0), 1)
        two_stages = any(count for name, count in self.recall.items() if name.startswith("roi_"))
        stages = ("roi_", "rcnn_") if two_stages else ("rcnn_",)
        return {
            f"recall/{name}": count / total
            for name, count in self.recall.items()
            if name.startswith(stages)
        }


def outputs(model: nn.Module) -> frozenset[str]:
    """Return what a network predicts: see :func:`~nsmae_plugin.detectors.outputs.outputs_of`."""
    model = distributed.unwrap(model)
    return outputs_of(type(model), getattr(model, "model_cfg", {}))


def check_data(dataset: Any, model: nn.Module) -> None:
    """Check before a long run, in rank 0, that the dataset can score the predictions of ``model``.

    A collective call: all processes must make it. Nothing is checked for a dataset without
    ``scoring``, or for a network that reconstructs its input.

    Raises:
        ConfigError, DataError: from the dataset's ``scoring``, in every process.
    """
    scoring, predicted = getattr(dataset, "scoring", None), outputs(model)
    if scoring is not None and RENDERINGS not in predicted:
        boxes = BOXES in predicted
        distributed.on_main(lambda: scoring.check(dataset.infos, dataset.class_names, boxes))


def evaluate(
    model: nn.Module,
    loader: DataLoader,
    world: World,
    folder: Path,
    save_to_file: bool = False,
    measure_time: bool = False,
) -> tuple[str, dict[str, float]]:
    """Evaluate ``model`` on the dataset of ``loader``.

    A collective call: all processes must make it.

    Args:
        loader: from :func:`nsmae_plugin.data.loader.build_dataloader`, not for training.
        folder: rank 0 writes ``result.pkl`` (all predictions) and ``result.txt`` (the returned
            text) there; the dataset's ``evaluation`` writes its own files.
        save_to_file: also write one file per sample to ``final_result/data``.
        measure_time: synchronise the device around every forward pass and report the latency.

    Returns:
        Text with the dataset's tables, and ``{metric: value}``; the same in every process.

    Raises:
        ConfigError, DataError, NonFiniteError: from the dataset's evaluation, in every process.
    """
    per_sample = folder / "final_result" / "data" if save_to_file else None
    distributed.on_main(lambda: _clear(folder, per_sample))
    found = predict(model, loader, world, per_sample, measure_time)
    return distributed.on_main(lambda: _score(found, loader, model, folder))


def _clear(folder: Path, per_sample: Path | None) -> None:
    """Create the folders of an evaluation and remove an earlier result."""
    files.make_folder(per_sample or folder)
    with files.output_errors(folder / RESULT):
        (folder / RESULT).unlink(missing_ok=True)


def predict(
    model: nn.Module,
    loader: DataLoader,
    world: World,
    per_sample: Path | None = None,
    measure_time: bool = False,
) -> Predictions:
    """Predict every sample exactly once; all processes return the joint predictions.

    The model runs in evaluation mode; its mode is restored afterwards.

    Raises:
        DataError: the processes together did not see every sample exactly once, or a map has no
            labels; in every process, as all errors of the plugin.
        NonFiniteError: a predicted map or a rendering is NaN or infinite.
    """
    clock = _Clock(world.device if measure_time else None, len(loader))
    shards = distributed.on_all(lambda: _predict_shard(model, loader, world, per_sample, clock))
    samples = len(loader.dataset.dataset)  # type: ignore[attr-defined]
    joined = _join([annotations for annotations, _ in shards], samples)
    total: Counter[str] = Counter()
    for _, recall in shards:
        total.update(recall)  # not +, which drops the zeros
    return Predictions(joined, dict(total), clock.mean())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The unwrapped network in evaluation mode; its mode is restored afterwards."""
    # The wrapper's forward synchronises buffers; it would wait for processes with fewer batches.
    model = distributed.unwrap(model)
    was_training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(was_training)


def _predict_shard(
    model: nn.Module, loader: DataLoader, world: World, per_sample: Path | None, clock: _Clock
) -> tuple[Shard, Counter[str]]:
    """Index and annotation of every sample of this process, and its recall counts."""
    dataset: Any = loader.dataset.dataset  # type: ignore[attr-defined]
    annotations: list[dict[str, Any]] = []
    recall: Counter[str] = Counter()
    bar = tqdm(loader, desc="predict", disable=None if world.is_main else True, leave=False)
    # Not inference_mode: a module may keep a tensor created here and use it in training.
    with evaluating(model) as network, torch.no_grad():
        for batch in bar:
            batch = host.to_device(batch, world.device)
            with clock.timing(batch["batch_size"]):
                predictions, counts = network(batch)
            recall.update({name: int(count) for name, count in counts.items()})
            annotations += dataset.generate_prediction_dicts(
                batch, predictions, dataset.class_names, output_path=per_sample
            )
    indices = [draw.index for draw in loader.sampler]  # type: ignore[attr-defined]
    return list(zip(indices, annotations, strict=True)), recall


def _join(parts: list[Shard], samples: int) -> list[dict[str, Any]]:
    """The annotations of all processes, in the order of the dataset."""
    together = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
    if [index for index, _ in together] != list(range(samples)):
        raise DataError(
            f"{len(together)} predictions for {samples} samples: the loader must read every sample "
            "exactly once"
        )
    return [annotation for _, annotation in together]


def _score(
    found: Predictions, loader: DataLoader, model: nn.Module, folder: Path
) -> tuple[str, dict[str, float]]:
    dataset: Any = loader.dataset.dataset  # type: ignore[attr-defined]
    with files.replacing(folder / "result.pkl") as file:
        pickle.dump(found.annotations, file)
    settings = getattr(distributed.unwrap(model), "model_cfg", {}).get("POST_PROCESSING") or {}
    text, metrics = dataset.evaluation(
        found.annotations,
        dataset.class_names,
        eval_metric=settings.get("EVAL_METRIC"),
        output_path=folder,
    )
    lines = [f"{len(found.annotations)} samples"]
    if "boxes_lidar" in found.annotations[0]:
        boxes = sum(len(one["name"]) for one in found.annotations)
        lines[0] += f", {boxes / len(found.annotations):.1f} boxes each"
    if found.latency is not None:
        lines.append(f"latency {found.latency:.2f} ms per sample")
    recall = found.metrics()
    lines += [f"{name}: {value:.4f}" for name, value in recall.items()]
    text = "\n".join([*lines, "", text.rstrip()])
    files.write_text(folder / RESULT, text + "\n")
    return text, {**recall, **{name: float(value) for name, value in metrics.items()}}


class _Clock:
    """Mean time per sample spent in :meth:`timing`, after a warm-up."""

    def __init__(self, device: torch.device | None, batches: int) -> None:
        self._device, self._skip = device, int(batches * WARM_UP)
        self._seconds, self._samples = 0.0, 0

    @contextmanager
    def timing(self, samples: int) -> Iterator[None]:
        if self._device is None:
            yield
            return
        start = self._now()
        yield
        elapsed = self._now() - start
        if self._skip:
            self._skip -= 1
        else:
            self._seconds, self._samples = self._seconds + elapsed, self._samples + samples

    def _now(self) -> float:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def mean(self) -> float | None:
        """Milliseconds; None if nothing was timed."""
        return 1e3 * self._seconds / self._samples if self._samples else None
