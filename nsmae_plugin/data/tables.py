"""The tables of a nuScenes database, as much of them as info files need.

The devkit would do, but it insists on tables that nobody needs here (attributes, visibilities,
maps) and builds every reverse index.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data.images import rotation_matrix
from nsmae_plugin.errors import DataError

Record = dict[str, Any]

_SENSOR_TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor")
_LABEL_TABLES = ("sample_annotation", "instance", "category")


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
        DataError: a table is missing or no JSON list, or a record points nowhere.
    """

    def __init__(self, root: Path, version: str, labels: bool = True):
        self.root = root
        self._folder = root / version
        self._records = {
            name: {record["token"]: record for record in self._read(name)}
            for name in _SENSOR_TABLES + (_LABEL_TABLES if labels else ())
        }
        self.modality = {
            sensor["channel"]: sensor["modality"] for sensor in self._records["sensor"].values()
        }
        self.keyframes: dict[str, dict[str, Record]] = {token: {} for token in self.all("sample")}
        for record in self.all("sample_data").values():
            if record["is_key_frame"]:
                self.keyframes[record["sample_token"]][self.channel(record)] = record
        self.annotations: dict[str, list[Record]] = {token: [] for token in self.all("sample")}
        for record in self.all("sample_annotation").values() if labels else ():
            self.annotations[record["sample_token"]].append(record)

    def _read(self, name: str) -> list[Record]:
        path = self._folder / f"{name}.json"
        try:
            with open(path, encoding="utf-8") as file:
                table = json.load(file)
        except OSError as error:
            raise DataError(
                f"cannot read the table {path}: {error.strerror}; DATA_PATH/VERSION must hold "
                "samples/ and, in another folder VERSION, the JSON tables of nuScenes"
            ) from error
        except ValueError as error:
            raise DataError(f"the table {path} is no valid JSON: {error}") from error
        if not isinstance(table, list):
            raise DataError(f"the table {path} holds no list of records")
        return table

    def all(self, table: str) -> dict[str, Record]:
        """Every record of a table by its token, in table order."""
        return self._records[table]

    def get(self, table: str, token: str) -> Record:
        """The record of ``table`` with that token."""
        try:
            return self._records[table][token]
        except KeyError:
            raise DataError(
                f"{self._folder / table}.json has no record {token!r}; the database is incomplete"
            ) from None

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
    result = np.eye(4)
    result[:3, :3] = rotation_matrix(record["rotation"])
    result[:3, 3] = record["translation"]
    return result


def inverse(rigid: np.ndarray) -> np.ndarray:
    """Inverse of a rigid (4, 4) transform."""
    result = np.eye(4)
    result[:3, :3] = rigid[:3, :3].T
    result[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return result
