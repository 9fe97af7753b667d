"""Samples per second of one core: our dataset, and OpenPCDet's on the same files.

``python -m tools.benchmarks.loader VARIANT ...`` measures one variant in this process and
prints JSON; ``tools/benchmark.py loader`` runs them in turn. What counts is the time of the
processor (user and system), which other work on the machine hardly changes: a core that does
nothing else makes as many samples a second as the inverse.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import nsmae_plugin

# isort: split
import numpy as np
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import prepare_worker, seeded
from nsmae_plugin.runtime.command_line import errors_in_one_line
from tools.benchmarks.measure import MeasurementError, isolated_parser
from tools.benchmarks.stopwatch import Stopwatch, watch

VARIANTS = ("ours", "openpcdet")
# Of sizes, means and spreads: images are scaled differently, see nsmae_plugin.data.images, and
# OpenPCDet rounds elsewhere, which may put a point into the next voxel.
TOLERANCE = 0.01
SPEED = 10.0  # m/s, of the vehicle in sweeps that stand in for missing ones
TURN = 0.05  # rad/s


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


def measure_variant(dataset: Any, batch: int, repeats: int) -> dict[str, Any]:
    """Processor seconds per sample of ``repeats`` batches, and by stage; what was loaded."""
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


@errors_in_one_line
def main() -> int:
    parser = isolated_parser(__doc__, configured=True, on_device=False)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--sweeps", type=int)
    args = parser.parse_args()
    config = load_config(args.cfg_file, args.overrides)
    dataset = build_dataset(config, args.variant, args.sweeps)
    if args.variant == "ours":
        prepare_worker(0)
    print(json.dumps(measure_variant(dataset, args.batch, args.repeats)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
