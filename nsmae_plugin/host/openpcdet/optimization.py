"""Support for keys of OPTIMIZATION that OpenPCDet lacks.

Its ``tools/train_utils/optimization`` builds optimiser and schedule, and reads of OPTIMIZATION what
it knows. Here follows the rest: each key of ours is honoured, or refused in one line.
"""

import logging
import math
from collections.abc import Callable, Container, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.openpcdet.patching import after_import, replace
from nsmae_plugin.optimization import freezing, optim, rates
from nsmae_plugin.optimization.gradients import clip_gradients

MODULE = "train_utils.optimization"
WRAPPED = ("adam_onecycle", "adam_cosineanneal")  # by OpenPCDet's OptimWrapper
logger = logging.getLogger("pcdet.utils.common_utils")  # that of its scripts


def install() -> None:
    """Let what scripts import from ``tools/`` build optimiser and schedule as below; idempotent."""
    after_import(MODULE, _install)


def _install(module: ModuleType) -> None:
    for function in (build_optimizer, build_scheduler):
        if hasattr(module, function.__name__):  # another project may have such a package, too
            replace(module, function.__name__, function)


def build_optimizer(original: Callable[..., Any], model: nn.Module, config: Any) -> Any:
    """OpenPCDet's optimiser, with the rates of LR_SCALE and LAYER_DECAY, and CLIP_BY_BRANCH.

    BatchNorm gets its BN_MOMENTUM on the way, the sections in FREEZE stop training, and the log
    says what OpenPCDet leaves out.

    Raises:
        ConfigError: OPTIMIZATION asks for what this loop cannot do, or a key that names parts of
            the network does not fit it.
    """
    _refuse(model, config)
    optim.set_batchnorm_momentum(model, config)
    freezing.freeze(model, config, logger)
    no_decay = config.get("NO_DECAY") or ()
    optim.check_no_decay(model, no_decay, freezing.frozen_slots(config))
    optimizer = original(model, config)
    factors = rates.parameter_factors(model, config)
    if scaled := rates.describe(factors):
        logger.info("learning rates as factors of LR: %s", scaled)
        optimizer = _scaled(optimizer, model, factors)
    if config.get("CLIP_BY_BRANCH", False):
        _clip_by_branch(optimizer, model, config)
    trained = {id(one) for group in optimizer.param_groups for one in group["params"]}
    names = {id(one): name for name, one in model.named_parameters()}
    _refuse_to_spare([names[one] for one in trained], no_decay)
    _tell_what_is_left_out(model, trained)
    return optimizer


def build_scheduler(
    original: Callable[..., Any],
    optimizer: Any,
    total_iters_each_epoch: int,
    total_epochs: int,
    last_epoch: int,
    optim_cfg: Any,
) -> Any:
    """OpenPCDet's schedule.

    Raises:
        ConfigError: too few steps for its one-cycle to rise in, where it would divide by zero.
    """
    steps, name = total_iters_each_epoch * total_epochs, optim_cfg.OPTIMIZER
    if name == "adam_onecycle" and int(steps * optim_cfg.PCT_START) < 1:
        raise ConfigError(
            f"{steps} optimiser steps are too few for OpenPCDet's one-cycle schedule, which needs "
            f"one in the first {optim_cfg.PCT_START:.0%}: train more epochs (--epochs), or with "
            "smaller batches (--batch_size)"
        )
    return original(optimizer, total_iters_each_epoch, total_epochs, last_epoch, optim_cfg)


