"""The tables of a nuScenes database that info files need.

The devkit is not used here: it requires further tables (attributes, visibilities, maps), builds all
reverse indices, and ends in a KeyError if a record is missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats.nuscenes.table_files import Record, read_table
from nsmae_plugin.geometry.calibration import rigid
from nsmae_plugin.geometry.rotations import rotation_matrix

_SENSOR_TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor")
_LABEL_TABLES = ("sample_annotation", "instance", "category")
_FIELDS = {"scene": ("token", "name", "first_sample_token")}  # where not all fields are read
# table -> field -> the table whose record it names; prev and next are looked up where they are used
_LINKS = {
    "scene": {"first_sample_token": "sample"},
    "sample": {"scene_token": "scene"},
    "sample_data": {
        "sample_token": "sample",
        "calibrated_sensor_token": "calibrated_sensor",
        "ego_pose_token": "ego_pose",
    },
    "calibrated_sensor": {"sensor_token": "sensor"},
    "sample_annotation": {"sample_token": "sample", "instance_token": "instance"},
    "instance": {"category_token": "category"},
}


class NuScenesTables:
    """Records by token, with the keyframe data and annotations of every sample attached.

    Args:
        root: folder that holds ``samples/`` and the folder ``version`` of JSON tables.
        labels: whether to read the annotations.

    Attributes:
        keyframes: sample token → channel → ``sample_data`` record.
        annotations: sample token → its annotations, in table order.
        modality: channel → ``"lidar"``, ``"camera"`` or ``"radar"``.

    Raises:
        DataError: a table is missing or no JSON list; a record lacks a field, has one of another
            type, or points nowhere; or a sample has two keyframes of one sensor.
    """

    def __init__(self, root: Path, version: str, labels: bool = True):
        self.root = root
        self._folder = root / version
        self._records = {
            name: read_table(self._folder, name, _FIELDS.get(name))
            for name in _SENSOR_TABLES + (_LABEL_TABLES if labels else ())
        }
        for table in self._records:
            self._check_links(table)
        self.modality = {
            sensor["channel"]: sensor["modality"] for sensor in self._records["sensor"].values()
        }
        self.keyframes: dict[str, dict[str, Record]] = {token: {} for token in self.all("sample")}
        for record in self.all("sample_data").values():
            if record["is_key_frame"]:
                self._add_keyframe(record)
        self.annotations: dict[str, list[Record]] = {token: [] for token in self.all("sample")}
        for record in self.all("sample_annotation").values() if labels else ():
            self.annotations[record["sample_token"]].append(record)

    def _check_links(self, table: str) -> None:
        for field, target in _LINKS.get(table, {}).items():
            known = self._records[target]
            for record in self._records[table].values():
                if record[field] not in known:
                    raise DataError(
                        f"{self.name(table, record)} names {field} {brief(record[field], 60)}, but "
                        f"{target}.json has no such record: the database is incomplete; take all "
                        "tables from one place, or remove what belongs to it from all of them"
                    )

    def _add_keyframe(self, record: Record) -> None:
        of_sample = self.keyframes[record["sample_token"]]
        channel = self.channel(record)
        if channel in of_sample:
            raise DataError(
                f"{self.name('sample_data', record)} is another keyframe of {channel} for sample "
                f"{record['sample_token']}, beside {of_sample[channel]['token']}; keep one of them"
            )
        of_sample[channel] = record

    def all(self, table: str) -> dict[str, Record]:
        """Every record of a table by its token, in table order."""
        return self._records[table]

    def get(self, table: str, token: str) -> Record:
        """The record of ``table`` with that token."""
        try:
            return self._records[table][token]
        except KeyError:
            raise DataError(
                f"{self._folder / table}.json has no record {brief(repr(token))}; the database is "
                "incomplete"
            ) from None

    def name(self, table: str, record: Mapping[str, Any]) -> str:
        """File and token of a record, for messages."""
        return f"{self._folder / table}.json: record {brief(repr(record['token']))}"

    def channel(self, sample_data: Record) -> str:
        """Name of the sensor that took ``sample_data``, such as CAM_FRONT."""
        sensor = self.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
        return self.get("sensor", sensor["sensor_token"])["channel"]

    def calibration(self, sample_data: Record) -> Record:
        """The ``calibrated_sensor`` record."""
        return self.get("calibrated_sensor", sample_data["calibrated_sensor_token"])

    def pose(self, sample_data: Record) -> Record:
        """The ``ego_pose`` record at the sensor's own time."""
        return self.get("ego_pose", sample_data["ego_pose_token"])


def matrix(record: Record) -> np.ndarray:
    """(4, 4) float64 of a calibration (sensor → ego) or an ego pose (ego → global), metres."""
    return rigid(rotation_matrix(record["rotation"]), record["translation"])
