"""Masking of the input: image patches, LiDAR voxels and depth points.

Of ``n`` elements exactly ``round(ratio * n)`` are hidden, per sample and, for images, per camera;
``True`` means hidden. As OpenPCDet's, the :data:`PROCESSORS` return the configured step when called
with a config alone, and the masked sample when called with a sample.
"""

from functools import partial
from typing import Any

import numpy as np

from nsmae_plugin.errors import ConfigError


def hidden_subset(count: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) bool with exactly ``round(ratio * count)`` elements ``True``."""
    wanted = round(ratio * count)
    fewer = min(wanted, count - wanted)  # draw the smaller part, in time proportional to it
    mask = np.zeros(count, dtype=bool)
    mask[rng.choice(count, fewer, replace=False, shuffle=False)] = True
    return mask if fewer == wanted else ~mask


def image_patch_mask(
    num_cameras: int, height: int, width: int, patch: int, ratio: float, rng: np.random.Generator
) -> np.ndarray:
    """(num_cameras, height / patch, width / patch) bool; each camera hides the same number.

    Raises:
        ConfigError: the image, in pixels, does not divide into patches.
    """
    if patch < 1 or height % patch or width % patch:
        raise ConfigError(
            f"mask_image_patches: an image of {height} x {width} pixels does not divide into "
            f"patches of {patch}; choose PATCH_SIZE or CAMERA_CONFIG.IMAGE.FINAL_DIM accordingly"
        )
    rows, columns = height // patch, width // patch
    order = rng.random((num_cameras, rows * columns)).argsort(axis=1)
    hidden = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(hidden, order[:, : round(ratio * rows * columns)], True, axis=1)
    return hidden.reshape(num_cameras, rows, columns)


def sample_generator() -> np.random.Generator:
    """A generator seeded from NumPy's global state, which the loader seeds per sample."""
    return np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))  # noqa: NPY002


def mask_image_patches(self: Any, data_dict: Any = None, config: Any = None) -> Any:
    """Add ``image_patch_mask``; reads the sizes of ``camera_imgs``, tensors (3, H, W)."""
    if data_dict is None:
        return partial(mask_image_patches, self, config=config)
    images = _require(data_dict, "camera_imgs", "mask_image_patches", "image_normalize")
    patch, ratio, (height, width) = config["PATCH_SIZE"], config["RATIO"], images[0].shape[-2:]
    mask = image_patch_mask(len(images), height, width, patch, ratio, sample_generator())
    return {**data_dict, "image_patch_mask": mask}


def mask_voxels(self: Any, data_dict: Any = None, config: Any = None) -> Any:
    """Keep the visible ``voxels``, at least one; the rest become ``hidden_voxel_coords``."""
    if data_dict is None:
        return partial(mask_voxels, self, config=config)
    coords = _require(data_dict, "voxel_coords", "mask_voxels", "transform_points_to_voxels")
    if isinstance(coords, list):
        raise ConfigError("mask_voxels does not work with DOUBLE_FLIP; remove one of the two")
    hidden = hidden_subset(len(coords), config["RATIO"], sample_generator())
    if hidden.all():
        hidden[:1] = False  # a sparse backbone cannot run on none
    keys = ("voxels", "voxel_coords", "voxel_num_points")
    visible = {key: data_dict[key][~hidden] for key in keys}
    return {**data_dict, **visible, "hidden_voxel_coords": coords[hidden]}


def mask_depth_points(self: Any, data_dict: Any = None, config: Any = None) -> Any:
    """Add ``depth_point_mask`` (P,): points that the view transform may not use."""
    if data_dict is None:
        return partial(mask_depth_points, self, config=config)
    points = _require(data_dict, "points", "mask_depth_points", "the LiDAR (USE_LIDAR: True)")
    mask = hidden_subset(len(points), config["RATIO"], sample_generator())
    return {**data_dict, "depth_point_mask": mask}


PROCESSORS = {
    "mask_image_patches": mask_image_patches,
    "mask_voxels": mask_voxels,
    "mask_depth_points": mask_depth_points,
    "mask_depth_hints": mask_depth_points,  # its earlier name
}


def _require(data_dict: dict[str, Any], key: str, step: str, source: str) -> Any:
    if data_dict.get(key) is None:
        raise ConfigError(f"{step} needs {key}: put it after {source} in DATA_PROCESSOR")
    return data_dict[key]
