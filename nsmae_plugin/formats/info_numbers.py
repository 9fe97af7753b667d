"""Checks that the numbers of frames are plausible.

All frames are compared at once, so that the start of a training stays short.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats import plausibility
from nsmae_plugin.formats.info_checks import POSES, Needs

Infos = Sequence[Mapping[str, Any]]
_IN_METRES = ("sensor2lidar_translation", "sensor2ego_translation")


def check_numbers(infos: Infos, source: str, needs: Needs) -> None:
    """Check that poses are rigid, and calibrations, time lags and boxes plausible.

    Args:
        infos: frames in which :func:`~nsmae_plugin.formats.info_checks.check_infos` finds nothing.
        source: how messages name what they were read from.

    Raises:
        DataError: names the frame, and what of it is wrong.
    """
    for key in POSES:
        present = [info for info in infos if key in info]
        names = [f"sample {info['token']}" for info in present]
        _check_poses([info[key] for info in present], source, names, key)
    if needs.lidar:
        _check_sweeps(infos, source)
    if needs.cameras:
        _check_cameras(infos, source)
    if needs.labels:
        _check_sizes(infos, source)


def _require(good: np.ndarray, where: str, names: Sequence[str], problem: str) -> None:
    """Name the first of the records that is not ``good`` (n,)."""
    if not good.all():
        raise DataError(
            f"{where}: {names[int(np.argmin(good))]}: {problem}; repair what it was made from and "
            "create it again"
        )


def _check_poses(matrices: Sequence[Any], where: str, names: Sequence[str], what: str) -> None:
    """Check that records hold (4, 4) rigid transforms."""
    values = _array(matrices, 4, 4)
    proper = plausibility.rotations_are_proper(values[:, :3, :3])
    last = (np.abs(values[:, 3] - [0, 0, 0, 1]) < plausibility.ROUNDING).all(axis=1)
    problem = f"{what} is no rotation and translation [[R, t], [0, 0, 0, 1]]"
    _require(proper & last, where, names, problem)


def _array(values: Sequence[Any], *shape: int) -> np.ndarray:
    return np.array(values, np.float64).reshape(len(values), *shape)


def _check_sweeps(infos: Infos, where: str) -> None:
    """Time lags in seconds, and motions that a vehicle can have made in that time."""
    moved = [
        (f"sweep {number} of sample {info['token']}", sweep)
        for info in infos
        for number, sweep in enumerate(info.get("sweeps", ()))
        if sweep["transform_matrix"] is not None  # None: the keyframe stands in
    ]
    names = [name for name, _ in moved]
    lags = np.abs(_array([sweep["time_lag"] for _, sweep in moved]))
    longest, fastest = plausibility.LONGEST_LAG, plausibility.FASTEST
    problem = f"time_lag is more than {longest:g} s; time lags are in seconds"
    _require(lags <= longest, where, names, problem)
    matrices = [sweep["transform_matrix"] for _, sweep in moved]
    _check_poses(matrices, where, names, "transform_matrix")
    way = np.linalg.norm(_array(matrices, 4, 4)[:, :3, 3], axis=1)
    problem = (
        f"transform_matrix takes the vehicle faster than {fastest:g} m/s, after its time_lag; "
        "units are metres and seconds"
    )
    _require(way <= fastest * np.maximum(lags, plausibility.SHORTEST_LAG), where, names, problem)


def _check_cameras(infos: Infos, where: str) -> None:
    entries = [
        (f"camera {channel} of sample {info['token']}", camera)
        for info in infos
        for channel, camera in info["cams"].items()
    ]
    names, cameras = [name for name, _ in entries], [camera for _, camera in entries]
    matrices = _array([camera["camera_intrinsics"] for camera in cameras], 3, 3)
    _, different = np.unique(matrices, axis=0, return_index=True)
    for position in np.sort(different):
        problem = plausibility.intrinsics_problem(matrices[position])
        if problem:
            others = np.arange(len(names)) != position
            _require(others, where, names, f"camera_intrinsics {problem}")
    turns = _array([camera["sensor2lidar_rotation"] for camera in cameras], 3, 3)
    proper = plausibility.rotations_are_proper(turns)
    _require(proper, where, names, "sensor2lidar_rotation is no rotation")
    lengths = np.linalg.norm(_array([one["sensor2ego_rotation"] for one in cameras], 4), axis=1)
    unit = np.abs(lengths - 1) <= plausibility.QUATERNION_TOLERANCE
    _require(unit, where, names, "sensor2ego_rotation is no quaternion of length 1")
    farthest = plausibility.FARTHEST_SENSOR
    for key in _IN_METRES:
        distance = np.linalg.norm(_array([camera[key] for camera in cameras], 3), axis=1)
        _require(distance <= farthest, where, names, f"{key} is longer than {farthest:g} m")


def _check_sizes(infos: Infos, where: str) -> None:
    for info in infos:
        if len(info.get("gt_boxes", ())):
            impossible = (info["gt_boxes"][:, 3:6] <= 0).any(axis=1)
            size = brief(info["gt_boxes"][np.argmax(impossible), 3:6].tolist())
            names = [f"sample {info['token']}"]
            _require(~impossible.any(keepdims=True), where, names, f"a box has the size {size} m")


def cameras_problem(infos: Infos) -> str | None:
    """Message on a frame that lacks a camera of others; None if all have the same."""
    rigs = [frozenset(info["cams"]) for info in infos]
    if len(set(rigs)) < 2:
        return None
    every = frozenset().union(*rigs)
    lacking = [position for position, rig in enumerate(rigs) if rig != every]
    missing = ", ".join(sorted(every - rigs[lacking[0]]))
    more = f" ({len(lacking)} of {len(rigs)} samples lack a camera)" if len(lacking) > 1 else ""
    return f"sample {infos[lacking[0]]['token']} has no {missing}, which other samples have{more}"
