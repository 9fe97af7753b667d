"""A whole training step: the training loop's own, and its modules one by one."""

from __future__ import annotations

import copy
import logging
import math
import statistics
from collections.abc import Callable
from typing import Any

import nsmae_plugin

# isort: split
import numpy as np
import torch
from torch.amp import GradScaler

from nsmae_plugin import host
from nsmae_plugin.data.masking import hidden_subset, image_patch_mask
from nsmae_plugin.detectors.outputs import RENDERINGS, outputs_of
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.ops.pooling_plan import build_plan
from nsmae_plugin.optimization.freezing import freeze
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.training.precision import fit_precision
from nsmae_plugin.training.run_state import Progress, Run
from nsmae_plugin.training.update import StepRecord, read_records, update_weights
from tools.benchmarks.inputs import first_frames, made_up_batch, made_up_dataset
from tools.benchmarks.materialised import LIFTING, materialise
from tools.benchmarks.measure import measure_calls
from tools.benchmarks.modules import ModuleTimer

#: As is; with the published frustum; with OpenPCDet's modules, published frustum included.
VARIANTS = ("factorised", "materialised", "openpcdet")
TOTAL_STEPS = 1000  # of the learning-rate schedule
FIRST_STEPS = 3  # not timed: with huge pages a process has its memory in order after as many


def build_model(config: Any, variant: str = "factorised") -> Any:
    """The detector of a configuration, seeded, in training mode.

    Raises:
        ConfigError: the variant needs a frustum, and the configuration has none.
    """
    nsmae_plugin.register()
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    detector = host.lookup("detector", config.MODEL.NAME)
    pretraining = RENDERINGS in outputs_of(detector, config.MODEL)
    name = (config.MODEL.get("VTRANSFORM") or {}).get("NAME")
    if variant == "openpcdet" and not pretraining and name == "FactorizedDepthLSSTransform":
        config.MODEL.VTRANSFORM.NAME = "DepthLSSTransform"
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), made_up_dataset(config))
    lifts = getattr(getattr(model, "vtransform", None), "renders_frustum", False)
    if variant == "materialised" and not lifts:
        raise ConfigError(
            f"MODEL.VTRANSFORM.NAME is {name}, no frustum to lift: set it to {' or '.join(LIFTING)}"
        )
    if variant != "factorised" and lifts:
        materialise(model)
    return model.train()


def make_step(
    model: Any,
    config: Any,
    batch: dict[str, Any],
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
) -> Callable[[], StepRecord]:
    """The update of the training loop, with another rotation of the cloud each time.

    So that the geometry of the view transform is new in each step, as under augmentation. Nothing
    is read from the device.
    """
    settings = config.OPTIMIZATION
    freeze(model, settings, logging.getLogger(__name__))
    optimizer = build_optimizer(model, settings)
    run = Run(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, settings, TOTAL_STEPS, TOTAL_STEPS),
        scaler=GradScaler(device.type, enabled=False),
        progress=Progress(),
    )

    def step() -> StepRecord:
        turned = turn(batch, run.progress.step)
        return update_weights(
            run,
            [turned],
            device,
            clip=settings.GRAD_NORM_CLIP,
            clip_by_branch=settings.get("CLIP_BY_BRANCH", False),
            amp_dtype=amp_dtype,
            check=False,
        )

    return step


def turn(batch: dict[str, Any], step: int) -> dict[str, Any]:
    """The batch in a LiDAR frame that is turned a little with every step."""
    angle, lidar_aug = 1e-3 * step, batch["lidar_aug_matrix"]
    rotation = torch.eye(4, device=lidar_aug.device)
    rotation[0, 0] = rotation[1, 1] = math.cos(angle)
    rotation[1, 0], rotation[0, 1] = math.sin(angle), -math.sin(angle)
    return {**batch, "lidar_aug_matrix": rotation @ lidar_aug}


def stage_seconds(model: Any, batch: dict[str, Any], repeats: int) -> dict[str, float]:
    """Fastest of some runs of each stage beside the network; batch on the model's device."""
    stages: dict[str, Callable[[], Any]] = {}
    if "hidden_voxel_coords" in batch or "image_patch_mask" in batch:
        stages["masks"] = lambda: _draw_masks(batch)
        stages["targets"] = lambda: [head.targets(batch) for head in model.render_heads]
    vtransform = getattr(model, "vtransform", None)
    if getattr(vtransform, "reads_lidar_depth", False):
        stages["depth maps"] = lambda: vtransform.depth_points(batch)
    if getattr(vtransform, "renders_frustum", False):
        cells = len(batch["lidar_aug_matrix"]) * vtransform.grid.num_voxels
        stages["geometry"] = lambda: build_plan(vtransform.cells(batch), cells)
    device = batch["lidar_aug_matrix"].device
    measured = {name: measure_calls(stage, device, repeats) for name, stage in stages.items()}
    return {name: min(one["seconds"]) for name, one in measured.items()}


def module_table(
    model: Any,
    batch: dict[str, Any],
    device: torch.device,
    repeats: int,
    amp_dtype: torch.dtype | None = None,
) -> dict[str, dict[str, float | None]]:
    """Median seconds ``forward`` and ``backward`` of every module, and the ``mib`` in between.

    The backward pass of the last module includes that of the loss.
    """
    ModuleTimer(model, device, amp_dtype).step(turn(batch, 0))  # warms up
    timer = ModuleTimer(model, device, amp_dtype)
    for step in range(1, repeats + 1):
        timer.step(turn(batch, step))
    return {
        name: {
            "forward": statistics.median(timing.forward),
            "backward": statistics.median(timing.backward) if timing.backward else None,
            "mib": statistics.median(timing.mib),
        }
        for name, timing in timer.timings.items()
    }


def _draw_masks(batch: dict[str, Any]) -> None:
    """As many draws as the masking processors make for this batch."""
    rng = np.random.default_rng(0)
    if "voxels" in batch:
        hidden_subset(len(batch["voxels"]) + len(batch["hidden_voxel_coords"]), 0.9, rng)
    if "camera_imgs" in batch:
        hidden_subset(len(batch["points"]), 0.9, rng)
        height, width = batch["camera_imgs"].shape[-2:]
        for _ in range(batch["batch_size"]):
            image_patch_mask(batch["camera_imgs"].shape[1], height, width, 8, 0.5, rng)


def measure_variant(
    config: Any,
    variant: str,
    batch: int,
    device: torch.device,
    repeats: int,
    use_amp: bool = False,
    own_data: bool = False,
) -> dict[str, Any]:
    """Seconds and MiB of the step, the loss terms of the first, parameters, and what it is made of.

    ``modules``: :func:`module_table`; ``stages``: :func:`stage_seconds`.
    """
    amp_dtype = torch.bfloat16 if use_amp else None
    model = fit_precision(build_model(config, variant).to(device), amp_dtype)
    frames = first_frames if own_data else made_up_batch
    data = host.to_device(frames(config, batch), device)
    step = make_step(model, config, data, device, amp_dtype)
    records: list[StepRecord] = []
    measured = measure_calls(lambda: records.append(step()), device, repeats, FIRST_STEPS)
    return {
        **measured,
        "first_step": read_records(records)[0],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "modules": module_table(model, data, device, repeats, amp_dtype),
        "stages": stage_seconds(model, data, repeats=5),
    }
