"""The ground-truth database: the points of every labelled box, in OpenPCDet's files.

``gt_database_{N}sweeps_withvelo/{frame}_{class}_{box}.bin`` holds the points (P, 5) float32 x, y, z
[m, relative to the centre of the box], intensity, time lag [s] of N sweeps, and
``nuscenes_dbinfos_{N}sweeps_withvelo.pkl`` lists them by class.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.infos import write_infos
from nsmae_plugin.formats.lidar_files import read_frame, read_points
from nsmae_plugin.formats.lidar_layout import NUSCENES, LidarFiles
from nsmae_plugin.formats.nuscenes.annotations import DETECTION_NAMES
from nsmae_plugin.formats.nuscenes.info_builder import parallel
from nsmae_plugin.ops.compiled.roiaware_pool3d_cuda import points_in_boxes_gpu
from nsmae_plugin.runtime.file_names import file_name
from nsmae_plugin.runtime.files import output_errors, replacing_folder
from nsmae_plugin.runtime.safe_pickle import load_plain

Entry = dict[str, Any]

CREATE = (
    "create it with: nsmae create-infos --data_path DATA_PATH --version VERSION --with_gt_database"
)
_COUNTS = ("image_idx", "gt_idx", "num_points_in_gt")
_ENTRY_KEYS = {"name", "path", "box3d_lidar", *_COUNTS}


def write_gt_database(
    root: Path,
    infos: Sequence[dict[str, Any]],
    max_sweeps: int,
    workers: int = 0,
    layout: LidarFiles = NUSCENES,
    out_dir: Path | None = None,
) -> Path:
    """Write the database of labelled frames; returns the path of its list.

    As OpenPCDet's, boxes of ignored objects included; a detection class that no frame shows gets an
    empty list, where OpenPCDet's has no entry and its sampler fails. The list is written last, when
    all points are there.

    Args:
        root: folder of ``samples/`` and ``sweeps/``.
        infos: of the training split, with boxes and at least ``max_sweeps - 1`` sweeps. The
            database refers to a frame by its position here.
        max_sweeps: the keyframe included.
        workers: additional processes.
        layout: of the LiDAR files.
        out_dir: folder of the database; None takes ``root``. The list then names absolute paths.

    Raises:
        DataError: a LiDAR file is missing or damaged, or a class cannot name a file.
        OutputError: the database cannot be written.
    """
    name = f"{max_sweeps}sweeps_withvelo"
    place = root if out_dir is None else out_dir.resolve()
    folder, path = place / f"gt_database_{name}", place / f"nuscenes_dbinfos_{name}.pkl"
    named = folder.name if out_dir is None else str(folder)
    classes: dict[str, list[Entry]] = {}
    with replacing_folder(folder) as partial_folder:
        cut = partial(_cut_frame, root, partial_folder, named, max_sweeps, layout)
        frames = parallel(cut, list(enumerate(infos)), workers)
        for entries in tqdm(frames, total=len(infos), desc="gt database"):
            for entry in entries:
                classes.setdefault(str(entry["name"]), []).append(entry)
        with output_errors(path):
            path.unlink(missing_ok=True)  # it names points of the folder that now goes
    for missing in sorted(set(DETECTION_NAMES.values()) - set(classes)):
        classes[missing] = []
    write_infos(path, classes)
    return path


def _cut_frame(
    root: Path,
    folder: Path,
    named: str,
    max_sweeps: int,
    layout: LidarFiles,
    numbered: tuple[int, dict[str, Any]],
) -> list[Entry]:
    """Write the points in each box of one frame into ``folder``; returns the entries of the boxes.

    Args:
        named: the folder in the list, where it will be.
    """
    frame, info = numbered
    points = read_frame(root, info, range(max_sweeps - 1), partial(read_points, layout=layout))
    boxes, names = info["gt_boxes"], info["gt_names"]
    owner = box_of_points(points, boxes)
    entries = []
    for box, name in enumerate(names):
        inside = points[owner == box]
        inside[:, :3] -= boxes[box, :3]
        file = f"{frame}_{file_name(str(name), 'the class of a box')}_{box}.bin"
        with output_errors(folder / file):
            inside.tofile(folder / file)
        entries.append(
            {
                "name": name,
                "path": f"{named}/{file}",
                "image_idx": frame,
                "gt_idx": box,
                "box3d_lidar": boxes[box],
                "num_points_in_gt": len(inside),
            }
        )
    return entries


def box_of_points(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(P,) the first of the boxes (G, 7+) that holds each of the points (P, 3+), -1 for none."""
    found = torch.full((1, len(points)), -1, dtype=torch.int32)
    points_in_boxes_gpu(_tensor(boxes[:, :7])[None], _tensor(points[:, :3])[None], found)
    return found[0].numpy()


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _is_entry(entry: Any) -> bool:
    """Return whether an entry is complete and of the form that sampling needs."""
    if not isinstance(entry, dict) or not set(entry) >= _ENTRY_KEYS:
        return False
    box = entry["box3d_lidar"]
    return (
        all(isinstance(entry[key], str) for key in ("name", "path"))
        and all(isinstance(entry[key], int | np.integer) and entry[key] >= 0 for key in _COUNTS)
        and isinstance(box, np.ndarray)
        and box.shape in ((7,), (9,))
        and box.dtype.kind == "f"
        and bool(np.isfinite(box[:7]).all())
    )


def read_gt_database(path: Path) -> dict[str, list[Entry]]:
    """Class → entries of a database's list, read safely.

    Raises:
        DataError: the file is missing, damaged or of another layout.
    """
    content = load_plain(path, "the list of the ground-truth database", CREATE)
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(one, list) and all(map(_is_entry, one)) for one in lists):
        raise DataError(
            f"{path} holds no dict of class names and lists of {', '.join(sorted(_ENTRY_KEYS))}; "
            f"{CREATE}"
        )
    return content
