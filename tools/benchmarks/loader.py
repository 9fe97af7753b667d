"""Samples per second of one core: our dataset, and OpenPCDet's on the same files.

What counts is the time of the processor (user and system), which other work on the machine hardly
changes: a core that does nothing else makes as many samples a second as the inverse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import nsmae_plugin

# isort: split
import numpy as np
import torch
from PIL import Image, ImageFile

from nsmae_plugin import host
from nsmae_plugin.data import images
from nsmae_plugin.data.loader import prepare_worker, seeded
from nsmae_plugin.formats import lidar_files
from nsmae_plugin.geometry import calibration
from tools.benchmarks.measure import MeasurementError

VARIANTS = ("ours", "openpcdet")
# Of sizes, means and spreads: images are scaled differently, see nsmae_plugin.data.images, and
# OpenPCDet rounds elsewhere, which may put a point into the next voxel.
TOLERANCE = 0.01
SPEED = 10.0  # m/s, of the vehicle in sweeps that stand in for missing ones
TURN = 0.05  # rad/s
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


def build_dataset(config: Any, variant: str, sweeps: int | None) -> Any:
    """The training split of a configuration, as ours or as OpenPCDet's ``NuScenesDataset``.

    Args:
        sweeps: how many LiDAR files make a sample; None takes ``MAX_SWEEPS``.
    """
    nsmae_plugin.register()
    data = config.DATA_CONFIG
    if sweeps is not None:
        data.MAX_SWEEPS = sweeps
    if variant == "openpcdet":
        data.DATASET = "NuScenesDataset"
    dataset: Any = host.build_dataset(data, config.CLASS_NAMES, training=True)
    for info in dataset.infos:
        info["sweeps"] = [moving(one, number) for number, one in enumerate(info["sweeps"], 1)]
    return dataset


def moving(sweep: dict[str, Any], number: int) -> dict[str, Any]:
    """A sweep; a keyframe that replaces a missing sweep is moved as if the vehicle had driven.

    Sweeps of the first frame of a scene are copies of the keyframe, which would cost less than
    others: no transformation, and no voxels of their own.
    """
    if sweep["transform_matrix"] is not None:
        return sweep
    lag = 0.05 * number
    cosine, sine = np.cos(TURN * lag), np.sin(TURN * lag)
    matrix = np.eye(4)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix[1, 3] = -SPEED * lag
    return {**sweep, "transform_matrix": matrix, "time_lag": lag}


def load_batch(dataset: Any, batch: int, number: int) -> dict[str, Any]:
    """Batch ``number`` of the dataset, seeded: the same draws for every variant."""
    samples = []
    for position in range(number * batch, (number + 1) * batch):
        with seeded(position):
            samples.append(dataset[position % len(dataset)])
    return dataset.collate_batch(samples)


def describe(batch: dict[str, Any]) -> dict[str, float]:
    """Numbers that tell two batches apart: how many points and voxels, and what is in them."""
    numbers: dict[str, float] = {}
    for key in ("points", "voxels", "voxel_coords", "gt_boxes", "lidar_aug_matrix", "camera_imgs"):
        if key in batch:
            values = torch.as_tensor(np.asarray(batch[key])).double()
            numbers |= {f"{key}, size": float(values.numel()), f"{key}, mean": float(values.mean())}
            numbers[f"{key}, spread"] = float(values.std())
    return numbers


def check_same(loaded: dict[str, dict[str, float]]) -> None:
    """Raise MeasurementError where the variants loaded something else."""
    reference = loaded["ours"]
    for variant, numbers in loaded.items():
        for name in set(reference) & set(numbers):
            ours, theirs = reference[name], numbers[name]
            if abs(ours - theirs) > TOLERANCE * max(1.0, abs(theirs)):
                raise MeasurementError(f"{name} is {ours} of ours, {theirs} of {variant}")


def measure(
    config: Any, variant: str, batch: int, repeats: int, sweeps: int | None
) -> dict[str, Any]:
    """Processor seconds per sample of ``repeats`` batches, and by stage; what was loaded."""
    dataset = build_dataset(config, variant, sweeps)
    if variant == "ours":
        prepare_worker(0)
    torch.set_num_threads(1)  # as torch's loader does in its processes
    first = describe(load_batch(dataset, batch, 0))
    seconds = []
    for number in range(1, 1 + repeats):
        start = time.process_time()
        load_batch(dataset, batch, number)
        seconds.append((time.process_time() - start) / batch)
    stopwatch = Stopwatch()
    with watch(dataset, stopwatch):
        for number in range(1, 1 + repeats):
            with stopwatch.stage("rest"):
                load_batch(dataset, batch, number)
    stages = {name: one / (repeats * batch) for name, one in stopwatch.seconds.items()}
    return {"seconds": seconds, "mib": [], "stages": stages, "loaded": first}


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
