"""Reading one nuScenes table, a JSON list of records, with a check of every field.

A table of the full dataset has millions of records, so whole columns are checked at once; only in a
column with an error is the record searched that the message names.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats.plausibility import QUATERNION_TOLERANCE
from nsmae_plugin.runtime.reading import GIB, read_json

Record = dict[str, Any]

MODALITIES = ("lidar", "camera", "radar")
_MISSING = object()
_NUMBERS = {int, float}


class _Kind(NamedTuple):
    """The values that a field may hold.

    words: how messages describe them. check: whether all values of a column are valid.
    """

    words: str
    check: Callable[[Sequence[Any]], bool]


def _types(column: Sequence[Any]) -> set[type]:
    return set(map(type, column))


def _text(column: Sequence[Any]) -> bool:
    return _types(column) <= {str} and "" not in column


def _link(column: Sequence[Any]) -> bool:
    return _types(column) <= {str, type(None)}


def _numbers(column: Sequence[Any]) -> bool:
    return _types(column) <= _NUMBERS and _finite(column, ())


def _counts(column: Sequence[Any]) -> bool:
    return _numbers(column) and all(abs(value) < 1 << 31 and value % 1 == 0 for value in column)


def _flags(column: Sequence[Any]) -> bool:
    return _types(column) <= {bool}


def _finite(column: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Return whether the column is an array (n, *shape) of finite numbers."""
    values = _array(column)
    return values is not None and values.shape[1:] == shape and bool(np.isfinite(values).all())


def _vectors(column: Sequence[Any]) -> bool:
    return _types(column) <= {list} and _finite(column, (3,))


def _quaternions(column: Sequence[Any]) -> bool:
    if not (_types(column) <= {list} and _finite(column, (4,))):
        return False
    lengths = np.linalg.norm(np.array(column, np.float64), axis=1)
    return bool((np.abs(lengths - 1) <= QUATERNION_TOLERANCE).all())


def _array(column: Sequence[Any]) -> np.ndarray | None:
    try:
        return np.array(column, np.float64)
    except (TypeError, ValueError, OverflowError):  # ragged, no numbers, or beyond floating point
        return None


TEXT = _Kind("a text that is not empty", _text)
LINK = _Kind("a token, or empty", _link)
NUMBER = _Kind("a finite number", _numbers)
COUNT = _Kind("a whole number; -1 for not counted", _counts)
FLAG = _Kind("true or false", _flags)
VECTOR = _Kind("three finite numbers", _vectors)
QUATERNION = _Kind("a quaternion [w, x, y, z] of length 1", _quaternions)
LIST = _Kind("a list", lambda column: _types(column) <= {list})
MODALITY = _Kind(
    " or ".join(MODALITIES), lambda column: _text(column) and set(column) <= set(MODALITIES)
)

#: Table → field → kind of its values, for the fields that this package reads.
FIELDS: dict[str, dict[str, _Kind]] = {
    "log": {"token": TEXT, "location": TEXT},
    "scene": {"token": TEXT, "name": TEXT, "log_token": TEXT, "first_sample_token": TEXT},
    "sample": {"token": TEXT, "scene_token": TEXT, "timestamp": NUMBER},
    "sample_data": {
        "token": TEXT,
        "sample_token": TEXT,
        "ego_pose_token": TEXT,
        "calibrated_sensor_token": TEXT,
        "timestamp": NUMBER,
        "is_key_frame": FLAG,
        "filename": TEXT,
        "prev": LINK,
    },
    "calibrated_sensor": {
        "token": TEXT,
        "sensor_token": TEXT,
        "translation": VECTOR,
        "rotation": QUATERNION,
        "camera_intrinsic": LIST,
    },
    "ego_pose": {"token": TEXT, "translation": VECTOR, "rotation": QUATERNION},
    "sensor": {"token": TEXT, "channel": TEXT, "modality": MODALITY},
    "sample_annotation": {
        "token": TEXT,
        "sample_token": TEXT,
        "instance_token": TEXT,
        "translation": VECTOR,
        "size": VECTOR,
        "rotation": QUATERNION,
        "prev": LINK,
        "next": LINK,
        "num_lidar_pts": COUNT,
        "num_radar_pts": COUNT,
    },
    "instance": {"token": TEXT, "category_token": TEXT},
    "category": {"token": TEXT, "name": TEXT},
}


def read_table(
    folder: Path, name: str, fields: Sequence[str] | None = None, remedy: str = ""
) -> dict[str, Record]:
    """The records of a table by their tokens, in table order.

    Args:
        folder: of the JSON tables.
        name: one of :data:`FIELDS`.
        fields: those to check; None checks all.
        remedy: end of the message where the table is missing.

    Raises:
        DataError: the table cannot be read or is no JSON list; a record lacks a field, has one of
            another type, or has the token of another. Names file, record and field.
    """
    path = folder / f"{name}.json"
    remedy = remedy or (
        "DATA_PATH/VERSION must hold samples/ and, in another folder VERSION, the JSON tables of "
        "nuScenes"
    )
    table = read_json(path, "the table", remedy, most=16 * GIB)
    if not isinstance(table, list):
        raise DataError(f"the table {path} holds no list of records")
    for position, record in enumerate(table):
        if type(record) is not dict:
            raise DataError(f"{path}: record {position} is {brief(record)}, not an object")
    for field in fields or FIELDS[name]:
        _check_column(table, field, FIELDS[name][field], path)
    records = {record["token"]: record for record in table}
    if len(records) < len(table):
        raise DataError(f"{path}: two records have the token {brief(repr(_twice(table)))}")
    return records


def _check_column(table: list[Record], field: str, kind: _Kind, path: Path) -> None:
    column = [record.get(field, _MISSING) for record in table]
    if not column or kind.check(column):
        return
    for position, value in enumerate(column):
        if not kind.check([value]):
            where = f"{path}: record {_name(table[position], position)}"
            if value is _MISSING:
                raise DataError(f"{where} has no {field}; it must be {kind.words}")
            raise DataError(f"{where}: {field} is {brief(value)}; it must be {kind.words}")


def _name(record: Record, position: int) -> str:
    token = record.get("token")
    return brief(repr(token)) if isinstance(token, str) and token else str(position)


def _twice(table: list[Record]) -> str:
    ((token, _),) = Counter(record["token"] for record in table).most_common(1)
    return token
