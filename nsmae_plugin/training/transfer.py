"""Initialise a model with the weights of another one, matched by name and slot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.models.view_transform import remedy
from nsmae_plugin.training import checkpoint, config_changes, layouts, weights
from nsmae_plugin.training.weights import ENCODERS, GRID, slot_of, slots_of

LEAST_SHARE = 0.5  # of the parameters of a head, or of an encoder that may match in part
HEADS = ("dense_head", "map_head")  # which know classes


@dataclass
class SlotMatch:
    """Match of the parameters and buffers of one slot (``vfe``, ``neck``, ...).

    Attributes:
        loaded: names found in the checkpoint with the same shape.
        zeroed: biases of layers whose weight is in the checkpoint and was trained without one.
        missing: names of the model that the checkpoint lacks.
        mismatched: name -> (shape in the checkpoint, shape in the model).
        unexpected: names of the slot in the checkpoint that the model lacks.
        parameters, loaded_parameters: numbers in the parameters, and how many of them were loaded;
            without buffers, which say little about an architecture.

    Integer tensors (counters, index tables) are loaded when they fit and never count as missing or
    unexpected.
    """

    loaded: list[str] = field(default_factory=list)
    zeroed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    parameters: int = 0
    loaded_parameters: int = 0

    @property
    def complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unexpected)

    @property
    def fits(self) -> bool:
        return self.loaded_parameters >= LEAST_SHARE * self.parameters

    def share(self) -> str:
        """How many parameters match, for a message."""
        return f"{self.loaded_parameters:,} of {self.parameters:,} parameters match"

    def differences(self) -> str:
        """The first differing names, for a message."""
        shown = [
            f"{name} has shape {theirs}, the model {own}"
            for name, (theirs, own) in self.mismatched.items()
        ]
        shown += [f"{name} is missing" for name in self.missing]
        shown += [f"{name} is not in the model" for name in self.unexpected]
        return "; ".join(shown[: checkpoint.SHOWN])


def load_pretrained(
    model: nn.Module, path: Path | str, logger: logging.Logger, partial: bool = False
) -> dict[str, SlotMatch]:
    """Load the weights of the slots that a file and ``model`` share, and log the matches.

    Slots that only the file has stay behind (mask token and render heads, when a detector starts
    from a pre-training); slots that only the model has keep their initialisation. So do slots
    behind the encoders of which less than half matches, such as the BEV backbone of a map network
    that starts from a detector. The grid of the view transform always stays the model's own. A bias
    that an encoder of the file was trained without is set to zero, so that both compute the same.

    Args:
        path: checkpoint, export or ``.safetensors`` file, or a directory whose newest checkpoint
            is taken.
        partial: load what fits of an encoder that differs, when it is at least half.

    Returns:
        The slots that were loaded.

    Raises:
        CheckpointError: when the file cannot be read, no slot is in common, or an encoder does not
            match completely (see ``partial``).
    """
    source = checkpoint.find(path)
    content = weights.read(source)
    state = layouts.current_spconv(model, content["model_state"])
    slots = match(model, state)
    if not slots:
        raise CheckpointError(
            f"{source} has nothing that {type(model).__name__} can start from: it holds the slots "
            f"{', '.join(slots_of(state))}, the model has {', '.join(slots_of(model.state_dict()))}"
        )
    _log(model, content, slots, source, logger)
    taken = {slot: one for slot, one in slots.items() if one.fits or slot in ENCODERS}
    _compare(model, content, taken, source, logger)
    own = model.state_dict()
    chosen: dict[str, Tensor] = {}
    for slot, found in (taken or slots).items():
        advice = remedy(own, state) if slot == "vtransform" else ""
        _check(slot, found, source, partial, advice)
        chosen |= {name: state[name] for name in found.loaded}
        chosen |= {name: torch.zeros_like(own[name]) for name in found.zeroed}
    model.load_state_dict(chosen, strict=False)
    return taken


def match(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, SlotMatch]:
    """Compare names and shapes for every slot that both sides have."""
    own = {name: value for name, value in model.state_dict().items() if name not in GRID}
    theirs = {name: value for name, value in state.items() if name not in GRID}
    parameters = {name for name, _ in model.named_parameters()}
    common = set(slots_of(theirs))
    result: dict[str, SlotMatch] = {s: SlotMatch() for s in slots_of(own) if s in common}
    for name, value in own.items():
        if (found := result.get(slot_of(name))) is not None:
            _place(found, name, value, theirs, name in parameters)
    for name, value in theirs.items():
        found = result.get(slot_of(name))
        if found is not None and name not in own and value.is_floating_point():
            found.unexpected.append(name)
    return result


def _place(
    found: SlotMatch, name: str, own: Tensor, theirs: Mapping[str, Tensor], is_parameter: bool
) -> None:
    """Add one tensor of the model to its list."""
    count = own.numel() if is_parameter else 0
    found.parameters += count
    layer, _, kind = name.rpartition(".")
    if name in theirs and theirs[name].shape == own.shape:
        found.loaded.append(name)
        found.loaded_parameters += count
    elif name in theirs:
        found.mismatched[name] = (tuple(theirs[name].shape), tuple(own.shape))
    elif kind == "bias" and f"{layer}.weight" in theirs and slot_of(name) in ENCODERS:
        found.zeroed.append(name)
        found.loaded_parameters += count
    elif own.is_floating_point():
        found.missing.append(name)


def _check(slot: str, found: SlotMatch, source: Path, partial: bool, advice: str) -> None:
    details = f"{found.share()}; first differences: {found.differences()}{advice}"
    if not found.fits:
        raise CheckpointError(f"{source}: slot {slot} belongs to another architecture, {details}")
    if slot in ENCODERS and not (found.complete or partial):
        raise CheckpointError(
            f"{source}: the encoder {slot} does not match completely, {details}. Give both the "
            "same MODEL section and point features, or load what fits with --partial_weights"
        )


def format_table(slots: Mapping[str, SlotMatch]) -> str:
    """Rows of text: how many tensors of each slot were loaded, zeroed, missing, ..."""
    columns = ("loaded", "zeroed", "missing", "mismatched", "unexpected")
    rows = [f"  {'slot':<20}" + "".join(f"{column:>12}" for column in columns)]
    for slot, found in slots.items():
        counts = (len(getattr(found, column)) for column in columns)
        rows.append(f"  {slot:<20}" + "".join(f"{count:>12}" for count in counts))
    return "\n".join(rows)


def _log(
    model: nn.Module,
    content: Mapping[str, Any],
    slots: Mapping[str, SlotMatch],
    source: Path,
    logger: logging.Logger,
) -> None:
    logger.info("pre-trained weights from %s\n%s", source, format_table(slots))
    if weights.MANIFEST in content:
        told = [content[weights.MANIFEST].get(key) for key in ("config", "epoch", "modality")]
        logger.info("  exported from %s, epoch %s, %s", *told)
    for slot, found in slots.items():
        if not found.fits:
            share, first = found.share(), found.differences()
            logger.warning("  %s is of another architecture, %s: %s", slot, share, first)
        elif not found.complete:
            logger.warning("  %s not loaded: %s", slot, found.differences())
        if found.zeroed:
            logger.info("  %s: %d biases, absent there, set to zero", slot, len(found.zeroed))
    own, theirs = slots_of(model.state_dict()), slots_of(content["model_state"])
    logger.info("  left behind: %s", ", ".join(s for s in theirs if s not in own) or "nothing")
    initial = [s for s in own if s not in theirs or (s in slots and not slots[s].fits)]
    logger.info("  as initialised: %s", ", ".join(initial) or "nothing")


def _compare(
    model: nn.Module,
    content: Mapping[str, Any],
    slots: Mapping[str, SlotMatch],
    source: Path,
    logger: logging.Logger,
) -> None:
    """Warn of differences from the configuration of the weights.

    An export knows it from its manifest, a checkpoint of a run from its configuration.
    """
    dataset = getattr(model, "dataset", None)
    manifest = content.get(weights.MANIFEST) or {}
    before: dict[str, Any] = {**(manifest.get("inputs") or {}), **(manifest.get("model") or {})}
    config = None if manifest else config_changes.of_run(content, source)
    if config is not None:
        inputs, encoders = weights.told_by(config, source)
        before = inputs | encoders
        if slots.keys() & set(HEADS):
            before["CLASS_NAMES"] = config.get("CLASS_NAMES")
    if dataset is None or not before:
        logger.info("  their training data and settings are unknown")
        return
    now: dict[str, Any] = {
        **weights.inputs_of(dataset.dataset_cfg),
        **weights.encoders_of(getattr(model, "model_cfg", {})),
        "CLASS_NAMES": list(dataset.class_names),
    }
    known = before.keys() & now.keys()
    for change in config_changes.changes({key: before[key] for key in known}, now):
        if not change.is_free:
            logger.warning(
                "  %s is %s here and was %s before", change.key, change.now, change.before
            )
