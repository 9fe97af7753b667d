"""Ground-truth sampling under OpenPCDet's YAML keys: objects of other frames, pasted into a sample.

Introduced by SECOND (Yan et al., Sensors 2018). The same seed gives what OpenPCDet's sampler gives
for its first sample. OpenPCDet then goes on through one permutation of the objects, over samples,
so that its samples depend on those before them; here every sample starts anew.
"""
# ruff: noqa: NPY002
# Drawn from NumPy's global state, as in OpenPCDet: the loader seeds it per sample.

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.gt_database import Entry, read_gt_database
from nsmae_plugin.ops.compiled.iou3d_nms_cuda import boxes_iou_bev_cpu
from nsmae_plugin.ops.compiled.roiaware_pool3d_cuda import points_in_boxes_cpu
from nsmae_plugin.runtime.reading import open_regular

MOST_BYTES = 1 << 28  # of one object
_TIME_TOLERANCE = 1e-6  # seconds
# Switches that belong to other datasets, or to databases that no tool writes any more.
_UNSUPPORTED = ("USE_ROAD_PLANE", "DATABASE_WITH_FAKELIDAR", "IMG_AUG_TYPE", "USE_SHARED_MEMORY")


class DatabaseSampler:
    """Pastes boxes with their points where they overlap nothing.

    Per class of ``SAMPLE_GROUPS``, in that order: draw objects, leave out those that overlap a box
    of the sample, an object pasted before or one another, and add the rest. Points of the sample
    inside a pasted box (enlarged by ``REMOVE_EXTRA_WIDTH``, metres) are removed.

    Args:
        root_path: folder that the paths of the database start at.
        config: of the augmentor ``gt_sampling``. ``DB_INFO_PATH``: lists of databases;
            ``PREPARE``: ``filter_by_min_points: ["car:5", ...]`` and ``filter_by_difficulty: [-1]``
            leave out entries; ``SAMPLE_GROUPS``: ``["car:2", ...]`` objects per sample, less the
            boxes that it has when ``LIMIT_WHOLE_SCENE``; ``NUM_POINT_FEATURES`` of the files;
            ``FILTER_OBJ_POINTS_BY_TIMESTAMP`` keeps points with time lags in ``TIME_RANGE``.
        class_names: names of the classes; groups of other classes are ignored.

    Attributes:
        db_infos: class → entries that may be pasted.
        sample_groups: class → ``{"sample_num": objects per sample}``.

    Raises:
        ConfigError: settings that mean nothing or that this host does not support.
        DataError: the list of the database is missing or damaged.
    """

    def __init__(
        self,
        root_path: Path,
        config: Any,
        class_names: Sequence[str],
        logger: logging.Logger | None = None,
    ):
        used = [key for key in _UNSUPPORTED if config.get(key)]
        if used:
            raise ConfigError(f"gt_sampling: the built-in host has no {', '.join(used)}; remove it")
        self.root_path, self.sampler_cfg = Path(root_path), config
        self.db_infos: dict[str, list[Entry]] = {name: [] for name in class_names}
        for path in config["DB_INFO_PATH"]:
            content = read_gt_database(self.root_path / path)
            for name, entries in self.db_infos.items():
                entries += content.get(name, [])
        self._prepare(config["PREPARE"])
        counts = _numbers(config["SAMPLE_GROUPS"])
        self.sample_groups = {
            name: {"sample_num": count} for name, count in counts.items() if name in self.db_infos
        }
        if logger:
            found = ", ".join(f"{name} {len(entries)}" for name, entries in self.db_infos.items())
            logger.info("gt_sampling: objects in the database: %s", found)

    def _prepare(self, filters: Any) -> None:
        least = _numbers(filters.get("filter_by_min_points", ()))
        removed = filters.get("filter_by_difficulty", ())
        for name, entries in self.db_infos.items():
            if removed and not all("difficulty" in entry for entry in entries):
                raise ConfigError(
                    "gt_sampling: this database has no difficulty; remove filter_by_difficulty"
                )
            self.db_infos[name] = [
                entry
                for entry in entries
                if entry["num_points_in_gt"] >= least.get(name, 0)
                and not (removed and entry["difficulty"] in removed)
            ]

    def __call__(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """The sample with pasted objects.

        Args:
            data_dict: ``points`` (P, C), ``gt_boxes`` (G, 7+), ``gt_names`` (G,), and
                ``gt_boxes_mask`` (G,), which the boxes are reduced by when something is pasted; the
                others still keep objects away.
        """
        pasted, boxes = self._draw(data_dict["gt_boxes"], data_dict["gt_names"])
        if not pasted:
            return data_dict
        mask = data_dict["gt_boxes_mask"]
        return {
            **data_dict,
            "points": self._paste_points(data_dict["points"], pasted, boxes),
            "gt_boxes": np.concatenate([data_dict["gt_boxes"][mask], boxes]),
            "gt_names": np.concatenate(
                [data_dict["gt_names"][mask], np.array([entry["name"] for entry in pasted])]
            ),
            "gt_boxes_mask": np.ones(mask.sum() + len(pasted), dtype=bool),
        }

    def _draw(self, present: np.ndarray, names: np.ndarray) -> tuple[list[Entry], np.ndarray]:
        """The entries to paste, and their boxes (K, 7+)."""
        pasted: list[Entry] = []
        boxes = present
        for name, group in self.sample_groups.items():
            entries, wanted = self.db_infos[name], group["sample_num"]
            if self.sampler_cfg.get("LIMIT_WHOLE_SCENE", False):
                wanted -= int((names == name).sum())
            if wanted <= 0 or not entries:
                continue
            order = np.random.permutation(len(entries))[:wanted]
            candidates = np.stack([entries[number]["box3d_lidar"] for number in order])
            candidates = candidates.astype(np.float32)
            free = _free(candidates, boxes)
            pasted += [entries[number] for number in order[free]]
            boxes = np.concatenate([boxes, candidates[free, : boxes.shape[1]]])
        return pasted, boxes[len(present) :]

    def _paste_points(
        self, points: np.ndarray, pasted: list[Entry], boxes: np.ndarray
    ) -> np.ndarray:
        added = np.concatenate([self._points(entry) for entry in pasted])
        if self.sampler_cfg.get("FILTER_OBJ_POINTS_BY_TIMESTAMP", False):
            first, last = sorted(self.sampler_cfg["TIME_RANGE"])
            times = added[:, -1]
            added = added[(times > first - _TIME_TOLERANCE) & (times < last + _TIME_TOLERANCE)]
        if added.shape[1] != points.shape[1]:
            raise ConfigError(
                f"gt_sampling: NUM_POINT_FEATURES is {added.shape[1]}, but the points of the data "
                f"set have {points.shape[1]} features"
            )
        cleared = boxes[:, :7].astype(np.float32)
        cleared[:, 3:6] += np.asarray(
            self.sampler_cfg.get("REMOVE_EXTRA_WIDTH", (0, 0, 0)), np.float32
        )
        inside = torch.zeros(len(cleared), len(points), dtype=torch.int32)
        points_in_boxes_cpu(torch.from_numpy(cleared), _tensor(points[:, :3]), inside)
        kept = points[~inside.any(dim=0).numpy()]
        return np.concatenate([added.astype(points.dtype, copy=False), kept])

    def _points(self, entry: Entry) -> np.ndarray:
        """(P, NUM_POINT_FEATURES) points of an object, moved to its place."""
        path, count = self.root_path / entry["path"], entry["num_points_in_gt"]
        features = self.sampler_cfg["NUM_POINT_FEATURES"]
        what, owner = "the object", " of the ground-truth database"
        with open_regular(path, what, "create the database again", MOST_BYTES, owner) as file:
            values = np.fromfile(file, dtype=np.float32)
        if len(values) != count * features:
            raise DataError(
                f"{path} holds {len(values)} numbers, not those of {count} points with "
                f"NUM_POINT_FEATURES {features}; check the setting or create the database again"
            )
        points = values.reshape(count, features)
        points[:, :3] += entry["box3d_lidar"][:3].astype(np.float32)
        return points


def _numbers(pairs: Sequence[str]) -> dict[str, int]:
    """``["car:5", ...]`` as a dict."""
    return {name.strip(): int(number) for name, number in (pair.split(":") for pair in pairs)}


def _free(candidates: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(K,) which candidates overlap neither one of the boxes nor one another, seen from above."""
    among = _overlaps(candidates, candidates)
    among.fill_diagonal_(0)
    taken = _overlaps(candidates, boxes) if len(boxes) else among
    return ((taken.amax(dim=1) + among.amax(dim=1)) == 0).numpy()


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> torch.Tensor:
    result = torch.zeros(len(boxes), len(others))
    boxes_iou_bev_cpu(_tensor(boxes[:, :7]), _tensor(others[:, :7]), result)
    return result


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
