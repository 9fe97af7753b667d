"""The cropped images of a sample and their calibrations."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data import images
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.image_files import check_view, image_size
from nsmae_plugin.geometry import calibration

MATRIX_KEYS = ("camera_intrinsics", "camera2lidar", "lidar2camera", "lidar2image", "camera2ego")


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
    matrices = [calibration.camera_matrices(camera) for camera in cameras]
    bounds = [images.bounds(*at) for at in zip(placements, sizes, strict=True)]
    return {
        "image_paths": [camera["data_path"] for camera in cameras],
        "ori_shape": sizes[0],
        "camera_imgs": list(crops),
        "img_process_infos": [[scale, crop, False, 0] for scale, crop in placements],
        "image_bounds": np.array(bounds, dtype=np.float32),
        **{key: [one[key] for one in matrices] for key in MATRIX_KEYS},
    }


def black_share(size: tuple[int, int], final: Sequence[int], limits: Sequence[float]) -> float:
    """Black share of the input at the smallest scale; arguments as
    :func:`~nsmae_plugin.data.images.random_crop`."""
    width, height = (int(edge * min(limits)) for edge in size)
    return 1 - min(1.0, width / final[1]) * min(1.0, height / final[0])


def report_black_pixels(
    root: Path,
    info: Mapping[str, Any],
    settings: Any,
    training: bool,
    turned: bool,
    logger: logging.Logger,
) -> None:
    """Log if the images of one sample do not fill the network's input.

    Args:
        root: folder that the paths of ``info`` start at.
        settings: the checked section ``CAMERA_CONFIG.IMAGE``.
        turned: images are rotated while training.
    """
    limits = settings.RESIZE_LIM_TRAIN
    if not training:
        limits = [float(np.mean(settings.RESIZE_LIM_TEST))]
    for channel, camera in info["cams"].items():
        try:
            size = image_size(root / camera["data_path"], info["token"])
        except DataError:  # reported when the sample is read
            return
        share = black_share(size, settings.FINAL_DIM, limits)
        if share:
            logger.warning(
                "images of %s have %d x %d pixels; scaled by %g they leave up to %.0f %% of "
                "CAMERA_CONFIG.IMAGE.FINAL_DIM %s black. Loss and metrics of reconstructions "
                "ignore it; other RESIZE_LIM_TRAIN, RESIZE_LIM_TEST or FINAL_DIM avoid it",
                channel,
                *size,
                min(limits),
                100 * share,
                list(settings.FINAL_DIM),
            )
            break
    if turned:
        logger.info(
            "imgaug turns black corners into images; loss and metrics of reconstructions leave "
            "them out"
        )
