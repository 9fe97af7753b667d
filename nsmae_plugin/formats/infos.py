"""Info files in OpenPCDet's nuScenes layout: reading without trust, and writing.

An info file is a pickled list with one dict per keyframe. It is read by
:mod:`nsmae_plugin.runtime.safe_pickle`, so that a file from elsewhere cannot run code.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime.files import replacing
from nsmae_plugin.runtime.safe_pickle import load_plain

CREATE = "create it with: python tools/create_infos.py --data_path DATA_PATH --version VERSION"


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
