"""Where the network's input stays black because images do not fill it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.image_files import image_size


def black_share(size: tuple[int, int], final: Sequence[int], limits: Sequence[float]) -> float:
    """Share of the input that stays black at the smallest scale; arguments as
    :func:`~nsmae_plugin.data.images.random_crop`."""
    width, height = (int(edge * min(limits)) for edge in size)
    return 1 - min(1.0, width / final[1]) * min(1.0, height / final[0])


def tell(
    root: Path,
    info: Mapping[str, Any],
    settings: Any,
    training: bool,
    turned: bool,
    logger: logging.Logger,
) -> None:
    """Say whether there are black pixels, by the images of one sample.

    Args:
        root: folder that the paths of ``info`` start at.
        settings: the section ``CAMERA_CONFIG.IMAGE``.
        turned: images are turned while training.
    """
    limits = settings.RESIZE_LIM_TRAIN
    if not training:
        limits = [float(np.mean(settings.RESIZE_LIM_TEST))]
    for channel, camera in info["cams"].items():
        try:
            size = image_size(root / camera["data_path"], info["token"])
        except DataError:  # told where the sample is read
            return
        share = black_share(size, settings.FINAL_DIM, limits)
        if share:
            logger.warning(
                "images of %s have %d x %d pixels; scaled by %g they leave up to %.0f %% of "
                "CAMERA_CONFIG.IMAGE.FINAL_DIM %s black. Loss and metrics of reconstructions leave "
                "that out; other RESIZE_LIM_TRAIN, RESIZE_LIM_TEST or FINAL_DIM avoid it",
                channel,
                *size,
                min(limits),
                100 * share,
                list(settings.FINAL_DIM),
            )
            break
    if training and turned:
        logger.info(
            "imgaug turns black corners into images; loss and metrics of reconstructions leave "
            "them out"
        )
