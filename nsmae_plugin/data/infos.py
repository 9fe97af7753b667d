"""Info files in OpenPCDet's nuScenes layout: reading without trust, checking, writing.

An info file is a pickled list with one dict per keyframe. It is read by
:mod:`nsmae_plugin.data.safe_pickle`, so that a file from elsewhere cannot run code.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data.safe_pickle import load_plain
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.files import replacing

CREATE = "create it with: python tools/create_infos.py --data_path DATA_PATH --version VERSION"

_FRAME_KEYS = ("token", "lidar_path", "sweeps", "timestamp")
_CAMERA_KEYS = {
    "data_path": None,
    "camera_intrinsics": (3, 3),
    "sensor2lidar_rotation": (3, 3),
    "sensor2lidar_translation": (3,),
    "sensor2ego_rotation": (4,),
    "sensor2ego_translation": (3,),
}


def read_infos(path: Path) -> list[dict[str, Any]]:
    """The frames of one info file.

    Raises:
        DataError: the file is missing, is no pickle of NumPy arrays and plain containers, or does
            not hold a list of frames.
    """
    content = load_plain(path, "the info file", CREATE)
    if not isinstance(content, list):
        hint = ""
        if isinstance(content, dict) and {"infos", "data_list"} & set(content):
            hint = " (mmdetection3d's layout)"
        raise DataError(
            f"the info file {path} holds a {type(content).__name__}{hint}, not OpenPCDet's list of "
            f"frames; {CREATE}"
        )
    return content


def write_infos(path: Path, infos: Sequence[Any] | Mapping[str, Any]) -> None:
    """Pickle ``infos`` so that ``path`` holds either its old content or all of the new."""
    with replacing(path) as file:
        pickle.dump(infos, file, protocol=4)  # 4: readable by every Python of OpenPCDet


def check_infos(
    infos: Sequence[Any], path: Path, max_sweeps: int, cameras: bool, labels: bool
) -> None:
    """Compare every frame with what the data set is going to read.

    Args:
        max_sweeps: the keyframe included.
        cameras, labels: whether they are needed.

    Raises:
        DataError: naming the file, the frame and what is missing.
        ConfigError: MAX_SWEEPS asks for more sweeps than the file lists.
    """
    for position, info in enumerate(infos):
        _check_frame(info, f"frame {position} of the info file {path}")
        if cameras:
            _check_cameras(info, path)
        if labels and not {"gt_boxes", "gt_names", "num_lidar_pts"} <= set(info):
            raise DataError(
                f"{path} has no boxes for sample {info['token']} (a test split?); "
                "set DATA_CONFIG.USE_LABELS False or use an annotated split"
            )
        if len(info["sweeps"]) < max_sweeps - 1:
            raise ConfigError(
                f"DATA_CONFIG.MAX_SWEEPS is {max_sweeps}, but {path} lists only "
                f"{len(info['sweeps'])} earlier sweeps for sample {info['token']}; lower "
                f"MAX_SWEEPS or {CREATE} --max_sweeps {max_sweeps}"
            )


def _check_frame(info: Any, where: str) -> None:
    if not isinstance(info, dict):
        raise DataError(f"{where} is a {type(info).__name__}, not a dict; {CREATE}")
    missing = [key for key in _FRAME_KEYS if key not in info]
    if missing:
        kitti = " (it looks like KITTI's layout)" if "point_cloud" in info else ""
        raise DataError(
            f"{where} lacks {', '.join(missing)}{kitti}; OpenPCDet's nuScenes layout is needed: "
            f"{CREATE}"
        )


def _check_cameras(info: Mapping[str, Any], path: Path) -> None:
    if not info.get("cams"):
        raise DataError(
            f"{path} has no cameras for sample {info['token']}; it was made without them: "
            f"{CREATE} --with_cam"
        )
    for channel, camera in info["cams"].items():
        for key, shape in _CAMERA_KEYS.items():
            if key not in camera or (shape and np.shape(camera[key]) != shape):
                raise DataError(
                    f"{path}: camera {channel} of sample {info['token']} has no {key}"
                    f"{f' of shape {shape}' if shape else ''}; {CREATE} --with_cam"
                )


def balanced_resampling(
    infos: Sequence[dict[str, Any]], class_names: Sequence[str], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw frames so that every class appears in about as many (CBGS, arXiv 1908.09492).

    A frame counts once for every class that it shows; of each class's frames, with replacement, as
    many are drawn as the average over the classes, but at least one. Where OpenPCDet's rule works
    it is the same; OpenPCDet fails on a class that no frame shows.

    Raises:
        DataError: no frame shows any of the classes.
    """
    members = _frames_by_class(infos, class_names)
    share = _share(members)
    drawn = [rng.choice(positions, share) for positions in members if positions]
    if not drawn:
        raise DataError(f"no frame has a box of {', '.join(class_names)}; nothing to balance")
    return [infos[position] for position in np.concatenate(drawn)]


def balanced_length(infos: Sequence[dict[str, Any]], class_names: Sequence[str]) -> int:
    """How many frames :func:`balanced_resampling` draws."""
    members = _frames_by_class(infos, class_names)
    return _share(members) * sum(map(bool, members))


def _frames_by_class(
    infos: Sequence[dict[str, Any]], class_names: Sequence[str]
) -> list[list[int]]:
    return [
        [position for position, info in enumerate(infos) if name in info["gt_names"]]
        for name in class_names
    ]


def _share(members: list[list[int]]) -> int:
    return max(1, sum(map(len, members)) // len(members))
