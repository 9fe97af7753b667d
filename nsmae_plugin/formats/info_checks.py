"""Checks that frames are complete and of the expected types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nsmae_plugin.errors import ConfigError, DataError, brief
from nsmae_plugin.runtime.reading import MOST_LETTERS

_CAMERA_SHAPES = {
    "camera_intrinsics": (3, 3),
    "sensor2lidar_rotation": (3, 3),
    "sensor2lidar_translation": (3,),
    "sensor2ego_rotation": (4,),
    "sensor2ego_translation": (3,),
}
POSES = ("ref_from_car", "car_from_global")
NAME, SECONDS = "a text in one line", "a finite number of seconds"
MATRIX = "a matrix (4, 4) of finite numbers"


class Needs(NamedTuple):
    """The parts of a frame that will be read.

    max_sweeps: the keyframe included. labels: boxes, where there are any; while training there
    must be.
    """

    lidar: bool
    cameras: bool
    labels: bool = False
    training: bool = False
    max_sweeps: int = 1


def check_infos(infos: Sequence[Any], source: str, needs: Needs, remedy: str) -> None:
    """Check that every frame is complete.

    Args:
        source: how messages name what the frames were read from.
        remedy: what to do, for messages.

    Raises:
        DataError: naming the source, the frame and what is missing or of another form.
        ConfigError: MAX_SWEEPS asks for more sweeps than a frame has.
    """
    for position, info in enumerate(infos):
        try:
            _check_frame(info, f"frame {position} of {source}", needs)
            where = f"sample {info['token']} of {source}"
            sweeps = info.get("sweeps", [])
            _check_sweeps(sweeps, where)
            if needs.cameras:
                _check_cameras(info, source)
            if "gt_boxes" in info:
                _check_labels(info, where, needs.labels)
        except DataError as error:
            raise DataError(f"{error}; {remedy}") from None
        if needs.labels and needs.training and "gt_boxes" not in info:
            raise DataError(
                f"{source} has no boxes for sample {info['token']} (a test split?); "
                "set DATA_CONFIG.USE_LABELS False or use an annotated split"
            )
        if len(sweeps) < needs.max_sweeps - 1:
            raise ConfigError(
                f"DATA_CONFIG.MAX_SWEEPS is {needs.max_sweeps}, but {source} lists only "
                f"{len(sweeps)} earlier sweeps for sample {info['token']}; lower MAX_SWEEPS, or "
                f"{remedy}"
            )


def _check_frame(info: Any, where: str, needs: Needs) -> None:
    if not isinstance(info, dict):
        raise DataError(f"{where} is a {type(info).__name__}, not a dict")
    required = ("token", "timestamp", *(("lidar_path",) if needs.lidar else ()))
    missing = [key for key in required if key not in info]
    if missing:
        kitti = " (it looks like KITTI's layout)" if "point_cloud" in info else ""
        raise DataError(
            f"{where} lacks {', '.join(missing)}{kitti}; OpenPCDet's nuScenes layout is needed"
        )
    for key in ("token", "lidar_path"):
        if key in info:
            _require(_is_name(info[key]), where, key, info, NAME)
    _require(_are_numbers(info["timestamp"], ()), where, "timestamp", info, SECONDS)
    _require(isinstance(info.get("sweeps", []), list), where, "sweeps", info, "a list")
    for key in POSES:
        if key in info:
            _require(_are_numbers(info[key], (4, 4)), where, key, info, MATRIX)


def _check_sweeps(sweeps: list[Any], where: str) -> None:
    checked: set[int] = set()  # at the start of a scene the same sweep is repeated
    for position, sweep in enumerate(sweeps):
        if id(sweep) in checked:
            continue
        checked.add(id(sweep))
        name = f"sweep {position} of {where}"
        if not isinstance(sweep, dict):
            raise DataError(f"{name} is a {type(sweep).__name__}, not a dict")
        _require(_is_name(sweep.get("lidar_path")), name, "lidar_path", sweep, NAME)
        _require(_are_numbers(sweep.get("time_lag"), ()), name, "time_lag", sweep, SECONDS)
        matrix = sweep.get("transform_matrix", ...)  # None stands for the keyframe itself
        fits = matrix is None or _are_numbers(matrix, (4, 4))
        _require(fits, name, "transform_matrix", sweep, f"{MATRIX}, or None")


def _check_cameras(info: Mapping[str, Any], source: str) -> None:
    if not info.get("cams"):
        raise DataError(
            f"{source} has no cameras for sample {info['token']}; it was made without them"
        )
    where = f"sample {info['token']} of {source}"
    _require(isinstance(info["cams"], dict), where, "cams", info, "a dict of cameras")
    for channel, camera in info["cams"].items():
        where = f"camera {brief(channel)} of sample {info['token']}"
        if not isinstance(camera, dict):
            raise DataError(f"{source}: {where} is a {type(camera).__name__}, not a dict")
        wrong = [
            f"{key} of shape {shape} and finite numbers"
            for key, shape in _CAMERA_SHAPES.items()
            if not _are_numbers(camera.get(key), shape)
        ]
        if not all(_are_numbers(camera.get(key, 1), ()) for key in ("width", "height")):
            wrong.append("width and height that are numbers")
        if not _is_name(camera.get("data_path")):
            wrong.insert(0, "data_path")
        if wrong:
            raise DataError(f"{source}: {where} has no {wrong[0]}")


def _check_labels(info: Mapping[str, Any], where: str, needed: bool) -> None:
    keys = ("gt_boxes", "gt_names", "num_lidar_pts")
    missing = [key for key in keys[: 3 if needed else 2] if key not in info]
    if missing:
        raise DataError(f"{where} has boxes, but no {' and no '.join(missing)}")
    values: list[Any] = [info.get(key) for key in keys]
    boxes, names, counts = values
    fits = _is_array(boxes, "iuf") and boxes.ndim == 2 and boxes.shape[1] in (7, 9)
    _require(fits, where, "gt_boxes", info, "an array (boxes, 7 or 9) of numbers")
    if not np.isfinite(boxes[:, :7]).all() or np.isinf(boxes).any():  # velocities may be unknown
        raise DataError(f"{where} has boxes with NaN or infinite numbers")
    count = len(boxes)
    fits = _is_array(names, "U" if count else "Uf", count)
    _require(fits, where, "gt_names", info, f"an array of {count} texts, one per box")
    fits = not needed or _is_array(counts, "iuf", count)
    _require(fits, where, "num_lidar_pts", info, f"an array of {count} numbers")


def _require(fits: bool, where: str, key: str, record: Mapping[str, Any], wanted: str) -> None:
    """Refuse a value of a record that does not fit; ``wanted`` says in words what would."""
    if fits:
        return
    value = record.get(key)
    if value is None:
        found = "is missing"
    elif isinstance(value, np.ndarray):
        found = f"is an array {value.shape} of {value.dtype.name}"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            found += " with NaN or infinity"
    else:
        found = f"is {brief(value, 40)!r}" if isinstance(value, str) else f"is {brief(value, 40)}"
    raise DataError(f"{where}: {key} {found}, and should be {wanted}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_LETTERS and value.isprintable()


def _is_array(value: Any, kinds: str, length: int | None = None) -> bool:
    """Return whether ``value`` is an array of one of these kinds, of shape (length,) if given."""
    fits = isinstance(value, np.ndarray) and value.dtype.kind in kinds
    return fits and (length is None or value.shape == (length,))


def _are_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    """Return whether ``value`` is an array, or nested lists, of finite numbers of that shape."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    return array.shape == shape and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
