"""Checks of the configured augmentors and processors before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from nsmae_plugin import host
from nsmae_plugin.data import gt_sampling
from nsmae_plugin.errors import ConfigError

CAMERA_AUGMENTORS = ("imgaug",)
CAMERA_PROCESSORS = ("image_calibrate", "image_normalize", "mask_image_patches")
LIDAR_PROCESSORS = ("mask_voxels", "mask_depth_points")
# These change or reorder the points; a mask over the points must be drawn after them.
POINT_PROCESSORS = ("mask_points_and_boxes_outside_range", "shuffle_points", "sample_points")


def enabled_augmentors(dataset_cfg: Any) -> list[str]:
    """Names of the enabled augmentors, in order."""
    section = dataset_cfg.get("DATA_AUGMENTOR") or {"AUG_CONFIG_LIST": []}
    disabled = section.get("DISABLE_AUG_LIST") or []
    return [one["NAME"] for one in section["AUG_CONFIG_LIST"] if one["NAME"] not in disabled]


def find_step(dataset_cfg: Any, name: str) -> Any:
    """The processor's config of that name, or None."""
    return next((one for one in dataset_cfg["DATA_PROCESSOR"] if one["NAME"] == name), None)


def check_pipeline(
    dataset_cfg: Any, settings: Any, training: bool, root: Path, class_names: Sequence[str]
) -> Any:
    """Check the steps; return the configuration with an explicit, perhaps empty augmentor.

    Args:
        settings: the checked ``dataset_cfg``.
        root: folder that the paths of frames start at.

    Raises:
        ConfigError: steps that need a sensor that is off, that are missing for one that is on, or
            that are in the wrong order.
    """
    cameras, lidar = settings.use_camera, settings.USE_LIDAR
    if not (cameras or lidar):
        raise ConfigError("USE_LIDAR and CAMERA_CONFIG.USE_CAMERA are both off: nothing to load")
    augmentors = enabled_augmentors(dataset_cfg) if training else []
    processors = [one["NAME"] for one in dataset_cfg["DATA_PROCESSOR"]]
    _check_sensors(augmentors, processors, cameras, lidar)
    gt_sampling.check_setting(augmentors, cameras, lidar, settings.USE_LABELS)
    _check_order(processors)
    host.check_data_steps(dataset_cfg, root, class_names, augmentors, processors)
    augmentor: dict[str, Any] = {"DISABLE_AUG_LIST": [], "AUG_CONFIG_LIST": []}
    augmentor |= dataset_cfg.get("DATA_AUGMENTOR") or {}
    return EasyDict({**dataset_cfg, "DATA_AUGMENTOR": augmentor})


def _check_sensors(
    augmentors: list[str], processors: list[str], cameras: bool, lidar: bool
) -> None:
    steps = augmentors + processors
    unusable = [] if cameras else [*CAMERA_AUGMENTORS, *CAMERA_PROCESSORS]
    unusable += [] if lidar else LIDAR_PROCESSORS
    found = [name for name in steps if name in unusable]
    if found:
        raise ConfigError(
            f"{', '.join(found)} cannot work with USE_CAMERA {cameras} and USE_LIDAR {lidar}; "
            "remove the step or switch the sensor on"
        )
    missing = [name for name in CAMERA_PROCESSORS[:2] if cameras and name not in processors]
    if missing:
        raise ConfigError(f"cameras need {', '.join(missing)} in DATA_PROCESSOR")


def _check_order(processors: list[str]) -> None:
    if "mask_depth_points" in processors:
        position = processors.index("mask_depth_points")
        late = [name for name in processors[position:] if name in POINT_PROCESSORS]
        if late:
            raise ConfigError(f"mask_depth_points must come after {', '.join(late)}")
