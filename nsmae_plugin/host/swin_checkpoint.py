"""Image weights for the Swin Transformer, from the layouts in which they are published."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.runtime import torch_files

logger = logging.getLogger("nsmae_plugin.run.image_weights")  # so that it stands in a run's log

# Names of the original repository (microsoft/Swin-Transformer) -> names of OpenPCDet.
_RENAMES = (
    (r"^layers\.", "stages."),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)

# Not in every checkpoint: buffers that follow from the configuration, and the norms of the outputs,
# which classification checkpoints lack.
_OPTIONAL = re.compile(r"relative_position_index$|^norm\d\.")


def load_image_checkpoint(backbone: nn.Module, path: str | None, convert: bool) -> None:
    """Load image weights into ``backbone``.

    Args:
        path: a checkpoint of the backbone alone, or of a detector (prefix ``backbone.``); the
            weights may lie under ``state_dict`` or ``model``.
        convert: accept the layout of the original Swin repository as well (CONVERT_WEIGHTS).

    Raises:
        CheckpointError: no such file, not a checkpoint, weights missing or of another shape.
    """
    state = _strip_prefixes(_read(path))
    if convert:
        state = {_rename(name): _reorder(name, value) for name, value in state.items()}
    own = backbone.state_dict()
    wanted = {
        name: _fit_bias_table(name, value, own[name])
        for name, value in state.items()
        if name in own and not name.endswith("relative_position_index")
    }
    _check(wanted, own, path, convert)
    backbone.load_state_dict(wanted, strict=False)
    logger.info("image backbone: %d of %d tensors from %s", len(wanted), len(own), path)


def _read(path: str | None) -> dict[str, torch.Tensor]:
    if not path or not Path(path).is_file():
        raise CheckpointError(
            f"IMAGE_BACKBONE.INIT_CFG names the checkpoint {path!r}, which does not exist; correct "
            "the path, or remove INIT_CFG to start from random weights"
        )
    content = torch_files.load(Path(path))
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _strip_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop ``module.``; from a detector's checkpoint, keep the entries below ``backbone.``."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    inside = {
        name.removeprefix("backbone."): value
        for name, value in state.items()
        if name.startswith("backbone.")
    }
    return inside or state


def _rename(name: str) -> str:
    if name.startswith(("layers.", "patch_embed.proj.")):
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
    return name


def _reorder(name: str, value: torch.Tensor) -> torch.Tensor:
    """Patch merging of the original repository lists the 2 x 2 block column by column, each with
    all channels; here the channels come first and the block row by row."""
    if not (name.startswith("layers.") and ".downsample." in name):
        return value
    *outer, merged = value.shape  # reduction.weight (2C, 4C); norm.weight, norm.bias (4C,)
    blocks = value.reshape(*outer, 2, 2, merged // 4)  # column, row, channel
    return blocks.movedim(-1, -3).transpose(-1, -2).reshape(value.shape)


def _fit_bias_table(name: str, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Interpolate a table of relative position biases to this network's window size."""
    if not name.endswith("relative_position_bias_table") or value.shape == own.shape:
        return value
    if value.dim() != 2 or value.shape[1] != own.shape[1]:
        return value
    sides = [round(rows**0.5) for rows in (value.shape[0], own.shape[0])]
    grid = value.T.reshape(1, -1, sides[0], sides[0])
    resized = F.interpolate(grid, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return resized.reshape(-1, own.shape[0]).T.contiguous()


def _check(
    wanted: dict[str, torch.Tensor], own: dict[str, torch.Tensor], path: Any, convert: bool
) -> None:
    missing = [name for name in own if name not in wanted and not _OPTIONAL.search(name)]
    if missing:
        hint = "" if convert else " (CONVERT_WEIGHTS: True reads the original Swin layout)"
        raise CheckpointError(
            f"{path} does not hold this image backbone: {len(missing)} of {len(own)} tensors are "
            f"missing, the first is {missing[0]}{hint}"
        )
    for name, value in wanted.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{path} does not fit this image backbone: {name} has shape {tuple(value.shape)}, "
                f"expected {tuple(own[name].shape)}"
            )
