"""Plausibility checks of a database's numbers and units, before info files are made."""

from collections.abc import Iterable, Sequence

import numpy as np

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats import plausibility
from nsmae_plugin.formats.nuscenes.tables import NuScenesTables, Record

MOST_OFFSET = 1.0  # seconds between a keyframe's sensors; nuScenes' differ by 0.1


def check_calibration(tables: NuScenesTables, samples: Iterable[str], cameras: bool) -> None:
    """Check that each sensor that will be read has a plausible calibration.

    Args:
        samples: tokens. cameras: whether cameras are read, besides the LiDAR.

    Raises:
        DataError: naming the ``calibrated_sensor`` record.
    """
    seen = set()
    for sample in samples:
        for channel, data in tables.keyframes[sample].items():
            token, modality = data["calibrated_sensor_token"], tables.modality[channel]
            if token in seen or modality == "radar" or (modality == "camera" and not cameras):
                continue
            seen.add(token)
            _check_sensor(tables, data, channel)


def _check_sensor(tables: NuScenesTables, data: Record, channel: str) -> None:
    calibration = tables.calibration(data)
    where = f"{tables.name('calibrated_sensor', calibration)} ({channel})"
    distance = float(np.linalg.norm(calibration["translation"]))
    if distance > plausibility.FARTHEST_SENSOR:
        raise DataError(
            f"{where}: translation puts the sensor {distance:.4g} m away; translations "
            "are in metres"
        )
    if tables.modality[channel] == "camera":
        problem = plausibility.intrinsics_problem(calibration["camera_intrinsic"], _size(data))
        if problem:
            raise DataError(f"{where}: camera_intrinsic {problem}")


def _size(data: Record) -> tuple[int, int] | None:
    """Width and height of an image, where the table has them."""
    sides = data.get("width"), data.get("height")
    if all(isinstance(side, int) and side > 0 for side in sides):
        return sides  # type: ignore[return-value]
    return None


def check_times(tables: NuScenesTables, samples: Sequence[str], lidar: str, cameras: bool) -> None:
    """Check that the times of a scene's keyframes, and the speeds between them, are plausible.

    Args:
        samples: tokens of one scene, in any order. lidar: channel of the LiDAR.

    Raises:
        DataError: equal times, impossible intervals or speeds, or sensors of a keyframe that are
            not of one time; names the ``sample`` or ``sample_data`` record.
    """
    records = sorted((tables.all("sample")[one] for one in samples), key=lambda r: r["timestamp"])
    seconds = 1e-6 * np.array([one["timestamp"] for one in records], np.float64)
    reference = [tables.keyframes[one["token"]].get(lidar) for one in records]
    poses = [None if one is None else tables.pose(one)["translation"] for one in reference]
    problem = plausibility.interval_problem(seconds)
    if problem is None and None not in poses:
        problem = plausibility.speed_problem(seconds, np.array(poses, np.float64))
    if problem is not None:
        raise DataError(f"{tables.name('sample', records[problem[0]])} {problem[1]}")
    for record in records:
        for channel, data in tables.keyframes[record["token"]].items():
            if channel != lidar and not (cameras and tables.modality[channel] == "camera"):
                continue
            offset = 1e-6 * (data["timestamp"] - record["timestamp"])
            if abs(offset) > MOST_OFFSET:
                raise DataError(
                    f"{tables.name('sample_data', data)} of {channel} was taken {offset:.4g} s "
                    "after its sample; timestamps are in microseconds in both tables"
                )
