"""Frames of any dataset: dicts in the layout of OpenPCDet's nuScenes info files.

What a frame holds is listed in docs/DATA.md. Positions are metres, times seconds; ``sensor2lidar``
leads from a sensor to the frame's LiDAR, before any augmentation.
"""

from collections.abc import Iterator, Mapping, Sequence
from os import listdir
from os.path import split
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats.info_checks import Needs, check_infos
from nsmae_plugin.formats.info_numbers import check_numbers
from nsmae_plugin.geometry.rotations import quaternion
from nsmae_plugin.runtime.reading import MOST_LETTERS

Frame = dict[str, Any]


def make_camera(
    path: str | Path, intrinsics: np.ndarray, camera_to_lidar: np.ndarray
) -> dict[str, Any]:
    """An entry of ``cams``, with the LiDAR frame as vehicle frame.

    Args:
        path: of the image, absolute or below the dataset's folder.
        intrinsics: (3, 3), in pixels of that file.
        camera_to_lidar: (4, 4) rigid; the camera looks along its z, x to the right and y down.
    """
    rotation, translation = camera_to_lidar[:3, :3], camera_to_lidar[:3, 3]
    return {
        "data_path": str(path),
        "camera_intrinsics": intrinsics,
        "sensor2lidar_rotation": rotation,
        "sensor2lidar_translation": translation,
        "sensor2ego_rotation": quaternion(rotation).tolist(),
        "sensor2ego_translation": translation,
    }


def make_sweep(path: str | Path, to_frame: np.ndarray | None, time_lag: float) -> dict[str, Any]:
    """An entry of ``sweeps``, which are listed most recent first.

    Args:
        to_frame: (4, 4) from the sweep's LiDAR frame to the frame's; None where they are the same.
        time_lag: age of the sweep.
    """
    return {"lidar_path": str(path), "transform_matrix": to_frame, "time_lag": time_lag}


def place_lidar(lidar_to_global: np.ndarray) -> dict[str, np.ndarray]:
    """The entries of a frame for its pose (4, 4), with the LiDAR frame as vehicle frame."""
    return {"ref_from_car": np.eye(4), "car_from_global": np.linalg.inv(lidar_to_global)}


def repeat_oldest_sweep(frame: Frame, wanted: int) -> None:
    """Pad ``sweeps`` with the oldest, as at the start of a nuScenes scene, or with the keyframe.

    Args:
        wanted: number of sweeps, ``MAX_SWEEPS - 1``.
    """
    sweeps = frame.setdefault("sweeps", [])
    oldest = sweeps[-1] if sweeps else make_sweep(frame["lidar_path"], None, 0.0)
    sweeps += [oldest] * (wanted - len(sweeps))


def check_frames(
    frames: Sequence[Frame], source: str, root: Path, needs: Needs, remedy: str
) -> None:
    """Check that frames are complete, their numbers plausible and their files there.

    Args:
        source: how messages name what the frames were read from.
        root: folder that relative paths start at.
        remedy: what to do about a frame of another form.

    Raises:
        DataError: names the frame, and what of it is missing or wrong.
        ConfigError: MAX_SWEEPS asks for more sweeps than a frame has.
    """
    check_infos(frames, source, needs, remedy)
    check_numbers(frames, source, needs)
    check_files(root, _files(frames, needs))


def check_files(root: Path, files: Iterator[tuple[str, str, str]]) -> None:
    """Check that all files exist. Each folder is listed once, which is fast on network disks.

    Args:
        files: path below ``root``, what it is, and the token of the frame that needs it.

    Raises:
        DataError: names the first that is missing, and how many are.
    """
    folders: dict[str, set[str]] = {}
    missing: dict[str, str] = {}
    for path, what, token in files:
        folder, name = split(path)
        if folder not in folders:
            folders[folder] = _names(root / folder)
        if name not in folders[folder] and path not in missing:
            shown = brief(root / path, MOST_LETTERS)
            missing[path] = f"{what} {shown} of sample {brief(token)}"
    if missing:
        more = f" ({len(missing)} files are missing)" if len(missing) > 1 else ""
        raise DataError(
            f"cannot read {next(iter(missing.values()))}: No such file or directory{more}; check "
            "DATA_PATH and VERSION, and that the archive was unpacked completely"
        )


def _files(frames: Sequence[Mapping[str, Any]], needs: Needs) -> Iterator[tuple[str, str, str]]:
    for info in frames:
        token = info["token"]
        if needs.lidar:
            yield info["lidar_path"], "the LiDAR file", token
            for sweep in info.get("sweeps", ()):
                yield sweep["lidar_path"], "the LiDAR file", token
        if needs.cameras:
            for camera in info["cams"].values():
                yield camera["data_path"], "the image", token


def _names(folder: Path) -> set[str]:
    try:
        return set(listdir(folder))
    except OSError:  # not there, or no folder: nothing in it can be read
        return set()
