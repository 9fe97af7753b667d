"""The learning rate of each parameter as a factor of LR: ``LR_SCALE`` and ``LAYER_DECAY``.

Layer-wise learning-rate decay is that of BEiT (arXiv 2106.08254), MAE (arXiv 2111.06377) and, for
Swin, SimMIM (arXiv 2111.09886): of ``L`` layers of an encoder, layer ``i = 0 … L - 1`` trains with
``LR · decay^(L - i)``: the last layer with ``LR · decay``, what follows the encoder with ``LR``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.optimization.freezing import frozen_slots

ENCODERS = ("image_backbone", "backbone_3d")  # to which a LAYER_DECAY without sections applies
_LISTS = ("stages", "blocks", "layers", "backbone")  # each entry is a layer, or a stage of layers
# From a stage to an output of the section: parallel to the later layers.
_OUTPUTS = re.compile(r"norm\d*|deblocks")


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and value of the parameters that require a gradient."""
    return [(name, one) for name, one in model.named_parameters() if one.requires_grad]


def slot_of(parameter: str) -> str:
    """The slot of a network that a parameter belongs to: the first part of its name."""
    return parameter.split(".")[0]


def parameter_factors(model: nn.Module, config: Mapping[str, Any]) -> dict[str, float]:
    """The factor of LR of every parameter that trains, by its name.

    Args:
        config: OPTIMIZATION, of which LR_SCALE, LAYER_DECAY and FREEZE are read. The factors of the
            first two are multiplied.

    Raises:
        ConfigError: a model without trainable parameters, or a factor for a section that it lacks.
    """
    scales = _slot_scales(model, config)
    decays = _layer_factors(model, config)
    return {
        name: scales.get(slot_of(name), 1.0) * decays.get(name, 1.0) for name, _ in trained(model)
    }


def describe(factors: Mapping[str, float]) -> str:
    """One line with the factors of each slot in which some are not 1; empty if there is none."""
    by_slot: dict[str, list[float]] = {}
    for name, factor in factors.items():
        by_slot.setdefault(slot_of(name), []).append(factor)
    parts = []
    for slot, found in by_slot.items():
        least, most = min(found), max(found)
        if (least, most) != (1.0, 1.0):
            span = f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
            parts.append(f"{slot.upper()} {span}")
    return ", ".join(parts)


def _slot_scales(model: nn.Module, config: Mapping[str, Any]) -> dict[str, float]:
    slots = {slot_of(name) for name, _ in trained(model)}
    if not slots:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter")
    scales = config.get("LR_SCALE") or {}
    _check_sections("LR_SCALE", scales, slots | frozen_slots(config))
    return {section.lower(): float(factor) for section, factor in scales.items()}


def _check_sections(key: str, sections: Mapping[str, float], slots: set[str]) -> None:
    for section in sections:
        if section.lower() not in slots:
            raise ConfigError(
                f"OPTIMIZATION.{key}.{section}: the network trains nothing there; remove the key"
            )


def _layer_factors(model: nn.Module, config: Mapping[str, Any]) -> dict[str, float]:
    """Factors of LAYER_DECAY by the names of the parameters that have a layer."""
    asked = config.get("LAYER_DECAY") or {}
    slots = {slot_of(name) for name, _ in trained(model)} | frozen_slots(config)
    slots = {slot for slot in slots if isinstance(getattr(model, slot, None), nn.Module)}
    if not isinstance(asked, Mapping):
        asked = {slot.upper(): asked for slot in ENCODERS if slot in slots}
        if not asked:
            raise ConfigError(
                f"OPTIMIZATION.LAYER_DECAY {config['LAYER_DECAY']}: the network has neither "
                "IMAGE_BACKBONE nor BACKBONE_3D; name its sections, {SECTION: decay}"
            )
    _check_sections("LAYER_DECAY", asked, slots)
    factors = {}
    for section, decay in asked.items():
        slot = section.lower()
        layers = layers_of(getattr(model, slot))
        for position, names in enumerate(layers):
            depth = len(layers) - position
            factors.update({f"{slot}.{name}": float(decay) ** depth for name in names})
    return factors


def layers_of(section: nn.Module) -> list[list[str]]:
    """Names of the parameters of each layer of a section, the first layer first.

    The children of the section are its layers, in the order in which it defines them. Of a list
    named as in :data:`_LISTS` each entry is a layer, and an entry with such a list
    is a stage: its blocks are layers, and the rest of it, such as the way to the next stage,
    belongs to the last of them. Parameters of the section itself, such as a position embedding,
    belong to the first layer. Norms of its outputs (``norm2``) and ``deblocks`` have no layer. So
    the layers of

    - a Swin transformer are ``patch_embed`` and every block, as in SimMIM;
    - a sparse backbone ``conv_input``, ``conv1`` … ``conv4`` and ``conv_out``;
    - a BEV backbone its ``blocks``, or the levels of its ``backbone`` and the pyramid behind them.
    """
    found: list[list[str]] = []
    for name, child in section.named_children():
        if _is_list(name, child):
            for number, entry in child.named_children():
                found += _layers_of_entry(entry, f"{name}.{number}")
        elif not _OUTPUTS.fullmatch(name):
            found.append(_names(child, name))
    layers = [names for names in found if names]
    own = [name for name, _ in section.named_parameters(recurse=False)]
    if own and layers:
        layers[0] += own
    return layers


def _layers_of_entry(entry: nn.Module, where: str) -> list[list[str]]:
    """The layers of an entry of a list: itself, or the blocks of a stage."""
    found: list[list[str]] = []
    rest: list[str] = []
    for name, child in entry.named_children():
        if _is_list(name, child):
            found += [_names(one, f"{where}.{name}.{n}") for n, one in child.named_children()]
        else:
            rest += _names(child, f"{where}.{name}")
    if not found:
        return [_names(entry, where)]
    found[-1] += rest
    return found


def _is_list(name: str, child: nn.Module) -> bool:
    return name in _LISTS and isinstance(child, nn.ModuleList)


def _names(module: nn.Module, where: str) -> list[str]:
    return [f"{where}.{name}" for name, _ in module.named_parameters()]
