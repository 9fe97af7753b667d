"""BEV features of networks, computed once for each network and split and kept in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import nsmae_plugin
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.experiments.probe.diagnostics import DepthQuality, Diagnostics, FeatureSpread
from nsmae_plugin.experiments.probe.encoders import CAMERA, FUSED, LIDAR, Network
from nsmae_plugin.experiments.probe.extraction import DEPTH, Extraction, ExtractOptions
from nsmae_plugin.experiments.probe.moments import Moments
from nsmae_plugin.experiments.probe.row_files import RowFiles
from nsmae_plugin.experiments.probe.sensors import read_sensors


@dataclass(frozen=True)
class FeatureCache:
    """The features of one network on one split.

    Attributes:
        rows: the files.
        untrained: slots of the encoders that the weights lack; all of them without weights.
        bins: number of depth bins; 0 without a view transform of this plugin.
        moments: of the features in training frames, before any reduction.
    """

    rows: RowFiles
    untrained: tuple[str, ...]
    bins: int
    moments: dict[str, Moments]

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the features, see :meth:`branch`."""
        names = tuple(name for name in self.rows.arrays if name != DEPTH)
        return (*names, FUSED) if {CAMERA, LIDAR} <= set(names) else names

    @property
    def digest(self) -> str:
        """Of all that decides the features of this split."""
        folder = self.rows.folder
        return f"{folder.parent.name}/{folder.name}"

    def branch(self, name: str) -> Tensor:
        """(F, C, Y, X) float16 in the order of the frames, mapped into memory.

        Args:
            name: ``camera``, behind the convolutions of the view transform; ``camera_pooled``,
                in front of them; ``lidar``; or ``fused``, the channels of camera and LiDAR, which
                is put together in memory.

        Raises:
            DataError: the network has no such features, or their file is damaged.
        """
        if name not in self.branches:
            raise DataError(f"there are no features {name!r}, but {', '.join(self.branches)}")
        if name != FUSED:
            return torch.from_numpy(self.rows.read(name))
        camera, lidar = self.branch(CAMERA), self.branch(LIDAR)
        if camera.shape[-2:] != lidar.shape[-2:]:
            camera = F.interpolate(camera.float(), lidar.shape[-2:], mode="bilinear").half()
        return torch.cat((camera, lidar), 1)

    def diagnose(self) -> Diagnostics:
        """Quality of the depth in this split; scale and spread of the features in training."""
        quality = None
        if DEPTH in self.rows.arrays:
            quality = DepthQuality.of(self.rows.read(DEPTH), self.bins)
        spread = {name: FeatureSpread.of(one) for name, one in self.moments.items()}
        return Diagnostics(quality, spread)


def extract(
    config: Any,
    networks: Sequence[Network],
    splits: Sequence[str],
    folder: Path,
    options: ExtractOptions,
    tell: Callable[[str], None],
) -> dict[tuple[str, str], FeatureCache]:
    """The features of all networks on all splits; what is there already is not computed again.

    Args:
        config: of a transfer network, as ``load_config`` gives it.
        splits: some of ``train``, ``validation`` and ``test``; read whole, in order, without
            augmentation.
        folder: of the cache. Features are found by the content of weights and info files, the
            configuration of sensors and encoders, and the options.
        tell: called with lines for the user.

    Returns:
        Features by name of the network and split.

    Raises:
        CheckpointError: weights cannot be read or do not fit.
        ConfigError, DataError: from the dataset and the modules.
        OutputError: the folder cannot be written, or another process is writing the same features.
    """
    nsmae_plugin.register()
    wanted = dict.fromkeys(("train", *splits))
    sensors = read_sensors(config, tuple(wanted), options.batch_size, options.workers)
    if options.lidar_depth and not sensors["train"].has_depth:
        raise ConfigError(
            "to put the LiDAR's depth in the place of the network's, frames need LiDAR files and "
            "MODEL.VTRANSFORM must be one of this plugin"
        )
    found = {}
    for network in networks:
        extraction = Extraction.of(config, network, sensors, folder / "features", options)
        for split in splits:
            rows = extraction.features(split)
            statistics = extraction.statistics()
            moments = {name: Moments(**one) for name, one in statistics["moments"].items()}
            untrained = tuple(statistics["untrained"])
            cache = FeatureCache(rows, untrained, statistics["bins"], moments)
            found[network.name, split] = cache
        if network.weights is not None and untrained:
            tell(
                f"{network.name}: {', '.join(untrained)} untrained, since "
                f"{extraction.network.weights} has no weights for it"
            )
    return found
