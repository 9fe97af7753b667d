"""The sensors' data of a split, without labels and without augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import plain
from nsmae_plugin.data.loader import Draw, EpochSampler, RestartableLoader, build_dataloader
from nsmae_plugin.experiments.fingerprints import data_files, fingerprint, sha256
from nsmae_plugin.models.lift_splat import LiftSplatTransform
from nsmae_plugin.runs.loaded_model import data_of_split

Batch = dict[str, Any]
# Keys of DATA_CONFIG that change neither what a network sees of a frame in evaluation nor the map.
BOX_KEYS = (
    "USE_LABELS",
    "LABEL_FRACTION",
    "LABEL_FRACTION_BY",
    "LABEL_FRACTION_SEED",
    "BALANCED_RESAMPLING",
    "FILTER_MIN_POINTS_IN_GT",
    "PRED_VELOCITY",
    "SET_NAN_VELOCITY_TO_ZEROS",
    "DATA_AUGMENTOR",
)
# Keys that say where the frames are, and which ones are read.
FRAME_KEYS = ("DATA_PATH", "VALIDATION_FRACTION", "VALIDATION_SEED", "EVALUATE_VALIDATION")


@dataclass(frozen=True)
class SensorData:
    """The frames of a split in their order.

    Attributes:
        has_depth: the LiDAR's depth can be compared with that of the view transform.
    """

    dataset: Any
    loader: RestartableLoader
    sampler: EpochSampler
    batch_size: int
    has_depth: bool

    def __len__(self) -> int:
        return len(self.dataset.infos)

    def batches(self, start: int, device: torch.device) -> Iterator[Batch]:
        """All batches in order from frame ``start`` on, the first of a batch."""
        self.sampler.set_epoch(0, start)
        for batch in self.loader:
            yield host.to_device(batch, device)

    def spread(self, count: int, device: torch.device) -> Iterator[Batch]:
        """Batches of at most ``count`` frames, evenly spread over the split."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        for first in range(0, len(chosen), self.batch_size):
            draws = [Draw(0, int(index)) for index in chosen[first : first + self.batch_size]]
            samples = [self.loader.dataset[draw] for draw in draws]
            yield host.to_device(self.dataset.collate_batch(samples), device)


def data_settings(dataset: Any) -> dict[str, Any]:
    """What decides the data of a dataset, as plain JSON types; files count by content.

    Of the sensors' files those of the first frame stand for all.
    """
    config, first = dataset.dataset_cfg, dataset.infos[0]
    sensors = [camera["data_path"] for camera in first.get("cams", {}).values()]
    sensors += [first["lidar_path"]] if "lidar_path" in first else []
    paths = [*data_files(config), *(Path(dataset.root_path, one) for one in sensors)]
    return {
        "config": {k: plain(v) for k, v in config.items() if k not in (*BOX_KEYS, *FRAME_KEYS)},
        "tokens": fingerprint([info["token"] for info in dataset.infos]),
        "files": [sha256(path) for path in paths if path.is_file()],
        "lidar": bool(getattr(dataset, "use_lidar", True)),
    }


def read_sensors(
    config: Any, splits: Sequence[str], batch_size: int, workers: int
) -> dict[str, SensorData]:
    """The sensors' data of some splits.

    Where only cameras are configured, LiDAR points are read beside them if frames have a file:
    for the depth diagnostics, since no encoder looks at them.

    Args:
        config: as ``load_config`` gives it. splits: ``train``, ``validation`` or ``test``.

    Raises:
        ConfigError, DataError: from the dataset.
    """
    name = (config.MODEL.get("VTRANSFORM") or {}).get("NAME")
    view: Any = host.lookup("vtransform", name) if name else object
    lifts = issubclass(view, LiftSplatTransform)
    found = {}
    for split in splits:
        data = data_of_split(config.DATA_CONFIG, split)
        for key in (*BOX_KEYS, "MAP_CONFIG"):
            data.pop(key, None)
        dataset, loader, sampler = build_dataloader(
            data, config.CLASS_NAMES, batch_size, workers, training=False
        )
        if lifts and not view.reads_lidar_depth and "lidar_path" in dataset.infos[0]:
            dataset.use_lidar = True
        has_depth = lifts and getattr(dataset, "use_lidar", True)
        found[split] = SensorData(dataset, loader, sampler, batch_size, has_depth)
    return found
