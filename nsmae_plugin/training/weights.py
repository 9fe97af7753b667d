"""Weights by slot, and the files that hold them: checkpoints, exports, safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nsmae_plugin.config.load import plain
from nsmae_plugin.errors import CheckpointError, brief
from nsmae_plugin.models.lift_splat import STOCK_GRID_KEYS
from nsmae_plugin.training import checkpoint

SAFETENSORS = ".safetensors"
MANIFEST = "manifest"
SECTIONS = ("VFE", "BACKBONE_3D", "MAP_TO_BEV", "IMAGE_BACKBONE", "NECK", "VTRANSFORM")
SENSOR_KEYS = ("LIDAR_", "INTENSITY_")  # beginnings of keys of DATA_CONFIG

# Slots that are transferred, under OpenPCDet's names.
ENCODERS = ("vfe", "backbone_3d", "map_to_bev_module", "image_backbone", "neck", "vtransform")

# OpenPCDet stores the grid of its view transform as parameters. It follows from the configuration,
# and a loaded one would silently replace the grid of the model that loads it.
GRID = frozenset(f"vtransform.{key}" for key in STOCK_GRID_KEYS)


def slot_of(name: str) -> str:
    """First part of a dotted name; empty for what lies outside the slots, like global_step."""
    return name.split(".", 1)[0] if "." in name else ""


def slots_of(names: Iterable[str]) -> list[str]:
    """The slots of some names, each once, in order of appearance."""
    return [slot for slot in dict.fromkeys(map(slot_of, names)) if slot]


def inputs_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sensor data that encoders trained with this DATA_CONFIG expect.

    Returns:
        ``point_features``, ``max_sweeps``, ``point_cloud_range`` (m), ``voxel_size`` (m),
        ``image_size`` (height, width), ``image_mean``, ``image_std``, and the keys about the LiDAR
        and its intensities under their own names in lower case; without those that are not set.
    """
    steps = {step["NAME"]: step for step in data.get("DATA_PROCESSOR", ())}
    cameras = data.get("CAMERA_CONFIG") or {}
    normalise = steps.get("image_normalize", {})
    found = {
        "point_features": data.get("POINT_FEATURE_ENCODING", {}).get("used_feature_list"),
        "max_sweeps": data.get("MAX_SWEEPS"),
        "point_cloud_range": data.get("POINT_CLOUD_RANGE"),
        "voxel_size": steps.get("transform_points_to_voxels", {}).get("VOXEL_SIZE"),
        "image_size": cameras["IMAGE"]["FINAL_DIM"] if cameras.get("USE_CAMERA") else None,
        "image_mean": normalise.get("mean"),
        "image_std": normalise.get("std"),
    }
    found |= {key.lower(): one for key, one in data.items() if key.startswith(SENSOR_KEYS)}
    return {key: plain(value) for key, value in found.items() if value is not None}


def encoders_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a MODEL that describe encoders, as plain containers."""
    return plain({key: model[key] for key in SECTIONS if model.get(key)})


def told_by(config: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """:func:`inputs_of` and :func:`encoders_of` of the configuration in a checkpoint.

    Raises:
        CheckpointError: it is no configuration, or holds what JSON cannot.
    """
    try:
        told = inputs_of(config.get("DATA_CONFIG") or {}), encoders_of(config.get("MODEL") or {})
        json.dumps(told)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source} is damaged: its 'config' is not a configuration ({brief(error)})"
        ) from error
    return told


def read(path: Path | str) -> dict[str, Any]:
    """Content of a checkpoint, of an export, or of a ``.safetensors`` file, on the CPU.

    Returns:
        ``model_state`` and what else the file holds; an export has a ``manifest``. Nothing that
        the file may hold is executed.

    Raises:
        CheckpointError: for a missing, truncated or foreign file.
    """
    path = Path(path)
    content = _read_safetensors(path) if path.suffix == SAFETENSORS else checkpoint.read(path)
    manifest = content.get(MANIFEST) or {}
    for key in ("inputs", "model"):
        value = manifest.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise CheckpointError(
                f"{path}: {key!r} of its manifest is {brief(repr(value), 50)}, not a dict"
            )
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()  # (the file itself cannot be iterated over)
            state = {name: file.get_tensor(name) for name in names}
            manifest = (file.metadata() or {}).get(MANIFEST)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot read the weights {path}, they may be truncated ({brief(error)}); "
            "export them again"
        ) from error
    content: dict[str, Any] = {"model_state": checkpoint.checked_state(state, path)}
    if manifest is not None:
        content[MANIFEST] = _parse_manifest(manifest, path)
    return content


def _parse_manifest(text: str, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its manifest is not JSON ({brief(error)})") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: its manifest is {type(manifest).__name__}, not a dict")
    return manifest
