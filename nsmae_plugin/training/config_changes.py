"""Changes between the configuration of a checkpoint and the current one.

Some keys define the network and its inputs: with other values, its weights are useless even where
their shapes fit. Others may change when a run resumes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nsmae_plugin.config.load import plain, read
from nsmae_plugin.config.old_sections import update_sections
from nsmae_plugin.data.data_config import OWN_KEYS
from nsmae_plugin.errors import CheckpointError, brief

SHOWN = 3  # changes that an error message spells out
LONGEST = 120  # characters of a value in a message

# What the network reads, and how it is read: beginnings of keys.
_INPUTS = tuple(
    f"DATA_CONFIG.{key}"
    for key in (
        *("POINT_CLOUD_RANGE", "MAX_SWEEPS", "POINT_FEATURE_ENCODING", "USE_LIDAR"),
        *("LIDAR_", "INTENSITY_", "PRED_VELOCITY", "MAP_CONFIG"),
        *("CAMERA_CONFIG.USE_CAMERA", "CAMERA_CONFIG.IMAGE.FINAL_DIM"),
        *("DATA_PROCESSOR.image_normalize", "DATA_PROCESSOR.mask_image_patches.PATCH_SIZE"),
        "DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE",
        "DATA_PROCESSOR.transform_points_to_voxels.MAX_POINTS_PER_VOXEL",
        "DATA_PROCESSOR.transform_points_to_voxels_placeholder.VOXEL_SIZE",
    )
)
_MEANING = ("CLASS_NAMES", "MODEL.", *_INPUTS)
_FREE = {
    *("LOSS_CONFIG", "LOSS_WEIGHTS", "POST_PROCESSING", "NMS_CONFIG", "INIT_CFG"),
    *("DROP_RATE", "ATTN_DROP_RATE", "DROP_PATH_RATE", "DROPOUT", "WITH_CP", "KERNELS"),
    "NUM_CLASSES",  # that no head reads
}
# The optimiser's state fits no other.
_OPTIMISER = tuple(
    f"OPTIMIZATION.{key}" for key in ("OPTIMIZER", "LR_SCALE", "LAYER_DECAY", "NO_DECAY", "FREEZE")
)
# The network has learnt from what would be held out.
_VALIDATION = ("DATA_CONFIG.VALIDATION_",)
_DEFAULTS: dict[str, Any] = {f"DATA_CONFIG.{key}": value for key, value in OWN_KEYS.items()}
_DEFAULTS |= {"OPTIMIZATION.FREEZE": [], "OPTIMIZATION.NO_DECAY": []}


class Change(NamedTuple):
    """A key of the configuration with another value than before; None is an absent one."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} {_words(self.before)} -> {_words(self.now)}"

    @property
    def of_meaning(self) -> bool:
        """Return whether the change makes earlier weights useless."""
        if self.key.startswith("DATA_CONFIG.MAP_CONFIG") and None in (self.before, self.now):
            return False  # a map that the network does not draw; one that it draws is in MODEL
        return self.key.startswith(_MEANING) and not self.is_free

    @property
    def is_free(self) -> bool:
        """Return whether the key does not affect the network: loss weights, filters, speed."""
        return bool(_FREE.intersection(self.key.split(".")))


def _words(value: Any) -> str:
    return "absent" if value is None else brief(str(value), LONGEST)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Every key that differs, in the sections that both have."""
    sections = before.keys() & now.keys()
    old, new = (
        {**_DEFAULTS, **dict(_leaves(plain({k: v for k, v in one.items() if k in sections})))}
        for one in (before, now)
    )
    keys = dict.fromkeys((*old, *new))
    return [Change(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)]


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys as after ``--set``, and values: entries of lists of sections by their NAME."""
    if isinstance(section, list) and section and all(isinstance(one, dict) for one in section):
        names = [str(one.get("NAME", position)) for position, one in enumerate(section)]
        yield f"{prefix}NAMES", names  # their order
        section = dict(zip(names, section, strict=True))
    if not isinstance(section, dict):
        if section is not None:
            yield prefix.removesuffix("."), section
        return
    for key, value in section.items():
        yield from _leaves(value, f"{prefix}{key}.")


def of_run(content: Mapping[str, Any], source: Path) -> Mapping[str, Any] | None:
    """The configuration that a checkpoint was trained with, in today's sections; None if unknown.

    Checkpoints of earlier versions hold none: there it is what ``nsmae train`` wrote above the
    folder of its checkpoints, if that is there.
    """
    config = content.get("config")
    if not isinstance(config, Mapping):
        path = source.resolve().parent.parent / f"{content.get('config_tag')}.yaml"
        if not os.path.isfile(path):  # also for impossible names
            return None
        config = read(path)
    return _in_todays_sections(config)


def check_use(
    content: Mapping[str, Any], source: Path, config: Mapping[str, Any], logger: logging.Logger
) -> None:
    """Check that a trained network is used with a configuration that fits its weights.

    Raises:
        CheckpointError: naming the changes that make its weights useless.
    """
    before = of_run(content, source)
    if before is None:
        logger.info("%s holds no configuration: today's cannot be compared with it", source)
        return
    _refuse(
        [change for change in changes(before, config) if change.of_meaning],
        source,
        "use the configuration of its own run (the YAML beside its folder ckpt)",
    )


def check_resume(
    content: Mapping[str, Any],
    source: Path,
    config: Mapping[str, Any],
    precision: str,
    logger: logging.Logger,
) -> None:
    """Check that a run can resume with a configuration, and log what has changed.

    Raises:
        CheckpointError: naming the changes that a resumed run cannot make.
    """
    before = content.get("config")
    if not isinstance(before, Mapping):
        logger.info("%s holds no configuration: today's cannot be compared with it", source)
        return
    found = changes(_in_todays_sections(before), config)
    _refuse(
        [one for one in found if one.of_meaning or one.key.startswith(_OPTIMISER + _VALIDATION)],
        source,
        "resume with the old value, or start a new run from its weights with --pretrained_model "
        "and another --extra_tag",
    )
    old = content.get("precision", precision)
    found += [Change("precision", old, precision)] if old != precision else []
    for one in found:
        logger.warning("changed since %s: %s", source.name, one)


def _in_todays_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = plain(config)
    update_sections(content)
    return content


def _refuse(found: list[Change], source: Path, remedy: str) -> None:
    if found:
        meaning = any(one.of_meaning for one in found)
        why = "do not fit its weights" if meaning else "a run cannot change when it resumes"
        shown = "; ".join(map(str, found[:SHOWN]))
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"{source} was trained with other settings ({shown}{more}) that {why}; {remedy}"
        )
