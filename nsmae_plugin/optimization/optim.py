"""Optimiser and learning-rate schedule from the OPTIMIZATION section.

The schedule advances with every optimiser step, never with epochs or wall time, so it is a
function of the step alone and survives a resume. OpenPCDet's own builder collects leaf modules, so
that a direct ``nn.Parameter`` beside child modules (a mask token, Swin's position biases) never
trains; here every parameter that requires a gradient is in the optimiser.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.optimization.freezing import frozen_slots
from nsmae_plugin.optimization.rates import parameter_factors, slot_of, trained

OPTIMIZERS = ("adam_onecycle", "adam_cosineanneal")
# OpenPCDet's one-cycle ends at LR / DIV_FACTOR / 1e4, its cosine at LR / 1e3.
ONECYCLE_FINAL_DIV_FACTOR = 1e4
COSINE_FINAL_RATIO = 1e-3
WARMUP_START_RATIO = 1 / 3


def build_optimizer(model: nn.Module, config: Mapping[str, Any]) -> AdamW:
    """AdamW over all trainable parameters.

    Args:
        config: OPTIMIZATION, of which OPTIMIZER, LR, WEIGHT_DECAY, NO_DECAY and BETAS are read, and
            the keys of :mod:`~nsmae_plugin.optimization.rates`. BETAS default to OpenPCDet's
            (0.9, 0.99); MOMS of the schedule replaces the first. NO_DECAY lists parts of names:
            parameters whose name contains one do not decay (mmcv's ``custom_keys`` with a
            ``decay_mult`` of 0).

    Returns:
        With one group of parameters for LR, the first, and one for every factor; each is two where
        some of its parameters do not decay.

    Raises:
        ConfigError: for an unknown OPTIMIZER, a model without trainable parameters, a factor for a
            section without any, or a part of a name that no trainable parameter has.
    """
    if config["OPTIMIZER"] not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ConfigError(f"unknown OPTIMIZATION.OPTIMIZER {config['OPTIMIZER']!r}; known: {known}")
    no_decay = config.get("NO_DECAY") or ()
    check_no_decay(model, no_decay, frozen_slots(config))
    factors = parameter_factors(model, config)
    # Factor of the rate -> parameters that decay, and those that do not.
    found: dict[float, tuple[list[nn.Parameter], list[nn.Parameter]]] = {1.0: ([], [])}
    for name, parameter in trained(model):
        free = any(part in name for part in no_decay)
        found.setdefault(factors[name], ([], []))[free].append(parameter)
    groups = [
        {"params": parameters, "lr": config["LR"] * factor, "weight_decay": decay}
        for factor, both in found.items()
        for parameters, decay in zip(both, (config["WEIGHT_DECAY"], 0.0), strict=True)
        if parameters
    ]
    beta1, beta2 = map(float, config.get("BETAS", (0.9, 0.99)))  # torch refuses 0 beside 0.99
    # Fused: one pass over the weights, without temporaries of their size.
    return AdamW(groups, lr=config["LR"], betas=(beta1, beta2), fused=True)


def check_no_decay(model: nn.Module, no_decay: Sequence[str], frozen: Container[str] = ()) -> None:
    """Check that every part of a name in NO_DECAY occurs in that of a trainable parameter, or of a
    parameter in one of the slots ``frozen``.

    Raises:
        ConfigError: naming the part that does not.
    """
    names = [
        name
        for name, one in model.named_parameters()
        if one.requires_grad or slot_of(name) in frozen
    ]
    for part in no_decay:
        if not any(part in name for name in names):
            raise ConfigError(
                f"OPTIMIZATION.NO_DECAY: the network trains no parameter whose name contains "
                f"{part!r}; remove it"
            )


def set_batchnorm_momentum(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Give every BatchNorm the momentum OPTIMIZATION.BN_MOMENTUM; without the key all keep theirs.

    With the 0.01 of the LiDAR and BEV networks the running statistics, which evaluation uses, are
    those of about the last hundred steps: too slow for a training of a few hundred.
    """
    momentum = config.get("BN_MOMENTUM")
    if momentum is None:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def build_scheduler(
    optimizer: Optimizer, config: Mapping[str, Any], total_steps: int, steps_per_epoch: int
) -> Schedule:
    """The schedule that OPTIMIZER names, over ``total_steps`` optimiser steps.

    Args:
        config: OPTIMIZATION, of which LR, MOMS, PCT_START, and DIV_FACTOR (one-cycle) or
            WARMUP_ITER (cosine) are read.
        steps_per_epoch: the cosine of OpenPCDet moves once per epoch.
    """
    if config["OPTIMIZER"] == "adam_onecycle":
        return _one_cycle(optimizer, config, total_steps)
    return WarmupCosine(optimizer, config, total_steps, steps_per_epoch)


def _one_cycle(optimizer: Optimizer, config: Mapping[str, Any], total_steps: int) -> OneCycleLR:
    high, low = config["MOMS"]
    # torch divides by zero when the rise ends exactly at step 0, and spends the only step of a
    # one-step plan at the final rate: a plan has at least two steps, the rise more than one.
    planned = max(total_steps, 2)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=planned,
        pct_start=max(config["PCT_START"], 1.001 / planned),
        base_momentum=low,
        max_momentum=high,
        div_factor=config["DIV_FACTOR"],
        final_div_factor=ONECYCLE_FINAL_DIV_FACTOR,
    )


class WarmupCosine(LRScheduler):
    """OpenPCDet's ``adam_cosineanneal``: linear warm-up by step, then a cosine by epoch.

    The rate rises from LR/3 to LR over WARMUP_ITER steps, and follows a half cosine from LR to
    LR/1000 over the epochs. The first beta falls from the first of MOMS to the second over the
    first PCT_START of all steps and returns over the rest.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        config: Mapping[str, Any],
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.warmup_steps, self.moms = config["WARMUP_ITER"], list(config["MOMS"])
        self.rise_steps = int(config["PCT_START"] * total_steps)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """Rates of the current step; sets the first beta as well, as torch's OneCycleLR does."""
        for group in self.optimizer.param_groups:
            group["betas"] = (self._momentum(), *group["betas"][1:])
        return [base * self._ratio() for base in self.base_lrs]

    def _ratio(self) -> float:
        step = self.last_epoch  # torch's name for the number of calls of step()
        if step < self.warmup_steps:
            return WARMUP_START_RATIO + (1 - WARMUP_START_RATIO) * step / self.warmup_steps
        epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        return _cosine(1.0, COSINE_FINAL_RATIO, step // self.steps_per_epoch / epochs)

    def _momentum(self) -> float:
        step, start, end = self.last_epoch, *self.moms
        if step < self.rise_steps:
            return _cosine(start, end, step / self.rise_steps)
        return _cosine(end, start, (step - self.rise_steps) / (self.total_steps - self.rise_steps))


Schedule: TypeAlias = OneCycleLR | WarmupCosine


def set_rates(schedule: Schedule) -> None:
    """Give the optimiser the rates of the schedule's present step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects the question in step() only
        rates = schedule.get_lr()
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))
