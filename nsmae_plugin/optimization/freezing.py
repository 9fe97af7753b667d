"""Sections of a network that do not train: ``OPTIMIZATION.FREEZE``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MethodType
from typing import Any

from torch import nn

from nsmae_plugin.config.section import suggest
from nsmae_plugin.errors import ConfigError


def frozen_slots(config: Mapping[str, Any]) -> set[str]:
    """The slots of the network that ``FREEZE`` of OPTIMIZATION names."""
    return {section.lower() for section in config.get("FREEZE") or ()}


def freeze(model: nn.Module, config: Mapping[str, Any], logger: logging.Logger) -> None:
    """Keep the sections in ``FREEZE`` as they are, whatever calls ``train()`` on the model.

    Their parameters get no gradient. Their BatchNorm, dropout and stochastic depth stay in
    evaluation mode, so that running statistics do not change either. Gradients still pass through
    to sections before them that train; if there are none, autograd records nothing of them. The
    flag ``training`` of the section's outermost module is left alone: heads compute their targets
    by it. Must come before the model is wrapped for several processes.

    Args:
        config: OPTIMIZATION.

    Raises:
        ConfigError: the network has no weights in a section, or trains nothing any more.
    """
    for section in config.get("FREEZE") or ():
        slot = section.lower()
        parameters = [one for name, one in model.named_parameters() if name.split(".")[0] == slot]
        if not parameters:
            slots = {name.split(".")[0].upper() for name, _ in model.named_parameters()}
            raise ConfigError(
                f"OPTIMIZATION.FREEZE: the network has no weights in {section}"
                f"{suggest(section, slots)}"
            )
        for parameter in parameters:
            parameter.requires_grad_(False)
        module = getattr(model, slot)
        if isinstance(module, nn.Module):
            # A method of the instance: names, classes and copies of the module stay what they are.
            module.train = MethodType(_train, module)  # type: ignore[method-assign]
            module.train(module.training)
        count = sum(one.numel() for one in parameters) / 1e6
        logger.info("frozen: %s, %.2f M parameters", section, count)
    if config.get("FREEZE") and not any(one.requires_grad for one in model.parameters()):
        raise ConfigError("OPTIMIZATION.FREEZE leaves nothing to train; remove a section from it")


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    """``train`` of a frozen section: all inside stays in evaluation mode."""
    children = list(module.children())
    type(module).train(module, mode and bool(children))
    for child in children:
        child.eval()
    return module
