"""The images of a sample, cropped, with their calibrations."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data import images
from nsmae_plugin.formats.image_files import check_view

MATRIX_KEYS = (
    "camera_intrinsics",
    "camera2lidar",
    "lidar2camera",
    "lidar2image",
    "camera2ego",
)


def load_views(
    root: Path, info: Mapping[str, Any], settings: Any, training: bool
) -> dict[str, Any]:
    """Images and calibrations of the N cameras of a sample, before augmentation.

    Args:
        root: folder that the paths of ``info`` start at.
        settings: the section ``CAMERA_CONFIG.IMAGE``.
        training: draw scales and crops, from NumPy's global state.

    Returns:
        ``camera_imgs`` (images), ``image_paths``, ``ori_shape`` (width and height of the first),
        ``img_process_infos``, ``image_bounds`` (N, 4), the part of the raw image that is shown, and
        a list of (4, 4) for each of :data:`MATRIX_KEYS`.

    Raises:
        DataError: an image is missing or damaged, or does not belong to its camera.
    """
    choose, limits = images.centre_crop, settings.RESIZE_LIM_TEST
    if training:
        choose, limits = images.random_crop, settings.RESIZE_LIM_TRAIN
    place = partial(choose, final=settings.FINAL_DIM, limits=limits)
    cameras = list(info["cams"].values())
    views = []
    for camera in cameras:
        path = root / camera["data_path"]
        views.append(images.load_crop(path, info["token"], place))
        check_view(path, info["token"], camera, views[-1][2])
    crops, placements, sizes = zip(*views, strict=True)
    calibrations = [images.camera_matrices(camera) for camera in cameras]
    bounds = [images.bounds(*at) for at in zip(placements, sizes, strict=True)]
    return {
        "image_paths": [camera["data_path"] for camera in cameras],
        "ori_shape": sizes[0],
        "camera_imgs": list(crops),
        "img_process_infos": [[scale, crop, False, 0] for scale, crop in placements],
        "image_bounds": np.array(bounds, dtype=np.float32),
        **{key: [matrices[key] for matrices in calibrations] for key in MATRIX_KEYS},
    }
