"""Time spent in the stages of a dataset, on either host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image, ImageFile

from nsmae_plugin.data import images
from nsmae_plugin.formats import lidar_files
from nsmae_plugin.geometry import calibration

# step of DATA_PROCESSOR -> stage
PROCESSORS = {
    "mask_points_and_boxes_outside_range": "range and shuffling",
    "shuffle_points": "range and shuffling",
    "transform_points_to_voxels": "voxelisation",
    "image_calibrate": "matrices",
    "image_normalize": "normalisation",
    "mask_image_patches": "masks",
    "mask_voxels": "masks",
    "mask_depth_points": "masks",
}


class Stopwatch:
    """Processor seconds by stage; a stage within another one is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]  # of the stages within each open one

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for ``name``, less that of stages within."""
        start = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.process_time() - start
            own = whole - self._inner.pop()
            self._inner[-1] += whole
            self.seconds[name] = self.seconds.get(name, 0.0) + own

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted for ``name``."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call


@contextmanager
def watch(dataset: Any, stopwatch: Stopwatch) -> Iterator[None]:
    """Time the stages of a dataset of either host within the block.

    Images are read while they are decoded, so their files count there.
    """
    targets = [
        (np, "fromfile", "LiDAR files"),
        (ImageFile.ImageFile, "load", "decoding"),
        (Image.Image, "resize", "scaling"),
        (Image.Image, "crop", "scaling"),
        (images, "scale_and_crop", "scaling"),
        (calibration, "camera_matrices", "matrices"),
        (lidar_files, "read_frame", "sweeps"),
        (dataset.data_augmentor, "forward", "augmentation"),
        (dataset, "collate_batch", "collation"),
    ]
    if hasattr(dataset, "get_lidar_with_sweeps"):
        targets.append((dataset, "get_lidar_with_sweeps", "sweeps"))
    if getattr(dataset, "map_labels", None):
        targets.append((dataset.map_labels, "masks", "map labels"))
    with ExitStack() as stack:
        for owner, name, stage in targets:
            function = stopwatch.timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        processor = dataset.data_processor
        queue = [
            stopwatch.timed(PROCESSORS.get(_name(step), "other processors"), step)
            for step in processor.data_processor_queue
        ]
        stack.enter_context(mock.patch.object(processor, "data_processor_queue", queue))
        yield


def _name(step: Any) -> str:
    return getattr(getattr(step, "func", step), "__name__", "")