def _refuse(model: nn.Module, config: Mapping[str, Any]) -> None:
    synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if synchronised and not torch.cuda.is_available():
        raise ConfigError("--sync_bn: torch synchronises BatchNorm on CUDA only; drop the flag")
    if config.get("ACCUMULATE_STEPS", 1) != 1:
        raise ConfigError(
            f"OPTIMIZATION.ACCUMULATE_STEPS {config['ACCUMULATE_STEPS']}: OpenPCDet's training "
            "loop updates the weights after every batch; set it to 1 and raise --batch_size, or "
            "use `nsmae train`"
        )
    if config.get("EARLY_STOPPING") is not None:
        raise ConfigError(
            "OPTIMIZATION.EARLY_STOPPING: OpenPCDet's training loop evaluates nothing between "
            "epochs; remove it, or use `nsmae train`"
        )
    for key in ("LR_SCALE", "LAYER_DECAY"):
        if config.get(key) and config["OPTIMIZER"] not in WRAPPED:
            raise ConfigError(
                f"OPTIMIZATION.{key} needs OPTIMIZER {' or '.join(WRAPPED)}, not "
                f"{config['OPTIMIZER']}"
            )


def _scaled(optimizer: Any, model: nn.Module, factors: Mapping[str, float]) -> Any:
    """A wrapper like ``optimizer`` with one pair of groups for each factor of the learning rate.

    What the schedule sets is the rate of factor 1, which comes last: that is the one to be logged.

    Args:
        factors: by the names of the parameters that train; all of a leaf module have the same.
    """
    by_parameter = {id(one): factors.get(name, 1.0) for name, one in model.named_parameters()}
    others = sorted({*factors.values()} - {1.0})
    leaves: dict[float, list[nn.Module]] = {factor: [] for factor in (*others, 1.0)}
    for leaf in _leaves(model):
        factor = next((by_parameter[id(one)] for one in leaf.parameters()), 1.0)
        leaves[factor].append(leaf)
    wrapper = _scaling(type(optimizer), list(leaves))
    return wrapper.create(
        optimizer.opt_func,
        optimizer.lr,
        [nn.Sequential(*modules) for modules in leaves.values()],
        wd=optimizer.wd,
        true_wd=optimizer.true_wd,
        bn_wd=optimizer.bn_wd,
    )


def _scaling(wrapper: Any, factors: list[float]) -> Any:
    """The class ``wrapper``, in which setting ``lr`` sets its products with ``factors``."""

    def set_rate(self: Any, rate: Any) -> None:
        rates = rate if isinstance(rate, list) else [rate] * len(factors)
        scaled = [one * factor for one, factor in zip(rates, factors, strict=True)]
        wrapper.lr.fset(self, scaled)

    return type(wrapper.__name__, (wrapper,), {"lr": property(wrapper.lr.fget, set_rate)})


def _clip_by_branch(optimizer: Any, model: nn.Module, config: Any) -> None:
    """Clip right before the optimiser step instead of in the loop."""
    limit, config.GRAD_NORM_CLIP = config.GRAD_NORM_CLIP, math.inf

    def clip(*_: Any) -> None:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        norms = [torch.linalg.vector_norm(one) for one in gradients.values()]
        clip_gradients(gradients, norms, limit, separately=True)

    optimizer.register_step_pre_hook(clip)


def _leaves(module: nn.Module) -> list[nn.Module]:
    """The modules without children, in which alone OpenPCDet looks for parameters."""
    children = list(module.children())
    return [leaf for child in children for leaf in _leaves(child)] if children else [module]


def _refuse_to_spare(trained: Sequence[str], no_decay: Sequence[str]) -> None:
    """Refuse NO_DECAY for parameters that the optimiser trains, which all decay there."""
    for part in no_decay:
        if any(part in name for name in trained):
            raise ConfigError(
                f"OPTIMIZATION.NO_DECAY: OpenPCDet's optimiser decays all that it trains, also "
                f"{part!r}; remove it, or use `nsmae train`"
            )


def _tell_what_is_left_out(model: nn.Module, trained: Container[int]) -> None:
    left_out = {
        name: one
        for name, one in model.named_parameters()
        if one.requires_grad and id(one) not in trained
    }
    if left_out:
        logger.warning(
            "OpenPCDet's optimiser leaves out %d parameters (%d values) of modules that have "
            "children (%s): they stay as initialised or loaded",
            len(left_out),
            sum(one.numel() for one in left_out.values()),
            ", ".join(sorted({name.rpartition(".")[2] for name in left_out})),
        )
