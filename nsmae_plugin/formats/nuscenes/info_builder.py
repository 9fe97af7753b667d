"""Entries of info files, in OpenPCDet's layout, from a nuScenes database."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.lidar_layout import NUSCENES, LidarFiles
from nsmae_plugin.formats.nuscenes.annotations import AnnotationReader, Remarks
from nsmae_plugin.formats.nuscenes.tables import NuScenesTables, Record, matrix
from nsmae_plugin.geometry.calibration import inverse
from nsmae_plugin.runtime import stopping

LIDAR = "LIDAR_TOP"
# OpenPCDet's order; other cameras follow by name.
CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)


class Frame(NamedTuple):
    """An info, and the remarks on its annotations: reason → their tokens."""

    info: dict[str, Any]
    remarks: Remarks


class InfoBuilder:
    """Makes one info per sample.

    Args:
        max_sweeps: the keyframe included; earlier sweeps are listed most recent first, the oldest
            repeated where a scene starts.
        with_cam: whether to add ``cams``.
        labels: whether to add boxes.
        layout: of the LiDAR files, to count the points of annotations without a number.
    """

    def __init__(
        self,
        tables: NuScenesTables,
        max_sweeps: int,
        with_cam: bool,
        labels: bool,
        layout: LidarFiles = NUSCENES,
    ):
        self.tables, self.max_sweeps = tables, max_sweeps
        self.with_cam, self.labels, self.layout = with_cam, labels, layout
        self.annotations = AnnotationReader(tables, layout) if labels else None

    def build(self, sample_token: str) -> Frame:
        """The info of one sample; matrices are (4, 4) float64, boxes lie in its LiDAR frame.

        Raises:
            DataError: the sample has no LiDAR keyframe, or no camera although ``with_cam``; or a
                record names another that is not there, or one of another time.
        """
        sensors = self.tables.keyframes[sample_token]
        if LIDAR not in sensors:
            raise DataError(f"sample {sample_token} has no {LIDAR} keyframe")
        reference = sensors[LIDAR]
        ref_from_car = inverse(matrix(self.tables.calibration(reference)))
        car_from_global = inverse(matrix(self.tables.pose(reference)))
        ref_from_global = ref_from_car @ car_from_global
        cameras = self._cameras(sensors)
        info: dict[str, Any] = {"lidar_path": reference["filename"]}
        if cameras:
            first = sensors[cameras[0]]
            info["cam_front_path"] = first["filename"]
            info["cam_intrinsic"] = self._intrinsics(first)
        info |= {
            "token": sample_token,
            "sweeps": self._sweeps(reference, ref_from_global),
            "ref_from_car": ref_from_car,
            "car_from_global": car_from_global,
            "timestamp": 1e-6 * reference["timestamp"],
        }
        if self.with_cam:
            if not cameras:
                raise DataError(f"sample {sample_token} has no camera; leave out --with_cam")
            info["cams"] = {
                channel: self._camera(channel, sensors[channel], ref_from_global)
                for channel in cameras
            }
        if self.annotations is None:
            return Frame(info, {})
        boxes, remarks = self.annotations.read(reference, ref_from_global)
        return Frame(info | boxes, remarks)

    def _cameras(self, sensors: Mapping[str, Record]) -> list[str]:
        found = [channel for channel in sensors if self.tables.modality[channel] == "camera"]
        rank = {channel: position for position, channel in enumerate(CAMERAS)}
        return sorted(found, key=lambda channel: (rank.get(channel, len(rank)), channel))

    def _intrinsics(self, sample_data: Record) -> np.ndarray:
        return np.array(self.tables.calibration(sample_data)["camera_intrinsic"], np.float64)

    def _camera(self, channel: str, data: Record, ref_from_global: np.ndarray) -> dict[str, Any]:
        calibration, pose = self.tables.calibration(data), self.tables.pose(data)
        lidar_from_camera = ref_from_global @ matrix(pose) @ matrix(calibration)
        size = {key: data[key] for key in ("width", "height") if data.get(key)}
        return {
            **size,  # (not in OpenPCDet's: compared with the file when it is read)
            "data_path": data["filename"],
            "type": channel,
            "sample_data_token": data["token"],
            "sensor2ego_translation": calibration["translation"],
            "sensor2ego_rotation": calibration["rotation"],
            "ego2global_translation": pose["translation"],
            "ego2global_rotation": pose["rotation"],
            "timestamp": data["timestamp"],
            "sensor2lidar_rotation": lidar_from_camera[:3, :3],
            "sensor2lidar_translation": lidar_from_camera[:3, 3],
            "camera_intrinsics": self._intrinsics(data),
        }

    def _sweeps(self, reference: Record, ref_from_global: np.ndarray) -> list[dict[str, Any]]:
        wanted = self.max_sweeps - 1
        sweeps: list[dict[str, Any]] = []
        current = reference
        while len(sweeps) < wanted and current["prev"]:
            current = self._before(current)
            global_from_car = matrix(self.tables.pose(current))
            car_from_current = matrix(self.tables.calibration(current))
            sweeps.append(
                {
                    "lidar_path": current["filename"],
                    "sample_data_token": current["token"],
                    "transform_matrix": ref_from_global @ global_from_car @ car_from_current,
                    "global_from_car": global_from_car,
                    "car_from_current": car_from_current,
                    "time_lag": 1e-6 * reference["timestamp"] - 1e-6 * current["timestamp"],
                }
            )
        if not sweeps and wanted > 0:  # the first frame of a scene is repeated as its past
            stand_in = {
                "lidar_path": reference["filename"],
                "sample_data_token": reference["token"],
                "transform_matrix": None,
                "time_lag": 0,
            }
            sweeps.append(stand_in)
        return sweeps + sweeps[-1:] * (wanted - len(sweeps))

    def _before(self, data: Record) -> Record:
        """The record that ``prev`` names."""
        before = self.tables.get("sample_data", data["prev"])
        where = f"{self.tables.name('sample_data', data)}: prev names {before['token']}"
        if before["timestamp"] >= data["timestamp"]:
            raise DataError(f"{where}, which was not taken before it")
        if self.tables.channel(before) != LIDAR:
            raise DataError(f"{where}, which is of {self.tables.channel(before)}, not of {LIDAR}")
        return before


Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None


def _start_worker(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    stopping.leave_to_parent()
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads


def _in_worker(item: Any) -> Any:
    assert _work is not None
    return _work(item)


def parallel(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """``work`` of all items, in their order, by ``workers`` processes (0: by this one)."""
    if workers < 1:
        yield from map(work, items)
        return
    # Forked, so that what `work` holds (tables, gigabytes for the full dataset) is shared.
    with get_context("fork").Pool(workers, _start_worker, (work,)) as pool:
        yield from pool.imap(_in_worker, items, chunksize=16)
