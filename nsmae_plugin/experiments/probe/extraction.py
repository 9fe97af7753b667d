"""Run the encoders of one network over the frames of a split, and write their features."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.errors import CheckpointError, DataError
from nsmae_plugin.experiments.fingerprints import fingerprint, sha256
from nsmae_plugin.experiments.probe.diagnostics import depth_sums
from nsmae_plugin.experiments.probe.encoders import (
    Encoders,
    Network,
    build_encoders,
    estimate_statistics,
    lidar_bins,
    lidar_depth,
)
from nsmae_plugin.experiments.probe.moments import Moments, Whitening
from nsmae_plugin.experiments.probe.row_files import RowFiles
from nsmae_plugin.experiments.probe.sensors import Batch, SensorData, data_settings
from nsmae_plugin.models.lift_splat import LiftSplatTransform
from nsmae_plugin.runtime import files, torch_files
from nsmae_plugin.training import checkpoint
from nsmae_plugin.training.weights import encoders_of

FORMAT = 1  # raise it when other numbers are computed
DEPTH = "depth"  # name of the rows of depth sums
STATISTICS = "statistics.pt"


@dataclass(frozen=True)
class ExtractOptions:
    """How features are computed.

    Attributes:
        batch_size: frames of a batch.
        statistics_batches: batches of training frames, evenly spread, on which the BatchNorm
            statistics are estimated anew; 0 keeps those of the weights.
        moments_frames: training frames, evenly spread, that the scale and spread of features and
            their principal components are taken from.
        channels: features are reduced to at most as many principal components, each of variance 1;
            None keeps them as they are.
        lidar_depth: see :class:`~.encoders.Encoders`.
        workers: loader processes. device: computes.
    """

    batch_size: int = 4
    statistics_batches: int = 25
    moments_frames: int = 64
    channels: int | None = None
    lidar_depth: bool = False
    workers: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def settings(self) -> dict[str, Any]:
        """The options that decide the features."""
        return {k: v for k, v in vars(self).items() if k not in ("workers", "device")}


@dataclass
class Extraction:
    """The features of one network, in a folder of their own.

    Attributes:
        network: with the file of its weights.
        sensors: the data by split, ``train`` among them.
        folder: named by the digest of what decides the features of a frame; in it, a folder for
            each split, named by the digest of its data.
    """

    config: Any
    network: Network
    sensors: dict[str, SensorData]
    folder: Path
    options: ExtractOptions
    _encoders: Encoders | None = None
    _statistics: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        config: Any,
        network: Network,
        sensors: dict[str, SensorData],
        folder: Path,
        options: ExtractOptions,
    ) -> Extraction:
        """Of a network; ``folder`` holds those of all networks."""
        if network.weights is not None:
            network = replace(network, weights=checkpoint.find(network.weights))
        settings = {
            "format": FORMAT,
            "version": nsmae_plugin.__version__,
            "host": host.NAME,
            "weights": network.weights and sha256(network.weights),
            "seed": network.seed,
            "encoders": encoders_of(config.MODEL),
            "data": data_settings(sensors["train"].dataset),
            **options.settings(),
        }
        own = folder / fingerprint(settings)[:20]
        files.make_folder(own)
        files.write_text(own / "settings.json", json.dumps(settings, indent=1))
        return cls(config, network, sensors, own, options)

    def statistics(self) -> dict[str, Any]:
        """What training frames say about the network, from its file or computed.

        Returns:
            ``untrained``, the slots that the weights lack; ``bins`` of depth, 0 without a view
            transform of this plugin; ``batch_norm``, the statistics as part of a state; and
            ``moments`` and ``whitening`` (empty without a reduction) by feature.

        Raises:
            DataError: the file is damaged.
        """
        path = self.folder / STATISTICS
        if self._statistics is None and path.is_file():
            try:
                self._statistics = torch_files.load(path)
            except CheckpointError as error:
                raise DataError(f"{path} is damaged: remove it") from error
        if self._statistics is None:
            self._statistics = self._estimate()
            with files.replacing(path) as file:
                torch.save(self._statistics, file)
        return self._statistics

    def features(self, split: str) -> RowFiles:
        """The complete files of a split; computes what they lack.

        Raises:
            DataError: features are too large for float16.
            OutputError: the files cannot be written, or another process is writing them.
        """
        data = fingerprint(data_settings(self.sensors[split].dataset))
        rows = RowFiles(self.folder / f"{split}_{data[:8]}", len(self.sensors[split]))
        if rows.complete:
            return rows
        message = f"another process computes the features in {self.folder}: wait until it has ended"
        with files.held(self.folder / "lock", message):
            rows = RowFiles(rows.folder, rows.total)
            self._write(split, rows)
        return rows

    def _write(self, split: str, rows: RowFiles) -> None:
        whitening = {n: Whitening(**one) for n, one in self.statistics()["whitening"].items()}
        encoders, device = self._built(), self.options.device
        title = f"{self.network.name}, {split}"
        bar = tqdm(total=rows.total, initial=rows.done, desc=title, disable=None, leave=False)
        with bar, torch.no_grad(), rows:
            for batch in self.sensors[split].batches(rows.done, device):
                features, batch = encoders(batch)
                part = {name: self._half(name, whitening, one) for name, one in features.items()}
                if self.sensors[split].has_depth:
                    part[DEPTH] = _depth_rows(encoders.vtransform, batch)
                rows.append(part)
                bar.update(batch["batch_size"])

    def _half(self, name: str, whitening: dict[str, Whitening], features: Tensor) -> np.ndarray:
        reduced = whitening[name](features) if name in whitening else features
        half = reduced.half()
        if not half.isfinite().all():
            raise DataError(
                f"features {name} of {self.network.name} reach {float(reduced.abs().max()):.3g}, "
                "more than float16 holds: reduce them to components, or estimate the BatchNorm "
                "statistics"
            )
        return half.cpu().numpy()

    def _estimate(self) -> dict[str, Any]:
        encoders, untrained = build_encoders(
            self.config, self.sensors["train"].dataset, self.network
        )
        self._encoders = encoders.to(self.options.device)
        encoders.lidar_depth = self.options.lidar_depth
        count = self.options.statistics_batches * self.options.batch_size
        if count:
            estimate_statistics(encoders, self._training_frames(count, "statistics"))
        moments = self._moments(encoders)
        channels = self.options.channels
        whitening = {name: Whitening.of(one, channels) for name, one in moments.items() if channels}
        view = encoders.vtransform
        return {
            "untrained": untrained,
            "bins": view.num_bins if isinstance(view, LiftSplatTransform) else 0,
            "batch_norm": _batch_norm(encoders),
            "moments": {name: vars(one) for name, one in moments.items()},
            "whitening": {name: vars(one) for name, one in whitening.items()},
        }

    def _built(self) -> Encoders:
        """The encoders with the statistics."""
        if self._encoders is None:
            train = self.sensors["train"].dataset
            self._encoders, _ = build_encoders(self.config, train, self.network)
            self._encoders.load_state_dict(self.statistics()["batch_norm"], strict=False)
            self._encoders.to(self.options.device).lidar_depth = self.options.lidar_depth
        return self._encoders

    @torch.no_grad()
    def _moments(self, encoders: Encoders) -> dict[str, Moments]:
        found: dict[str, Moments] = {}
        for batch in self._training_frames(self.options.moments_frames, "moments"):
            for name, features in encoders(batch)[0].items():
                part = Moments.of(features.cpu())
                found[name] = found[name] + part if name in found else part
        return found

    def _training_frames(self, count: int, purpose: str) -> Iterable[Batch]:
        train = self.sensors["train"]
        total = -(-min(count, len(train)) // train.batch_size)
        title = f"{self.network.name}, {purpose}"
        batches = train.spread(count, self.options.device)
        return tqdm(batches, total=total, desc=title, disable=None, leave=False)


def _batch_norm(encoders: Encoders) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.cpu()
        for name, module in encoders.named_modules()
        if isinstance(module, _BatchNorm)
        for key, value in module.named_buffers()
    }


def _depth_rows(view: LiftSplatTransform, batch: Batch) -> np.ndarray:
    """(B, 6) sums over the cameras of each frame, see :func:`~.diagnostics.depth_sums`."""
    depth, _ = lidar_depth(view, batch)
    bins, known = lidar_bins(view, batch)
    sums = depth_sums(batch["depth_logits"], depth, bins, known, view.depths)
    return sums.unflatten(0, (batch["batch_size"], -1)).sum(1).cpu().numpy()
