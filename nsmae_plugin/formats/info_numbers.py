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
        _Records(source, names).check_poses([info[key] for info in present], key)
    if needs.lidar:
        _check_sweeps(infos, source)
    if needs.cameras:
        _check_cameras(infos, source)
    if needs.labels:
        _check_sizes(infos, source)


class _Records:
    """Names of the records whose numbers are compared.

    Args:
        where: their source, for messages. names: of the records.
    """

    def __init__(self, where: str, names: Sequence[str]):
        self.where, self.names = where, names

    def require(self, good: np.ndarray, what: str, problem: str) -> None:
        """Name the first record that is not ``good`` (n,)."""
        if not good.all():
            raise self.error(int(np.argmin(good)), f"{what} {problem}")

    def error(self, position: int, problem: str) -> DataError:
        return DataError(
            f"{self.where}: {self.names[position]}: {problem}; repair what it was made from and "
            "create it again"
        )

    def check_poses(self, matrices: Sequence[Any], what: str) -> None:
        """(4, 4) rigid transforms."""
        values = _array(matrices, 4, 4)
        proper = plausibility.rotations_are_proper(values[:, :3, :3])
        last = (np.abs(values[:, 3] - [0, 0, 0, 1]) < plausibility.ROUNDING).all(axis=1)
        self.require(proper & last, what, "is no rotation and translation [[R, t], [0, 0, 0, 1]]")


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
    records = _Records(where, [name for name, _ in moved])
    lags = np.abs(_array([sweep["time_lag"] for _, sweep in moved]))
    longest = plausibility.LONGEST_LAG
    records.require(
        lags <= longest, "time_lag", f"is more than {longest:g} s; time lags are in seconds"
    )
    matrices = [sweep["transform_matrix"] for _, sweep in moved]
    records.check_poses(matrices, "transform_matrix")
    way = np.linalg.norm(_array(matrices, 4, 4)[:, :3, 3], axis=1)
    records.require(
        way <= plausibility.FASTEST * np.maximum(lags, plausibility.SHORTEST_LAG),
        "transform_matrix",
        f"takes the vehicle faster than {plausibility.FASTEST:g} m/s, after its time_lag; units "
        "are metres and seconds",
    )


def _check_cameras(infos: Infos, where: str) -> None:
    entries = [
        (f"camera {channel} of sample {info['token']}", camera)
        for info in infos
        for channel, camera in info["cams"].items()
    ]
    records = _Records(where, [name for name, _ in entries])
    cameras = [camera for _, camera in entries]
    seen: set[bytes] = set()
    for position, camera in enumerate(cameras):
        matrix = np.asarray(camera["camera_intrinsics"], np.float64)
        if matrix.tobytes() not in seen:
            seen.add(matrix.tobytes())
            problem = plausibility.intrinsics_problem(matrix)
            if problem:
                raise records.error(position, f"camera_intrinsics {problem}")
    turns = _array([camera["sensor2lidar_rotation"] for camera in cameras], 3, 3)
    proper = plausibility.rotations_are_proper(turns)
    records.require(proper, "sensor2lidar_rotation", "is no rotation")
    lengths = np.linalg.norm(_array([one["sensor2ego_rotation"] for one in cameras], 4), axis=1)
    unit = np.abs(lengths - 1) <= plausibility.QUATERNION_TOLERANCE
    records.require(unit, "sensor2ego_rotation", "is no quaternion of length 1")
    farthest = plausibility.FARTHEST_SENSOR
    for key in _IN_METRES:
        distance = np.linalg.norm(_array([camera[key] for camera in cameras], 3), axis=1)
        records.require(distance <= farthest, key, f"is longer than {farthest:g} m")


def _check_sizes(infos: Infos, where: str) -> None:
    for info in infos:
        if len(info.get("gt_boxes", ())):
            impossible = (info["gt_boxes"][:, 3:6] <= 0).any(axis=1)
            if impossible.any():
                size = info["gt_boxes"][np.argmax(impossible), 3:6].tolist()
                name = f"sample {info['token']}"
                raise _Records(where, [name]).error(0, f"a box has the size {brief(size)} m")


def cameras_problem(infos: Infos) -> str | None:
    """Which frame lacks a camera that others have, in words; None where all have the same."""
    rigs = [frozenset(info["cams"]) for info in infos]
    if len(set(rigs)) < 2:
        return None
    every = frozenset().union(*rigs)
    lacking = [position for position, rig in enumerate(rigs) if rig != every]
    missing = ", ".join(sorted(every - rigs[lacking[0]]))
    more = f" ({len(lacking)} of {len(rigs)} samples lack a camera)" if len(lacking) > 1 else ""
    return f"sample {infos[lacking[0]]['token']} has no {missing}, which other samples have{more}"
