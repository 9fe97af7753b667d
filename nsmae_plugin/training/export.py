"""Export the encoders of a checkpoint, with a manifest of their origin.

Written are a ``.pth`` file that OpenPCDet's ``load_params_from_file`` and torch's
``weights_only=True`` read, the manifest as JSON beside it, and on request a ``.safetensors`` file
with the manifest in its header. Names are those of the detectors; nothing has to be converted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from nsmae_plugin import __version__
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import CheckpointError, ConfigError
from nsmae_plugin.runtime import files
from nsmae_plugin.training import checkpoint, config_changes
from nsmae_plugin.training.weights import (
    ENCODERS,
    GRID,
    MANIFEST,
    SAFETENSORS,
    slot_of,
    slots_of,
    told_by,
)

logger = logging.getLogger(__name__)

FORMAT = 1  # of the manifest


def export(
    ckpt: Path, out: Path, safetensors: bool = False, cfg_file: Path | None = None
) -> tuple[dict[str, Any], list[Path]]:
    """Write the encoders of a checkpoint.

    Args:
        ckpt: checkpoint file, or a directory whose newest checkpoint is taken.
        out: the ``.pth`` file to write; the manifest and the ``.safetensors`` file take its stem.
        safetensors: write that file as well.
        cfg_file: configuration of the run, for checkpoints of earlier versions: newer ones hold it,
            or it lies above them as ``nsmae train`` left it.

    Returns:
        The manifest, and the files that were written.

    Raises:
        CheckpointError: for a checkpoint that cannot be read, has no encoder, or holds NaN or
            infinity in one; or ``cfg_file`` is not what it was trained with.
        ConfigError: for a place where the export must not be written.
    """
    source = checkpoint.find(ckpt)
    _check_place(out, source)
    content = checkpoint.read(source)
    state = encoder_state(content["model_state"], source)
    config = config_changes.of_run(content, source)
    if cfg_file:
        given = load_config(cfg_file)
        config_changes.check_use(content, source, given, logger)
        config = config or given
    manifest = build_manifest(content, state, source, config)
    files.make_folder(out.parent)
    checkpoint.write(
        {"model_state": state, "version": f"nsmae_plugin+{__version__}", MANIFEST: manifest}, out
    )
    written = [out, out.with_suffix(".json")]
    files.write_text(written[1], json.dumps(manifest, indent=1) + "\n")
    if safetensors:
        written.append(out.with_suffix(SAFETENSORS))
        header = {"format": "pt", MANIFEST: json.dumps(manifest)}
        files.write_bytes(written[2], save(state, header))
    return manifest, written


def encoder_state(state: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The tensors of the encoder slots, each in memory of its own; without the stock grid.

    Raises:
        CheckpointError: there is none.
    """
    chosen = {
        name: value.detach().clone().contiguous()
        for name, value in state.items()
        if slot_of(name) in ENCODERS and name not in GRID
    }
    if not chosen:
        raise CheckpointError(
            f"{source} has no encoder to export: it holds the slots {', '.join(slots_of(state))}, "
            f"encoders are {', '.join(ENCODERS)}"
        )
    return chosen


def build_manifest(
    content: Mapping[str, Any],
    state: Mapping[str, Tensor],
    source: Path,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Where the weights come from, what they expect, and every name with its shape, by slot.

    ``inputs`` and ``model`` are what a detector that loads them has to agree with; None where the
    configuration of the run is not known.
    """
    slots = slots_of(state)
    inputs, encoders = told_by(config, source) if config else (None, None)
    return {
        "format": FORMAT,
        "plugin": __version__,
        "checkpoint": source.name,
        "written_by": content.get("version"),
        "config": content.get("config_tag"),
        "host": content.get("host"),
        "epoch": content.get("epoch"),
        "step": content.get("it"),
        "modality": modality(slots),
        "inputs": inputs,
        "model": encoders,
        "slots": {
            slot: {name: list(one.shape) for name, one in state.items() if slot_of(name) == slot}
            for slot in slots
        },
    }


def modality(slots: list[str]) -> str:
    """``camera+lidar``, ``camera`` or ``lidar``."""
    branches = {"camera": "image_backbone", "lidar": "backbone_3d"}
    return "+".join(name for name, slot in branches.items() if slot in slots)


def _check_place(out: Path, source: Path) -> None:
    if out.suffix != ".pth":
        raise ConfigError(f"--out {out} must end with .pth, which OpenPCDet's tools look for")
    if out.resolve().parent == source.resolve().parent:
        raise ConfigError(
            f"--out {out} lies among the checkpoints of the run, which would be resumed from it; "
            "choose another folder"
        )
