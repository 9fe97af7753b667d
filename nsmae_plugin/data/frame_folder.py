"""Frames from anywhere: a folder with images, LiDAR files and a ``calibration.json``.

::

    {"cameras": {"front": {"intrinsics": 3x3, "camera_to_lidar": 4x4}, ...},
     "frames": [{"name": "000",
                 "lidar": "lidar/000.bin",
                 "cameras": {"front": {"image": "front/000.jpg"}, ...},
                 "sweeps": [{"lidar": "lidar/000_1.bin", "to_frame": 4x4, "time_lag": 0.05}],
                 "lidar_to_global": 4x4}]}

Entries that all frames share may stand once in the outer ``cameras``; ``sweeps`` (most recent
first) and ``lidar_to_global`` are optional, and so are ``lidar`` for networks without LiDAR and
``cameras`` for networks without cameras. Paths are relative to the folder. LiDAR files are
nuScenes' (float32 x, y, z, intensity, ring) unless ``"lidar_files": {"columns": [...], "dtype":
...}`` says otherwise; a camera looks along its z, with x to the right and y down. Without LiDAR,
the LiDAR frame is the one that ``camera_to_lidar`` leads to.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data.multi_modal_dataset import MultiModalDataset
from nsmae_plugin.errors import ConfigError, DataError, brief
from nsmae_plugin.formats.frames import (
    Frame,
    make_camera,
    make_sweep,
    place_lidar,
    repeat_oldest_sweep,
)
from nsmae_plugin.formats.lidar_layout import LidarFiles
from nsmae_plugin.runtime.file_names import file_name
from nsmae_plugin.runtime.reading import read_json

NAME = "calibration.json"
HELP = "docs/INFERENCE.md describes the layout"
ROUNDING = 1e-3  # of a rotation that was typed or written with few digits


class FrameFolderDataset(MultiModalDataset):
    """The frames of a folder, in place of the dataset that a configuration names.

    ``DATA_PATH`` names the folder; ``INFO_PATH`` and ``VERSION`` are not used. It has no labels.

    Raises:
        DataError: see :func:`read_folder`; or a frame lacks a sensor that the configuration uses.
    """

    remedy = HELP

    def read_frames(self) -> dict[str, list[Frame]]:
        folder = self.root_path
        frames = read_folder(folder)
        self.lidar_files = read_layout(folder) or self.lidar_files
        for info in frames:
            self._complete(info, folder)
        return {str(folder / NAME): frames}

    def _complete(self, info: Frame, folder: Path) -> None:
        """Check the sensors, and repeat the oldest sweep in place of missing ones."""
        where = f"frame {info['token']!r} of {folder / NAME}"
        if self.use_camera and not info["cams"]:
            raise DataError(f"{where} has no 'cameras', and the network uses cameras")
        if not self.use_lidar:
            return
        if "lidar_path" not in info:
            raise DataError(f"{where} has no 'lidar', and the network uses LiDAR")
        wanted = self.max_sweeps - 1
        if len(info["sweeps"]) < wanted:
            self.logger.warning(
                "%s has %d of the %d earlier sweeps that the network was trained with; the oldest "
                "stands in for the others",
                where,
                len(info["sweeps"]),
                wanted,
            )
            repeat_oldest_sweep(info, wanted)


def read_folder(folder: Path) -> list[dict[str, Any]]:
    """The frames of a folder in the layout of info files, with absolute paths.

    Raises:
        DataError: ``calibration.json`` is missing or no JSON, or an entry is missing or has
            another form; names the frame, the entry and the form.
    """
    path, content = _content(folder)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{path} must hold a list 'frames' with at least one frame")
    infos = [_frame(one, content, position, path) for position, one in enumerate(frames)]
    name, times = Counter(info["token"] for info in infos).most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: the frame name {name!r} occurs more than once")
    return infos


def read_layout(folder: Path) -> LidarFiles | None:
    """The layout of the LiDAR files of a folder; None if ``calibration.json`` has none.

    Raises:
        DataError: see :func:`read_folder`; or it has no such columns.
    """
    path, content = _content(folder)
    if "lidar_files" not in content:
        return None
    section = _object(content["lidar_files"], f"{path}: 'lidar_files'")
    try:
        named = {key.upper(): value for key, value in section.items()}
        return LidarFiles.of(named, f"{path}: lidar_files")
    except ConfigError as error:
        raise DataError(str(error)) from error


def _content(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = Path(folder).resolve() / NAME
    content = read_json(path, "the description of the frames,", HELP)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a list 'frames' with at least one frame; {HELP}")
    return path, content


def _frame(frame: Any, content: Mapping[str, Any], position: int, path: Path) -> dict[str, Any]:
    frame = _object(frame, f"{path}: frame {position}")
    name = file_name(frame.get("name", f"{position:03d}"), f"{path}: the name of frame {position}")
    where = f"{path}: frame {brief(name, 80)!r}"
    sweeps = frame.get("sweeps", [])
    if not isinstance(sweeps, list):
        raise DataError(f"{where}: 'sweeps' must be a list, the most recent one first")
    info: dict[str, Any] = {
        "token": name,
        "timestamp": position,
        "cams": _cameras(frame, content, where, path.parent),
        "sweeps": [
            _sweep(sweep, f"{where}: sweep {number}", path.parent)
            for number, sweep in enumerate(sweeps)
        ],
    }
    if "lidar" in frame:
        info["lidar_path"] = _file(frame, "lidar", where, path.parent)
    if "lidar_to_global" in frame:
        info |= place_lidar(_rigid(frame, "lidar_to_global", where))
    return info


def _cameras(
    frame: Mapping[str, Any], content: Mapping[str, Any], where: str, folder: Path
) -> dict[str, dict[str, Any]]:
    own = _object(frame.get("cameras", {}), f"{where}: 'cameras'")
    shared = _object(content.get("cameras", {}), f"{folder / NAME}: 'cameras'")
    result = {}
    for camera, entry in own.items():
        name = f"{where}: camera {brief(camera, 80)!r}"
        both = {**_object(shared.get(camera, {}), name), **_object(entry, name)}
        result[camera] = make_camera(
            _file(both, "image", name, folder),
            _intrinsics(both, name),
            _rigid(both, "camera_to_lidar", name),
        )
    return result


def _sweep(sweep: Any, where: str, folder: Path) -> dict[str, Any]:
    sweep = _object(sweep, where)
    lag = sweep.get("time_lag")
    if type(lag) not in (int, float) or not abs(lag) < math.inf:
        raise DataError(f"{where}: 'time_lag' must be the seconds between the sweep and its frame")
    path = _file(sweep, "lidar", where, folder)
    return make_sweep(path, _rigid(sweep, "to_frame", where), float(lag))


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object, not {brief(value, 80)}")
    return value


def _file(entry: Mapping[str, Any], key: str, where: str, folder: Path) -> str:
    if not isinstance(entry.get(key), str) or not entry[key].isprintable():
        raise DataError(f"{where}: {key!r} must be the path of a file, relative to {folder}")
    return str(folder / entry[key])


def _matrix(entry: Mapping[str, Any], key: str, size: int, where: str) -> np.ndarray:
    try:
        matrix = np.array(entry.get(key))
    except ValueError:  # rows of different lengths
        matrix = np.empty(0)
    numbers = matrix.dtype.kind in "iuf" and np.isfinite(matrix).all()
    if matrix.shape != (size, size) or not numbers:
        raise DataError(f"{where}: {key!r} must be {size} rows of {size} numbers")
    return matrix.astype(np.float64)


def _rigid(entry: Mapping[str, Any], key: str, where: str) -> np.ndarray:
    matrix = _matrix(entry, key, 4, where)
    turn, last = matrix[:3, :3], matrix[3]
    proper = np.allclose(turn @ turn.T, np.eye(3), atol=ROUNDING) and np.linalg.det(turn) > 0
    if not proper or not np.array_equal(last, [0, 0, 0, 1]):
        raise DataError(
            f"{where}: {key!r} must be a rotation and a translation [[R, t], [0, 0, 0, 1]]; its "
            "upper left 3x3 block is no rotation, or its last row differs"
        )
    return matrix


def _intrinsics(entry: Mapping[str, Any], where: str) -> np.ndarray:
    matrix = _matrix(entry, "intrinsics", 3, where)
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.array_equal(matrix[2], [0, 0, 1]):
        raise DataError(
            f"{where}: 'intrinsics' must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels of the "
            "image file, with positive fx and fy"
        )
    return matrix
