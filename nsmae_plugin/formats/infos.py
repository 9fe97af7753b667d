"""Info files in OpenPCDet's nuScenes layout, read safely and written atomically.

An info file is a pickled list with one dict per keyframe. It is read by
:mod:`nsmae_plugin.runtime.safe_pickle`, so that a file from elsewhere cannot run code.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime.files import replacing
from nsmae_plugin.runtime.safe_pickle import load_plain

CREATE = (
    "create it with: nsmae create-infos --data_path DATA_PATH --version VERSION "
    "--max_sweeps MAX_SWEEPS --with_cam"
)


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
