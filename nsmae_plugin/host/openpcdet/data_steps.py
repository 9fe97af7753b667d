"""Checks of augmentors and processors that OpenPCDet lacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.gt_database import CREATE, read_gt_database
from nsmae_plugin.geometry import augmentation
from nsmae_plugin.host.openpcdet.registry import lookup


def check_data_steps(
    dataset_cfg: Any,
    root: Path,
    class_names: Sequence[str],
    augmentors: Sequence[str],
    processors: Sequence[str],
) -> None:
    """Check steps on which OpenPCDet would fail without a clear message.

    Args:
        root: folder of the ground-truth databases.
        augmentors, processors: names of the enabled steps.

    Raises:
        HostError: OpenPCDet has no such step.
        ConfigError: an augmentation occurs twice, or a range of scales is empty.
        DataError: a ground-truth database is missing or damaged, or lacks a class.
    """
    for slot, names in (("augmentor", augmentors), ("processor", processors)):
        for name in names:
            lookup(slot, name)
    steps = [name for name in augmentors if name in augmentation.STEPS]
    repeated = sorted({name for name in steps if steps.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"{', '.join(repeated)} occurs more than once: OpenPCDet keeps only the last draw, so "
            "lidar_aug_matrix cannot be known; remove one, or use NSMAE_HOST=builtin"
        )
    for config in dataset_cfg["DATA_AUGMENTOR"]["AUG_CONFIG_LIST"] if augmentors else ():
        least, most = config.get("WORLD_SCALE_RANGE", (0.0, 1.0))
        if most - least < 1e-3:
            raise ConfigError(
                f"OpenPCDet fails on WORLD_SCALE_RANGE [{least}, {most}]; remove "
                "random_world_scaling instead"
            )
        if config["NAME"] == "gt_sampling" in augmentors:
            _check_databases([root / name for name in config["DB_INFO_PATH"]], class_names)


def _check_databases(paths: Sequence[Path], class_names: Sequence[str]) -> None:
    for path in paths:
        unknown = set(class_names) - set(read_gt_database(path))
        if unknown:
            raise DataError(f"{path} has no list for {', '.join(sorted(unknown))}; {CREATE}")
