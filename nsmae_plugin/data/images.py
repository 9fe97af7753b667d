"""Camera images, decoded, scaled and cropped.

Pixels are continuous: pixel ``i`` covers ``[i, i + 1)``. A JPEG is decoded at 1/2, 1/4 or 1/8 of
its size if that is enough: libjpeg then computes fewer coefficients, and fewer pixels are scaled.
On images of nuScenes the result differs from that of the whole image by up to 0.8 of 255 grey
levels on average at scales of 0.38 to 0.55, decoded by half, and by up to 1.8 at 0.19 to 0.275,
decoded by a quarter: about as much as bicubic scaling differs from bilinear.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nsmae_plugin.formats.image_files import decode, opened

Crop = tuple[int, int, int, int]
Placement = tuple[float, Crop]

# How much a decoded image may be enlarged: the published 0.55 still starts from one half.
ENLARGEMENT = 1.1


def load_crop(
    path: Path, token: str, place: Callable[[tuple[int, int]], Placement]
) -> tuple[Image.Image, Placement, tuple[int, int]]:
    """A scaled part of an image, decoded no larger than it needs to be.

    Args:
        token: of the sample that asks for the file, for messages.
        place: scale and crop for the (width, height) of the whole image.

    Returns:
        the part, as of :func:`scale_and_crop`; scale and crop; width and height of the whole image.

    Raises:
        DataError: see :func:`~nsmae_plugin.formats.image_files.opened`.
    """
    with opened(path, token) as image:
        size = image.size
        scale, crop = place(size)
        reduction = _reduce(image, scale)
        decoded = decode(image)
    return scale_and_crop(decoded, scale * reduction, crop), (scale, crop), size


def _reduce(image: Image.Image, scale: float) -> float:
    """Reduce the decoding size of an opened image for ``scale``; returns the reduction."""
    wanted = max((factor for factor in (2, 4, 8) if factor * scale <= ENLARGEMENT), default=1)
    width, height = image.size
    drafted = image.draft(None, (max(1, width // wanted), max(1, height // wanted)))
    return width / drafted[1][2] if drafted else 1.0  # None: only JPEG can


def random_crop(size: tuple[int, int], final: Sequence[int], limits: Sequence[float]) -> Placement:
    """Draw a scale and a crop from NumPy's global state, in OpenPCDet's order.

    Args:
        size: (width, height) of the image; final: (height, width) of the result;
        limits: smallest and largest scale.

    Returns:
        scale, and crop in pixels of the scaled image, at its lower edge: the sky is of little use.
    """
    scale = np.random.uniform(limits[0], limits[1])  # noqa: NPY002 (seeded per sample by the loader)
    width, height = int(size[0] * scale), int(size[1] * scale)
    left = int(np.random.uniform(0, max(0, width - final[1])))  # noqa: NPY002
    return scale, _crop_at(left, height, final)


def centre_crop(size: tuple[int, int], final: Sequence[int], limits: Sequence[float]) -> Placement:
    """As :func:`random_crop`, with the mean scale and the horizontal centre."""
    scale = float(np.mean(limits))
    width, height = int(size[0] * scale), int(size[1] * scale)
    return scale, _crop_at(int(max(0, width - final[1]) / 2), height, final)


def bounds(placement: Placement, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the cropped part of an image, in its pixels.

    The rest of the crop is black; ``size``: (width, height) of the image.
    """
    scale, (left, top, right, bottom) = placement
    width, height = int(size[0] * scale), int(size[1] * scale)
    edges = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return tuple(edge / scale for edge in edges)  # type: ignore[return-value]


def _crop_at(left: int, height: int, final: Sequence[int]) -> Crop:
    top = height - final[0]
    return left, top, left + final[1], top + final[0]


def scale_and_crop(image: Image.Image, scale: float, crop: Crop) -> Image.Image:
    """The part ``crop`` of the image scaled by ``scale``; black where it reaches outside.

    Bicubic with antialiasing, as Pillow's ``resize``: torch's follows it to one grey level, in a
    fourth of the time, and only the part is computed. The content lies where the matrix says, to
    1/64 pixel; scaling to a whole number of pixels first, as OpenPCDet does, displaces it by up to
    one pixel.
    """
    left, top, right, bottom = crop
    size = int(image.width * scale), int(image.height * scale)
    canvas = np.zeros((bottom - top, right - left, 3), np.uint8)
    inside = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if inside[0] < inside[2] and inside[1] < inside[3]:
        part = _scaled_part(image, scale, inside)
        y, x = max(-top, 0), max(-left, 0)
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return Image.fromarray(canvas)


def _scaled_part(image: Image.Image, scale: float, crop: Crop) -> np.ndarray:
    """The part ``crop``, not empty and inside the scaled image, as (height, width, 3)."""
    (column, x), (row, y) = (_start(edge, scale) for edge in crop[:2])
    reach = 2 * max(1, 1 / scale) + 1  # of the filter, in pixels of the image
    right, bottom = (int(edge / scale + reach) + 1 for edge in crop[2:])
    box = (column, row, min(right, image.width), min(bottom, image.height))
    pixels = torch.from_numpy(np.array(image.crop(box)))
    if scale != 1:
        pixels = pixels[None].permute(0, 3, 1, 2)  # so torch sees that the channels come last
        pixels = torch.nn.functional.interpolate(
            pixels,
            scale_factor=(scale, scale),  # and not the ratio of the sizes, which are rounded
            mode="bicubic",
            antialias=True,
            recompute_scale_factor=False,
        )[0].permute(1, 2, 0)
    part = pixels.numpy()[crop[1] - y : crop[3] - y, crop[0] - x : crop[2] - x]
    missing = crop[3] - crop[1] - part.shape[0], crop[2] - crop[0] - part.shape[1]
    if any(missing):  # by the 1/64 pixel of `_start`, the last row or column can be cut off
        part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return part


def _start(edge: int, scale: float) -> tuple[int, int]:
    """A pixel of the image, and one of the scaled image before ``edge`` that begins where it does.

    Scaling can begin there. That is far enough before for the filter, and right to 1/64 pixel.
    """
    last = edge - int(np.ceil(2 * max(scale, 1))) - 1
    for scaled in range(last, 0, -1):
        pixel = round(scaled / scale)
        if abs(pixel * scale - scaled) < 1 / 64:
            return pixel, scaled
    return 0, 0
