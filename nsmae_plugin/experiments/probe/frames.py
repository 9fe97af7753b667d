"""The labels of a split, read once for each configuration of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.data.multi_modal_dataset import MultiModalDataset
from nsmae_plugin.data.preparation import finish_boxes, load_boxes
from nsmae_plugin.data.training_frames import (
    labelled_positions,
    scenes_of_frames,
    split_validation,
)
from nsmae_plugin.detectors.branches import bev_grid
from nsmae_plugin.errors import ConfigError, DataError, brief
from nsmae_plugin.experiments.fingerprints import fingerprint
from nsmae_plugin.experiments.probe.sensors import data_settings
from nsmae_plugin.formats.frames import Frame
from nsmae_plugin.geometry.bev_grid import BEVGrid, map_grid
from nsmae_plugin.runs.loaded_model import data_of_split
from nsmae_plugin.runtime import files

FORMAT = 1  # raise it when other labels are read
HEIGHT_BINS = 8  # of the occupancy


@dataclass(frozen=True)
class ProbeData:
    """The labels of the frames of a split, in their order, in the LiDAR frame.

    Attributes:
        tokens, scenes, timestamps: of the frames; seconds.
        boxes: of each frame (N, 10) float32: x, y, z, dx, dy, dz, heading, vx, vy, class from 1;
            empty if the data has no boxes. Velocities that are not read are 0.
        class_names: of the boxes; empty if the data has none.
        map_masks: (F, K, rows, columns) uint8 on ``map_grid``; None without maps.
        map_classes: their classes.
        grid: BEV grid of the features; its layers are those of the occupancy.
        occupied: (F, bytes) the occupancy, eight cells a byte; None without LiDAR files.
        held_out: frames of the validation part, which no fine-tuning learns from.
    """

    tokens: list[str]
    scenes: list[str]
    timestamps: np.ndarray
    boxes: list[np.ndarray]
    class_names: tuple[str, ...]
    map_masks: np.ndarray | None
    map_classes: tuple[str, ...]
    map_grid: BEVGrid | None
    grid: BEVGrid
    occupied: np.ndarray | None
    held_out: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_labelled(self) -> int:
        """Frames that heads may learn from: all but those held out for validation."""
        return len(self) - len(self.held_out)

    def occupancy(self, frame: int) -> np.ndarray:
        """(Z, rows, columns) bool: cells in which a LiDAR point of the frame lies, Z ascending.

        Raises:
            DataError: the data has no LiDAR.
        """
        if self.occupied is None:
            raise DataError("the frames have no LiDAR files, and so no occupancy")
        shape = (self.grid.size[2], *self.grid.shape)
        count = int(np.prod(shape))
        return np.unpackbits(self.occupied[frame], count=count).view(bool).reshape(shape)

    def labelled(self, fraction: float, by: str, seed: int) -> list[int]:
        """Frames that a fine-tuning with this ``LABEL_FRACTION`` learns from.

        Args:
            by: ``frames`` or ``scenes``. seed: ``LABEL_FRACTION_SEED``.

        Raises:
            ConfigError: the fraction selects nothing, or is not 1 / k of the frames.
        """
        rest = [frame for frame in range(len(self)) if frame not in self.held_out]
        times, scenes = self.timestamps[rest].tolist(), [self.scenes[frame] for frame in rest]
        return [rest[one] for one in labelled_positions(times, scenes, fraction, by, seed)]


def load_labels(config: Any, split: str, folder: Path) -> ProbeData:
    """The labels of a split.

    What takes time, maps and occupancy, is kept in ``folder`` for each configuration of the data.

    Args:
        config: as ``load_config`` gives it. split: ``train``, ``validation`` or ``test``.

    Raises:
        ConfigError: there is neither USE_LABELS nor MAP_CONFIG, or a dataset without scenes.
        DataError: from the dataset; or the scene of a frame is unknown.
        OutputError: the folder cannot be written.
    """
    nsmae_plugin.register()
    data = config.DATA_CONFIG
    if not (data.get("USE_LABELS") or data.get("MAP_CONFIG")):
        raise ConfigError("a probe needs labels: set DATA_CONFIG.USE_LABELS, MAP_CONFIG or both")
    dataset = _labelled_dataset(config, split)
    grid = _occupancy_grid(config.MODEL, dataset)
    drawn = _drawn_labels(dataset, grid, split, folder / "labels")
    infos = dataset.infos
    maps = data.get("MAP_CONFIG")
    return ProbeData(
        tokens=[info["token"] for info in infos],
        scenes=scenes_of_frames(infos, dataset.scenes, "a probe", ""),
        timestamps=np.array([info["timestamp"] for info in infos]),
        boxes=[_boxes(dataset, info) for info in infos],
        class_names=tuple(dataset.class_names) if dataset.use_labels else (),
        map_masks=drawn.get("map_masks"),
        map_classes=tuple(maps.CLASSES) if maps else (),
        map_grid=map_grid(maps) if maps else None,
        grid=grid,
        occupied=drawn.get("occupied"),
        held_out=_held_out(dataset, data) if split == "train" else frozenset(),
    )


def _held_out(dataset: MultiModalDataset, data_config: Any) -> frozenset[int]:
    """Positions of the frames of the validation part."""
    settings = dataset.Config.of(data_config, "DATA_CONFIG")
    _, part = split_validation(dataset.infos, settings, dataset.scenes)
    tokens = {info["token"] for info in part}
    return frozenset(
        position for position, info in enumerate(dataset.infos) if info["token"] in tokens
    )


def _labelled_dataset(config: Any, split: str) -> MultiModalDataset:
    """The split, with LiDAR points if its frames have any."""
    dataset: Any = host.build_dataset(
        data_of_split(config.DATA_CONFIG, split), config.CLASS_NAMES, False
    )
    if not isinstance(dataset, MultiModalDataset):
        raise ConfigError(
            f"the probe cannot tell the scenes of a {type(dataset).__name__}: set "
            "DATA_CONFIG.DATASET to MultiModalNuScenesDataset"
        )
    dataset.use_lidar = "lidar_path" in dataset.infos[0]
    return dataset


def _occupancy_grid(model_cfg: Any, dataset: Any) -> BEVGrid:
    grid = bev_grid(model_cfg, dataset)
    low, high = (float(dataset.point_cloud_range[axis]) for axis in (2, 5))
    return replace(grid, z_bound=(low, high, (high - low) / HEIGHT_BINS))


def _boxes(dataset: MultiModalDataset, info: Frame) -> np.ndarray:
    """(N, 10) the boxes of the classes in use, see :class:`ProbeData`."""
    if not dataset.use_labels or "gt_boxes" not in info:
        return np.zeros((0, 10), np.float32)
    found = load_boxes(info, dataset.dataset_cfg)
    classes = {name: number for number, name in enumerate(dataset.class_names, 1)}
    numbers = np.array([classes.get(str(name), 0) for name in found["gt_names"]])
    boxes = np.column_stack((found["gt_boxes"], numbers))[numbers > 0]
    boxes = finish_boxes(boxes.astype(np.float32), dataset.dataset_cfg)
    velocity = boxes[:, 7:-1] if boxes.shape[1] == 10 else np.zeros((len(boxes), 2), np.float32)
    return np.column_stack((boxes[:, :7], velocity, boxes[:, -1]))


def _drawn_labels(
    dataset: MultiModalDataset, grid: BEVGrid, split: str, folder: Path
) -> dict[str, np.ndarray]:
    """``map_masks`` and ``occupied``, as far as the data has them, from their file or drawn."""
    settings = {
        "format": FORMAT,
        "version": nsmae_plugin.__version__,
        "data": data_settings(dataset),
        "grid": [*grid.bounds, grid.stride],
    }
    path = folder / f"{split}_{fingerprint(settings)[:20]}.npz"
    if not path.is_file():
        files.make_folder(folder)
        arrays = _draw(dataset, grid, split)
        with files.replacing(path) as file:
            np.savez_compressed(file, **arrays)
    try:
        with np.load(path) as content:
            return dict(content)
    except (OSError, EOFError, ValueError, BadZipFile, ZlibError) as error:
        raise DataError(f"{path} is damaged ({brief(error)}): remove it") from error


def _draw(dataset: MultiModalDataset, grid: BEVGrid, split: str) -> dict[str, np.ndarray]:
    masks, occupied = [], []
    for info in tqdm(dataset.infos, desc=f"labels, {split}", disable=None, leave=False):
        mask = dataset.draw_map(info, np.eye(4, dtype=np.float32), (False, False))
        masks += [] if mask is None else [mask.astype(np.uint8)]
        if dataset.use_lidar:
            cells = occupied_cells(torch.from_numpy(dataset.load_points(info)), grid)
            occupied.append(np.packbits(cells.numpy()))
    found = {"map_masks": masks, "occupied": occupied}
    return {name: np.stack(rows) for name, rows in found.items() if rows}


def occupied_cells(points: Tensor, grid: BEVGrid) -> Tensor:
    """(Z, rows, columns) bool: cells with a point.

    Args:
        points: (P, 3 or more) x, y, z, metres. grid: with layers.
    """
    index, inside = grid.voxels(points[:, :3])
    x, y, z = index[inside].unbind(1)
    cells = torch.zeros((grid.size[2], *grid.shape), dtype=torch.bool)
    cells[z, y // grid.stride, x // grid.stride] = True
    return cells
