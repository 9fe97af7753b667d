"""Gradient norms of each slot of a network, and the effect of clipping and eps.

AdamW divides by the root mean square of a gradient plus its eps: an element that stays far below
eps moves its weight far less than the learning rate.
"""

from __future__ import annotations

import math
from typing import Any

import nsmae_plugin

# isort: split
import torch
from torch.amp import GradScaler

from nsmae_plugin import host
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.runtime.random_state import seed_everything
from nsmae_plugin.training.run_state import Progress, Run
from nsmae_plugin.training.update import read_records, update_weights

#: Of a slot: elements, norm before and after clipping, share of the elements below eps after it.
Table = dict[str, dict[str, float]]


def measure_steps(config: Any, batch: int, steps: int, device: torch.device) -> list[Table]:
    """The first steps of a training on the data of a configuration, seeded; a table for each.

    Raises:
        NSMAEError: from the dataset or the network.
    """
    nsmae_plugin.register()
    seed_everything(0, 0)
    dataset, loader, sampler = build_dataloader(config.DATA_CONFIG, config.CLASS_NAMES, batch)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).to(device).train()
    settings = config.OPTIMIZATION
    optimizer = build_optimizer(model, settings)
    total = settings.NUM_EPOCHS * len(loader)
    scheduler = build_scheduler(optimizer, settings, total, len(loader))
    run = Run(model, optimizer, scheduler, GradScaler(device.type, enabled=False), Progress())
    tables: list[Table] = []
    while len(tables) < steps:
        sampler.set_epoch(len(tables) // len(loader))
        for one in loader:
            tables.append(_step(run, one, settings, device))
            if len(tables) == steps:
                break
    return tables


def _step(run: Run, batch: dict[str, Any], settings: Any, device: torch.device) -> Table:
    """One step of the training loop; gradients stay, clipped, until the next."""
    record = update_weights(
        run,
        [batch],
        device,
        clip=settings.GRAD_NORM_CLIP,
        clip_by_branch=settings.get("CLIP_BY_BRANCH", False),
    )
    read_records([record])
    before = dict(zip(record.names, record.norms.tolist(), strict=True))
    gradients: dict[str, list[torch.Tensor]] = {}
    norms: dict[str, list[float]] = {}
    for name, parameter in run.model.named_parameters():
        if parameter.grad is not None:
            slot = name.split(".")[0]
            gradients.setdefault(slot, []).append(parameter.grad.flatten())
            norms.setdefault(slot, []).append(before[name])
    eps = run.optimizer.param_groups[0]["eps"]
    return {
        slot: {"before": math.hypot(*norms[slot]), **_left(torch.cat(found), eps)}
        for slot, found in gradients.items()
    }


def _left(gradient: torch.Tensor, eps: float) -> dict[str, float]:
    return {
        "elements": float(gradient.numel()),
        "after": float(gradient.norm()),
        "below_eps": float((gradient.abs() < eps).float().mean()),
    }


def print_table(step: int, table: Table) -> None:
    print(f"step {step:<12}{'elements':>12}{'norm':>12}{'clipped':>12}{'below eps':>12}")
    for slot, row in table.items():
        norms = "".join(f"{row[key]:>12.3g}" for key in ("before", "after"))
        print(f"{slot:17}{row['elements']:>12.0f}{norms}{row['below_eps']:>12.2%}")
