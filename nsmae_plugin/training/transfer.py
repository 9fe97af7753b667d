"""Start a model from the weights of another one: a match by name, slot by slot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.training import checkpoint

LEAST_SHARE = 0.5  # of a slot's parameters that must match by name and shape


@dataclass
class SlotMatch:
    """How the parameters and buffers of one slot (``vfe``, ``neck``, ...) fared.

    Attributes:
        loaded: names found in the checkpoint with the same shape.
        missing: names of the model that the checkpoint lacks.
        mismatched: name -> (shape in the checkpoint, shape in the model).
        parameters, loaded_parameters: counts without buffers, which say little about an
            architecture (every BatchNorm has the same scalar counter).
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    parameters: int = 0
    loaded_parameters: int = 0

    @property
    def fits(self) -> bool:
        return self.loaded_parameters >= LEAST_SHARE * self.parameters

    def differences(self) -> str:
        """The first differing names, for a message."""
        shown = [
            f"{name} has shape {theirs}, the model {own}"
            for name, (theirs, own) in self.mismatched.items()
        ]
        shown += [f"{name} is missing" for name in self.missing]
        return "; ".join(shown[: checkpoint.SHOWN])


def load_pretrained(
    model: nn.Module, path: Path | str, logger: logging.Logger
) -> dict[str, SlotMatch]:
    """Load every weight of a checkpoint whose name and shape ``model`` has, and say what matched.

    Slots that only the checkpoint has stay behind (mask token and render heads, when a detector
    starts from a pre-training); slots that only the model has keep their initialisation.

    Args:
        path: checkpoint file, or a directory whose newest checkpoint is taken.

    Returns:
        The slots that both have.

    Raises:
        CheckpointError: when the file cannot be read, no slot is in common, or less than half of
            the parameters of a common slot match.
    """
    source = checkpoint.find(path)
    state = checkpoint.read(source)["model_state"]
    slots = match(model, state)
    if not slots:
        raise CheckpointError(
            f"{source} has nothing that {type(model).__name__} can start from: it holds the slots "
            f"{', '.join(_slots(state))}, the model has {', '.join(_slots(model.state_dict()))}"
        )
    _log(model, state, slots, source, logger)
    for slot, found in slots.items():
        if not found.fits:
            raise CheckpointError(
                f"{source}: slot {slot} belongs to another architecture, "
                f"{found.loaded_parameters} of {found.parameters} parameters match; "
                f"first differences: {found.differences()}"
            )
    names = [name for found in slots.values() for name in found.loaded]
    model.load_state_dict({name: state[name] for name in names}, strict=False)
    return slots


def match(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, SlotMatch]:
    """Compare names and shapes for every slot that both sides have."""
    common = set(_slots(state))
    parameters = {name for name, _ in model.named_parameters()}
    result: dict[str, SlotMatch] = {}
    for name, own in model.state_dict().items():
        slot = _slot(name)
        if slot not in common:
            continue
        found = result.setdefault(slot, SlotMatch())
        found.parameters += name in parameters
        if name not in state:
            found.missing.append(name)
        elif state[name].shape != own.shape:
            found.mismatched[name] = (tuple(state[name].shape), tuple(own.shape))
        else:
            found.loaded.append(name)
            found.loaded_parameters += name in parameters
    return result


def _slot(name: str) -> str:
    """First part of a dotted name; empty for what lies outside the slots, like global_step."""
    return name.split(".", 1)[0] if "." in name else ""


def _slots(state: Mapping[str, Tensor]) -> list[str]:
    return [slot for slot in dict.fromkeys(map(_slot, state)) if slot]


def _log(
    model: nn.Module,
    state: Mapping[str, Tensor],
    slots: Mapping[str, SlotMatch],
    source: Path,
    logger: logging.Logger,
) -> None:
    logger.info("pre-trained weights from %s", source)
    for slot, found in slots.items():
        logger.info(
            "  %-20s loaded %4d  missing %4d  mismatched %4d",
            slot,
            len(found.loaded),
            len(found.missing),
            len(found.mismatched),
        )
        if found.differences():
            logger.warning("  %s not loaded: %s", slot, found.differences())
    own, theirs = _slots(model.state_dict()), _slots(state)
    logger.info("  left behind: %s", ", ".join(s for s in theirs if s not in own) or "nothing")
    logger.info("  as initialised: %s", ", ".join(s for s in own if s not in theirs) or "nothing")
