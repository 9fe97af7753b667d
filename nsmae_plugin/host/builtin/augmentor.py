"""Augmentations under OpenPCDet's names, YAML keys and order of random draws.

Flips, turns, scalings and shifts are matrices, applied to points, boxes and velocities alike and
gathered in ``lidar_aug_matrix``, which is therefore right for any order and any number of steps.
Steps that follow one another are multiplied first, so that the cloud is moved once.
"""
# ruff: noqa: NPY002
# Drawn from NumPy's global state, as in OpenPCDet: the loader seeds it per sample.

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsmae_plugin.geometry import augmentation
from nsmae_plugin.host.builtin.database_sampler import DatabaseSampler
from nsmae_plugin.host.builtin.registry import StepPipeline

_PENDING = "pending_matrix"
_BLIND = (*augmentation.STEPS, "imgaug")  # steps that look at neither points nor boxes


class DataAugmentor(StepPipeline):
    """The steps of ``DATA_AUGMENTOR.AUG_CONFIG_LIST`` less those in ``DISABLE_AUG_LIST``."""

    SLOT = "augmentor"
    STEPS = ("gt_sampling", *augmentation.STEPS, "imgaug")

    def __init__(
        self, root_path: Path, augmentor_configs: Any, class_names: list[str], logger: Any = None
    ):
        self.root_path, self.class_names, self.logger = root_path, class_names, logger
        configs: Any = augmentor_configs or []
        disabled: list[str] = []
        if not isinstance(configs, list):
            disabled = configs.get("DISABLE_AUG_LIST") or []
            configs = configs["AUG_CONFIG_LIST"]
        enabled = [config for config in configs if config["NAME"] not in disabled]
        self.data_augmentor_queue = [
            self.gt_sampling(config) if config["NAME"] == "gt_sampling" else self.build_step(config)
            for config in enabled
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "logger"}

    def forward(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """Apply all steps; of the boxes keep those in ``gt_boxes_mask``."""
        data_dict = dict(data_dict)
        for step in self.data_augmentor_queue:  # which DisableAugmentationHook shortens
            data_dict = step(data_dict=data_dict if _is_blind(step) else _move(data_dict))
        data_dict = _move(data_dict)
        mask = data_dict.pop("gt_boxes_mask", None)
        if mask is not None:
            data_dict["gt_boxes"] = data_dict["gt_boxes"][mask]
            data_dict["gt_names"] = data_dict["gt_names"][mask]
        return data_dict

    def gt_sampling(self, config: Any) -> DatabaseSampler:
        """Paste objects of other frames, see :class:`DatabaseSampler`."""
        return DatabaseSampler(self.root_path, config, self.class_names, self.logger)

    def random_world_flip(self, data_dict: Any, config: Any) -> Any:
        """Mirror along each axis of ``ALONG_AXIS_LIST`` with probability one half."""
        drawn = {
            axis: np.random.choice([False, True], replace=False, p=[0.5, 0.5])
            for axis in config["ALONG_AXIS_LIST"]
        }
        along_x, along_y = bool(drawn.get("x")), bool(drawn.get("y"))
        turned = _transform(data_dict, augmentation.flip(along_x, along_y))
        turned["flip_x"] = data_dict.get("flip_x", False) ^ along_x
        turned["flip_y"] = data_dict.get("flip_y", False) ^ along_y
        return turned

    def random_world_rotation(self, data_dict: Any, config: Any) -> Any:
        """Turn about z by an angle within ``WORLD_ROT_ANGLE``: [least, most] or ± radians."""
        limits = config["WORLD_ROT_ANGLE"]
        if not isinstance(limits, list):
            limits = [-limits, limits]
        return _transform(data_dict, augmentation.rotation(np.random.uniform(*limits)))

    def random_world_scaling(self, data_dict: Any, config: Any) -> Any:
        """Scale by a factor within ``WORLD_SCALE_RANGE``; a range below 1e-3 draws nothing."""
        least, most = config["WORLD_SCALE_RANGE"]
        if most - least < 1e-3:
            return data_dict
        return _transform(data_dict, augmentation.scaling(np.random.uniform(least, most)))

    def random_world_translation(self, data_dict: Any, config: Any) -> Any:
        """Shift by Gaussian noise with the standard deviations ``NOISE_TRANSLATE_STD``, metres."""
        offset = [np.random.normal(0, deviation) for deviation in config["NOISE_TRANSLATE_STD"]]
        return _transform(data_dict, augmentation.translation(offset))

    def imgaug(self, data_dict: Any, config: Any) -> Any:
        """Mirror (``RAND_FLIP``) and turn (``ROT_LIM``, degrees) every camera's image by itself."""
        images, infos = [], []
        for image, info in zip(
            data_dict["camera_imgs"], data_dict["img_process_infos"], strict=True
        ):
            flip = bool(config["RAND_FLIP"] and np.random.choice([0, 1]))
            degrees = np.random.uniform(*config["ROT_LIM"])
            if flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            images.append(image.rotate(degrees))
            infos.append([*info[:2], flip, degrees])
        return {**data_dict, "camera_imgs": images, "img_process_infos": infos}


def _transform(data_dict: dict[str, Any], matrix: np.ndarray) -> dict[str, Any]:
    """Note a movement that points and boxes have yet to make."""
    gathered = {
        key: matrix @ data_dict.get(key, np.eye(4)) for key in ("lidar_aug_matrix", _PENDING)
    }
    return {**data_dict, **gathered}


def _is_blind(step: Any) -> bool:
    """True for a step before which points and boxes need not have been moved."""
    return getattr(getattr(step, "func", None), "__name__", None) in _BLIND


def _move(data_dict: dict[str, Any]) -> dict[str, Any]:
    """Move points and boxes by what was noted since they were moved last."""
    moved = dict(data_dict)
    matrix = moved.pop(_PENDING, None)
    if matrix is None:
        return moved
    if moved.get("points") is not None:
        moved["points"] = augmentation.transform_points(moved["points"], matrix)
    if moved.get("gt_boxes") is not None:
        moved["gt_boxes"] = augmentation.transform_boxes(moved["gt_boxes"], matrix)
    return moved
