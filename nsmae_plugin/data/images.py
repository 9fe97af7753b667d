"""Camera images of nuScenes and the matrices that place them.

Pixels are continuous: pixel ``i`` covers ``[i, i + 1)``. An image is scaled, cropped, possibly
mirrored and turned; ``img_process_infos`` carries ``[resize, (left, top, right, bottom), flip,
degrees]`` per camera under OpenPCDet's name, from which ``image_calibrate`` makes
``img_aug_matrix``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsmae_plugin.errors import DataError

Crop = tuple[int, int, int, int]
Placement = tuple[float, Crop]


def load_image(path: Path, token: str) -> Image.Image:
    """The image as RGB, fully decoded.

    Args:
        token: of the sample that asks for the file, for messages.

    Raises:
        DataError: the file is missing, truncated, or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(
            f"the image {path} of sample {token} is missing; check DATA_PATH and VERSION, "
            "and that the archive was unpacked completely"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say "damaged"
        raise DataError(
            f"the image {path} of sample {token} is truncated or no image ({error}); fetch it again"
        ) from error


def random_crop(size: tuple[int, int], final: Sequence[int], limits: Sequence[float]) -> Placement:
    """Draw a scale and a crop from NumPy's global state, in OpenPCDet's order.

    Args:
        size: (width, height) of the image; final: (height, width) of the result;
        limits: smallest and largest scale.

    Returns:
        scale, crop: the crop in pixels of the scaled image, at its lower edge, since the sky says
        little.
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


def _crop_at(left: int, height: int, final: Sequence[int]) -> Crop:
    top = height - final[0]
    return left, top, left + final[1], top + final[0]


def scale_and_crop(image: Image.Image, scale: float, crop: Crop) -> Image.Image:
    """The part ``crop`` of the image scaled by ``scale``; black where it reaches outside.

    Only that part is computed. The scale is exact, so that the content lies where the matrix says;
    scaling to a whole number of pixels first, as OpenPCDet does, displaces it by up to one pixel.
    """
    left, top, right, bottom = crop
    inside = (
        max(left, 0),
        max(top, 0),
        min(right, int(image.width * scale)),
        min(bottom, int(image.height * scale)),
    )
    canvas = Image.new("RGB", (right - left, bottom - top))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return canvas
    box = tuple(edge / scale for edge in inside)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    part = image.resize((inside[2] - inside[0], inside[3] - inside[1]), box=box)
    if part.size == canvas.size:
        return part
    canvas.paste(part, (inside[0] - left, inside[1] - top))
    return canvas


def camera_matrices(camera: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Calibration of one camera as (4, 4) float32 matrices.

    Args:
        camera: entry of ``info["cams"]``.

    Returns:
        ``camera_intrinsics`` (camera → pixel), ``camera2lidar``, ``lidar2camera``, ``lidar2image``
        (raw LiDAR frame → raw pixel × depth) and ``camera2ego``.
    """
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = camera["camera_intrinsics"]
    camera2lidar = _rigid(camera["sensor2lidar_rotation"], camera["sensor2lidar_translation"])
    camera2ego = _rigid(
        rotation_matrix(camera["sensor2ego_rotation"]), camera["sensor2ego_translation"]
    )
    lidar2camera = np.linalg.inv(camera2lidar)
    matrices = {
        "camera_intrinsics": intrinsics,
        "camera2lidar": camera2lidar,
        "lidar2camera": lidar2camera,
        "lidar2image": intrinsics @ lidar2camera,
        "camera2ego": camera2ego,
    }
    return {name: matrix.astype(np.float32) for name, matrix in matrices.items()}


def _rigid(rotation: Any, translation: Any) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def rotation_matrix(quaternion: Sequence[float]) -> np.ndarray:
    """(3, 3) rotation of a quaternion (w, x, y, z) of any length but zero."""
    w, x, y, z = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
