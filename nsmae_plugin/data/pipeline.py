"""Checks of the configured augmentors and processors before anything is loaded."""

from typing import Any

from easydict import EasyDict

from nsmae_plugin.data import gt_sampling
from nsmae_plugin.errors import ConfigError

CAMERA_AUGMENTORS = ("imgaug",)
CAMERA_PROCESSORS = ("image_calibrate", "image_normalize", "mask_image_patches")
LIDAR_PROCESSORS = ("mask_voxels", "mask_depth_points")
# These change or reorder the points; a mask over the points must be drawn after them.
POINT_PROCESSORS = ("mask_points_and_boxes_outside_range", "shuffle_points", "sample_points")


def enabled_augmentors(dataset_cfg: Any) -> list[str]:
    """Names of the augmentors that are not disabled, in order."""
    section = dataset_cfg.get("DATA_AUGMENTOR") or {"AUG_CONFIG_LIST": []}
    disabled = section.get("DISABLE_AUG_LIST") or []
    return [one["NAME"] for one in section["AUG_CONFIG_LIST"] if one["NAME"] not in disabled]


def processors(dataset_cfg: Any) -> list[str]:
    """Names of the processors, in order."""
    return [one["NAME"] for one in dataset_cfg["DATA_PROCESSOR"]]


def find_step(dataset_cfg: Any, name: str) -> Any:
    """The processor's config of that name, or None."""
    return next((one for one in dataset_cfg["DATA_PROCESSOR"] if one["NAME"] == name), None)


def check_pipeline(dataset_cfg: Any, training: bool, cameras: bool, lidar: bool) -> Any:
    """The configuration with an explicit, perhaps empty ``DATA_AUGMENTOR``.

    Raises:
        ConfigError: steps that need a sensor that is off, that are missing for one that is on, or
            that are in the wrong order.
    """
    if not (cameras or lidar):
        raise ConfigError("USE_LIDAR and CAMERA_CONFIG.USE_CAMERA are both off: nothing to load")
    augmentors = enabled_augmentors(dataset_cfg) if training else []
    steps = processors(dataset_cfg)
    _check_sensors(augmentors, steps, cameras, lidar)
    labels = dataset_cfg.get("USE_LABELS", False)
    gt_sampling.check_setting(augmentors, cameras, lidar, labels)
    _check_order(steps)
    return EasyDict(
        {
            **dataset_cfg,
            "DATA_AUGMENTOR": {
                "DISABLE_AUG_LIST": [],
                "AUG_CONFIG_LIST": [],
                **(dataset_cfg.get("DATA_AUGMENTOR") or {}),
            },
        }
    )


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
