"""Checkpoint files: atomic writing, checked reading, the newest of a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nsmae_plugin.errors import CheckpointError, brief
from nsmae_plugin.models.view_transform import remedy
from nsmae_plugin.runtime import files, torch_files
from nsmae_plugin.training import layouts

SHOWN = 3  # differing keys that an error message spells out
EPOCH_NAME = re.compile(r"checkpoint_epoch_(\d+)\.pth")
COUNTS = ("epoch", "it", "batch_in_epoch")
LONGEST_NAME = 250  # characters of a weight's name
# What entries are that are neither absent nor None.
_TEXTS = ("config_tag", "host", "precision", "pretrained_model", "version")
_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(COUNTS, (int, "a count")),
    **dict.fromkeys(("config", "plan", "manifest", "early_stopping"), (Mapping, "a dict")),
    **dict.fromkeys(_TEXTS, (str, "a text")),
}


def read(path: Path | str) -> dict[str, Any]:
    """Content of a checkpoint on the CPU; executes nothing that the file may hold.

    Raises:
        CheckpointError: for a missing, truncated, damaged or foreign file, and for weights that
            are NaN or infinite.
    """
    path = Path(path)
    content = torch_files.load(path)
    if not _is_checkpoint(content):
        raise CheckpointError(f"{path} is not a checkpoint: it holds no 'model_state'")
    for key, (kind, words) in _KINDS.items():
        value = content.get(key)
        wrong = not isinstance(value, kind) or (isinstance(value, int) and value < 0)
        if value is not None and wrong:
            raise CheckpointError(
                f"{path} is damaged: its {key!r} is {brief(repr(value), 50)}, not {words}"
            )
    return {**content, "model_state": checked_state(content["model_state"], path)}


def _is_checkpoint(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("model_state"), Mapping)


def checked_state(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of a file, without the prefix of a wrapper, if all are finite tensors.

    Raises:
        CheckpointError: naming the first that is not. A network with such weights predicts
            nothing at all, and looks like one that has learnt nothing.
    """
    for name, value in state.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
            raise CheckpointError(
                f"{path} is not a checkpoint: its entry {name!r:.100} is not a name of a weight"
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} is not a checkpoint: its entry {name!r:.100} is {type(value).__name__}, "
                "not a tensor"
            )
        if value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(
                f"{path}: {name} is a sparse or quantised tensor; save it as a dense one"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} is NaN or infinite; take an earlier checkpoint")
    return layouts.without_wrapper(state)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write ``content`` so that ``path`` is either the old file or the whole new one."""
    with files.replacing(path) as file:
        torch.save(dict(content), file)


class Position(NamedTuple):
    """Progress of a run in a checkpoint; -1 if unknown."""

    step: int
    epoch: int
    batch_in_epoch: int


def position_of(content: Mapping[str, Any]) -> Position:
    """The position of a checkpoint, of this plugin or of OpenPCDet, or of an export."""
    manifest = content.get("manifest")
    told = manifest if isinstance(manifest, Mapping) else {}
    numbers = (
        content.get("it", told.get("step")),
        content.get("epoch", told.get("epoch")),
        content.get("batch_in_epoch", 0),
    )
    return Position(*(one if isinstance(one, int) else -1 for one in numbers))


def peek(path: Path) -> Position | None:
    """The position alone, None for a file that is not a checkpoint.

    Tensors are mapped into memory, not read.

    Raises:
        CheckpointError: the file cannot be read.
    """
    content = torch_files.load(path, mmap=True)
    if not _is_checkpoint(content):
        return None
    position = position_of(content)
    return position if position.epoch >= 0 else position._replace(epoch=_epoch_in_name(path))


def started_from(path: Path) -> str | None:
    """The ``--pretrained_model`` of the run that wrote a checkpoint, if it had one.

    Raises:
        CheckpointError: the file cannot be read.
    """
    content = torch_files.load(path, mmap=True)
    return content.get("pretrained_model") if _is_checkpoint(content) else None


def latest(folder: Path) -> Path | None:
    """The checkpoint of a folder with the most steps, or None.

    What the files hold decides, not when they were written: a copied, unpacked or touched file has
    another time. Files that are no checkpoints do not count.

    Raises:
        CheckpointError: a file cannot be read, so that it is not known whether it is the newest; or
            none of several says how far it is.
    """
    positions = {path: peek(path) for path in sorted(folder.glob("*.pth"))}
    found = {path: position for path, position in positions.items() if position is not None}
    # Of copies, the one with the epoch's own name.
    best = max(found, key=lambda path: (found[path], _epoch_in_name(path)), default=None)
    if best and len(found) > 1 and max(found[best].step, found[best].epoch) < 0:
        raise CheckpointError(
            f"{folder} holds {len(found)} files of weights ({', '.join(one.name for one in found)})"
            " and none states its step; name the file instead of the folder"
        )
    return best


def _epoch_in_name(path: Path) -> int:
    match = EPOCH_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def find(path: Path | str) -> Path:
    """``path`` itself, or the newest checkpoint in it when it is a directory.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(path)
    found = latest(path) if path.is_dir() else path
    if found is None or not found.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    return found


def load_model_state(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load ``state`` when it has exactly the names and shapes of ``model``.

    Raises:
        CheckpointError: naming the first differences.
    """
    own, state = model.state_dict(), layouts.current_spconv(model, state)
    differences = [f"{key} is missing" for key in own if key not in state]
    differences += [f"{key} is not in the model" for key in state if key not in own]
    differences += [
        f"{key} has shape {tuple(state[key].shape)}, the model {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if differences:
        raise CheckpointError(
            f"{source} belongs to another architecture than {type(model).__name__}: "
            f"{len(differences)} differences, first: {'; '.join(differences[:SHOWN])}"
            f"{remedy(own, state)}"
        )
    model.load_state_dict(state)
