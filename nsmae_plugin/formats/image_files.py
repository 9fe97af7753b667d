"""JPEG and PNG files, opened safely and compared with their camera."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.runtime.reading import open_regular

FORMATS = ("JPEG", "PNG")
MOST_BYTES = 1 << 29  # of a file
MOST_PIXELS = 2 * 89_478_485  # Pillow's own limit, which the nuscenes-devkit lifts when imported
TOO_LARGE = "it has more than 179 megapixels; scale it, and its intrinsics"
ORIENTATION = 0x0112  # EXIF's tag
GET = "check DATA_PATH and VERSION, and that the archive was unpacked completely"


@contextmanager
def opened(path: Path, token: str) -> Iterator[Image.Image]:
    """An opened JPEG or PNG; some of Pillow's other readers run programs or code of the file.

    Raises:
        DataError: it is missing, no regular file, truncated or of another format, is larger than
            179 megapixels, has more than 8 bits, or is stored turned; also from the block.
    """
    owner = f" of sample {token}"
    with open_regular(path, "the image", GET, MOST_BYTES, owner) as file:
        try:
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise DataError(TOO_LARGE)
            _check_upright(image)
            yield image
        except DataError as error:
            raise DataError(f"the image {path}{owner} cannot be used: {error}") from error
        except Image.DecompressionBombError as error:
            raise DataError(f"the image {path}{owner} cannot be used: {TOO_LARGE}") from error
        except Exception as error:  # damaged files raise almost anything
            raise DataError(
                f"the image {path}{owner} is truncated or no image in JPEG or PNG "
                f"({brief(error, 80)}); fetch it again"
            ) from error


def _check_upright(image: Image.Image) -> None:
    """Refuse a rotated image (EXIF): its intrinsics may refer to either orientation."""
    turned = image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1
    if turned != 1:
        raise DataError(
            f"it is stored rotated (EXIF orientation {brief(turned, 20)}); store it upright, or "
            "remove the tag if camera_intrinsics are those of the pixels as they are stored"
        )


def load_image(path: Path, token: str) -> Image.Image:
    """The image as RGB, fully decoded.

    Args:
        token: of the sample that asks for the file, for messages.

    Raises:
        DataError: see :func:`opened`.
    """
    with opened(path, token) as image:
        return decode(image)


def image_size(path: Path, token: str) -> tuple[int, int]:
    """(width, height) of an image, read from its header.

    Raises:
        DataError: see :func:`opened`.
    """
    with opened(path, token) as image:
        return image.size


def check_view(path: Path, token: str, camera: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Check that an image fits its camera.

    Args:
        camera: entry of ``info["cams"]``; ``width`` and ``height`` are optional.
        size: width and height of the image in pixels.

    Raises:
        DataError: the tables name another size, or the optical axis passes beside the image: the
            intrinsics are those of another size.
    """
    name = f"the image {path} of sample {token} has {size[0]} x {size[1]} pixels"
    known = camera.get("width"), camera.get("height")
    if None not in known and known != size:
        raise DataError(
            f"{name}, and its info {known[0]} x {known[1]}: the intrinsics belong to another size; "
            "fetch the file again, or correct the tables and create the info files again"
        )
    matrix = np.asarray(camera["camera_intrinsics"])
    if not (0 < matrix[0, 2] < size[0] and 0 < matrix[1, 2] < size[1]):
        raise DataError(
            f"{name}, and the optical axis of its camera_intrinsics at ({matrix[0, 2]:.6g}, "
            f"{matrix[1, 2]:.6g}) passes beside it: they are not in pixels of this file"
        )


def decode(image: Image.Image) -> Image.Image:
    """An opened image as RGB.

    Raises:
        DataError: it has more than 8 bits, of which RGB would keep the upper ones only.
    """
    image.load()
    if image.mode.startswith(("I", "F")):
        raise DataError(f"it has the mode {image.mode}, more than 8 bits; convert it to 8")
    return image if image.mode == "RGB" else image.convert("RGB")
