"""``gt_sampling`` on both hosts: checks, restriction to labelled frames, independent samples."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.gt_database import CREATE, Entry

NAME = "gt_sampling"


def check_setting(augmentors: Sequence[str], cameras: bool, lidar: bool, labels: bool) -> None:
    """Refuse ``gt_sampling`` where it cannot work.

    Raises:
        ConfigError: with cameras, without LiDAR or without labels.
    """
    if NAME not in augmentors:
        return
    if cameras:
        raise ConfigError(
            "gt_sampling pastes objects that no camera image shows; with USE_CAMERA True remove "
            "it, or put it into DATA_AUGMENTOR.DISABLE_AUG_LIST"
        )
    for name, value in (("USE_LIDAR", lidar), ("USE_LABELS", labels)):
        if not value:
            raise ConfigError(f"gt_sampling needs {name} True; remove it or switch {name} on")


def samplers(augmentor: Any) -> Iterator[Any]:
    """The samplers in an augmentor of either host."""
    queue = augmentor.data_augmentor_queue if augmentor is not None else ()
    return (step for step in queue if hasattr(step, "db_infos"))


def restart(augmentor: Any) -> None:
    """Make the objects of a sample independent of the samples before it, and so of the worker.

    OpenPCDet's sampler continues where it stopped.
    """
    for sampler in samplers(augmentor):
        for group in sampler.sample_groups.values():
            if "indices" in group:
                group["pointer"] = len(group["indices"])


def limit(
    augmentor: Any, frames: Sequence[dict[str, Any]], labelled: Sequence[dict[str, Any]]
) -> None:
    """Keep only objects of the labelled frames; others would add unused labels.

    Args:
        frames: all training frames, in the order of the info files.
        labelled: those of them that may be used.

    Raises:
        DataError: the database was made from other frames.
    """
    tokens = {info["token"] for info in labelled}
    usable = [info["token"] in tokens for info in frames]
    for sampler in samplers(augmentor):
        for name, entries in sampler.db_infos.items():
            for entry in entries:
                _check_origin(entry, frames)
            sampler.db_infos[name] = [entry for entry in entries if usable[entry["image_idx"]]]


def drop_empty_groups(augmentor: Any, logger: logging.Logger) -> None:
    """Remove classes without any object, on which OpenPCDet fails."""
    for sampler in samplers(augmentor):
        for name in [name for name in sampler.sample_groups if not sampler.db_infos[name]]:
            logger.warning("gt_sampling: no object of class %s can be pasted", name)
            del sampler.sample_groups[name]


def _check_origin(entry: Entry, frames: Sequence[dict[str, Any]]) -> None:
    frame, box = entry["image_idx"], entry["gt_idx"]
    boxes = frames[frame]["gt_boxes"] if frame < len(frames) else ()
    if box >= len(boxes) or not np.array_equal(boxes[box], entry["box3d_lidar"], equal_nan=True):
        raise DataError(
            f"{entry['path']} of the ground-truth database is no box of the training frames: it "
            f"was made from another info file; {CREATE}"
        )
