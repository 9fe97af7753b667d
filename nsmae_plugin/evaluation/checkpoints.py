"""Find the checkpoints of a run, and load one strictly for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.runtime.command_line import RUN_LOGGER
from nsmae_plugin.training import checkpoint, config_changes, weights

logger = logging.getLogger(RUN_LOGGER)

# Prefix of the weights of a head → the keys that determine their shapes, for the error message.
HEADS = {
    "dense_head.": "CLASS_NAMES and MODEL.DENSE_HEAD",
    "map_head.": "DATA_CONFIG.MAP_CONFIG.CLASSES and MODEL.MAP_HEAD",
}


def epoch_checkpoints(folder: Path, start_epoch: int = 0) -> dict[int, Path]:
    """Epoch checkpoints of a run, from ``start_epoch`` on, in order: epoch → path."""
    named = [path for path in folder.glob("*.pth") if checkpoint.EPOCH_NAME.fullmatch(path.name)]
    found = {position.epoch: path for path in named if (position := checkpoint.peek(path))}
    return {epoch: found[epoch] for epoch in sorted(found) if epoch >= start_epoch}


def folder_name(path: Path) -> str:
    """Name of the evaluation folder of a checkpoint: ``epoch_3``.

    A checkpoint from within an epoch gives ``epoch_3_step_170``, and weights without an epoch give
    OpenPCDet's ``epoch_no_number``.
    """
    position = checkpoint.peek(path)
    if position is None or position.epoch < 0:
        return "epoch_no_number"
    within = f"_step_{position.step}" if position.batch_in_epoch > 0 else ""
    return f"epoch_{position.epoch}{within}"


def load(
    model: nn.Module, path: Path, config: Mapping[str, Any], pretrained: Path | None = None
) -> dict[str, Any]:
    """Load all weights of a checkpoint; missing, unexpected or mis-shaped weights are an error.

    Args:
        config: must agree with the configuration of the run in all keys that change the meaning of
            the weights.
        pretrained: checkpoint with the weights that ``path`` lacks, as in OpenPCDet.

    Returns:
        The content of the checkpoint.

    Raises:
        CheckpointError: a file cannot be read, or belongs to other settings or to another
            architecture.
    """
    content = weights.read(path)
    config_changes.check_use(content, path, config, logger)
    own = model.state_dict()
    state = dict(content["model_state"])
    if pretrained is not None:
        for name, value in weights.read(checkpoint.find(pretrained))["model_state"].items():
            if name in own:
                state.setdefault(name, value)
    # OpenPCDet stores the grid of its view transform; here it follows from the configuration.
    state = {
        name: value for name, value in state.items() if name in own or name not in weights.GRID
    }
    _check_heads(own, state, path)
    checkpoint.load_model_state(model, state, path)
    return content


def _check_heads(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    for name, value in own.items():
        reason = next((HEADS[prefix] for prefix in HEADS if name.startswith(prefix)), None)
        if reason is None or name not in state or state[name].shape == value.shape:
            continue
        raise CheckpointError(
            f"{path}: the head's {name} has shape {tuple(state[name].shape)}, the model "
            f"{tuple(value.shape)}: it was trained for other classes or with another head; "
            f"evaluate it with {reason} of its own configuration (the YAML beside its folder "
            "ckpt), or train a new head from it with `nsmae train --pretrained_model`"
        )
