"""nuScenes, and data in its layout, with any number of cameras."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data.data_config import NuScenesData
from nsmae_plugin.data.multi_modal_dataset import MultiModalDataset
from nsmae_plugin.formats.frames import Frame
from nsmae_plugin.formats.infos import CREATE
from nsmae_plugin.formats.maps.map_labels import MapLabels
from nsmae_plugin.formats.nuscenes.benchmark import NuScenesBenchmark
from nsmae_plugin.formats.nuscenes.scenes import scenes_of_samples


class MultiModalNuScenesDataset(MultiModalDataset):
    """Keyframes of nuScenes with the LiDAR sweeps before them and all cameras.

    Beside the keys of :class:`MultiModalDataset`, ``DATA_CONFIG`` has

    - ``VERSION``: folder of the data below ``DATA_PATH``, and of the JSON tables below that;
    - ``INFO_PATH``: info files of ``nsmae create-infos`` or of OpenPCDet;
    - ``DATA_SPLIT``: its ``test`` is the split that boxes are scored on;
    - ``MAP_CONFIG``: the map around every sample is drawn as ``gt_masks_bev``, a label too.
    """

    Config = NuScenesData
    remedy = CREATE

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.map_labels: MapLabels | None = None
        section = self.dataset_cfg.get("MAP_CONFIG")
        if section is not None:
            version = self.dataset_cfg.VERSION
            self.map_labels = MapLabels(section, self.infos, self.root_path, version)

    def data_folder(self, root: Path, dataset_cfg: Any) -> Path:
        return root / dataset_cfg.VERSION

    def scenes(self) -> Mapping[str, str]:
        """From nuScenes' tables, which info files do not repeat."""
        return scenes_of_samples(self.root_path, self.dataset_cfg.VERSION)

    def make_benchmark(self) -> NuScenesBenchmark:
        return NuScenesBenchmark(
            self.root_path,
            self.dataset_cfg.VERSION,
            self.dataset_cfg.DATA_SPLIT["test"],
            self.use_camera,
            self.use_lidar,
            self._part(),
        )

    def _part(self) -> frozenset[str] | None:
        """Tokens of the validation part if it is what is evaluated."""
        part = self.dataset_cfg.get("EVALUATE_VALIDATION", False)
        return frozenset(info["token"] for info in self.infos) if part else None

    def draw_map(
        self, info: Frame, augmentation: np.ndarray, flips: tuple[bool, bool] | None
    ) -> np.ndarray | None:
        if self.map_labels is None:
            return None
        return self.map_labels.masks(info, augmentation, flips)
