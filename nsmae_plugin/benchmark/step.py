"""A whole pre-training step on made-up data: the training loop's own step, timed.

``python -m nsmae_plugin.benchmark.step VARIANT ...`` measures one variant in this process and
prints JSON; ``tools/benchmark.py step`` runs them in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import nsmae_plugin

# isort: split
import numpy as np
import torch
from torch.amp import GradScaler

from nsmae_plugin import host
from nsmae_plugin.benchmark.inputs import made_up_batch, made_up_dataset
from nsmae_plugin.benchmark.materialised import materialise
from nsmae_plugin.benchmark.measure import measure_calls
from nsmae_plugin.config import load_config
from nsmae_plugin.data.masking import hidden_subset, image_patch_mask
from nsmae_plugin.models.bev_pool import build_plan
from nsmae_plugin.models.targets import build_targets
from nsmae_plugin.training import engine
from nsmae_plugin.training.checkpoint import Progress, Run
from nsmae_plugin.training.optim import build_optimizer, build_scheduler

VARIANTS = ("factorised", "materialised")
TOTAL_STEPS = 1000  # of the learning-rate schedule


def build_model(config: Any, variant: str = "factorised") -> Any:
    """The detector of a configuration, seeded, in training mode."""
    nsmae_plugin.register()
    torch.manual_seed(0)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), made_up_dataset(config))
    if variant == "materialised":
        materialise(model)
    return model.train()


def make_step(
    model: Any, config: Any, batch: dict[str, Any], device: torch.device
) -> Callable[[], dict[str, float]]:
    """The update of the training loop, with another rotation of the cloud each time.

    So that the geometry of the view transform is new in each step, as under augmentation.
    """
    settings = config.OPTIMIZATION
    optimizer = build_optimizer(model, settings)
    run = Run(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, settings, TOTAL_STEPS, TOTAL_STEPS),
        scaler=GradScaler(device.type, enabled=False),
        progress=Progress(),
    )
    options = engine.Options(grad_norm_clip=settings.GRAD_NORM_CLIP)

    def step() -> dict[str, float]:
        turned = {**batch, "lidar_aug_matrix": _turn(1e-3 * run.progress.step, batch)}
        return engine.train_step(run, [turned], options, device)

    return step


def _turn(angle: float, batch: dict[str, Any]) -> torch.Tensor:
    turn = torch.eye(4, device=batch["lidar_aug_matrix"].device)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[1, 0], turn[0, 1] = math.sin(angle), -math.sin(angle)
    return turn @ batch["lidar_aug_matrix"]


def stage_seconds(model: Any, batch: dict[str, Any], repeats: int) -> dict[str, float]:
    """Fastest of some runs of each stage beside the network; batch on the model's device."""
    stages: dict[str, Callable[[], Any]] = {"masks": lambda: _draw_masks(batch)}
    clean = {**batch, "clean_camera_imgs": batch.get("camera_imgs")}
    stages["targets"] = lambda: build_targets(clean, model.camera_grid, model.columns)
    if model.vtransform is not None:
        stages["depth maps"] = lambda: model.vtransform.depth_hints(batch)
        cells = len(batch["lidar_aug_matrix"]) * model.vtransform.grid.num_cells
        stages["geometry"] = lambda: build_plan(model.vtransform.cells(batch), cells)
    return {name: _fastest(stage, repeats) for name, stage in stages.items()}


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


def _fastest(stage: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        stage()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_variant(
    config: Any, variant: str, batch_size: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Seconds and MiB of the step, loss terms of the first one, parameters, stages beside it."""
    model = build_model(config, variant).to(device)
    batch = host.to_device(made_up_batch(config, batch_size), device)
    step = make_step(model, config, batch, device)
    first: dict[str, float] = {}

    def recorded() -> None:
        terms = step()
        first.update({name: value for name, value in terms.items() if name not in first})

    measured = measure_calls(recorded, device, repeats, first_calls=2)
    return {
        **measured,
        "first_step": first,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stages": stage_seconds(model, batch, repeats=5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--cfg_file", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    args = parser.parse_args()
    config = load_config(args.cfg_file, args.overrides)
    device = torch.device(args.device)
    print(json.dumps(measure_variant(config, args.variant, args.batch, device, args.repeats)))


if __name__ == "__main__":
    main()
