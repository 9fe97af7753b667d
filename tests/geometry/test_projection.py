"""Projections: hand-computed answers, round trips under every augmentation, errors."""

import math

import pytest
import torch

from nsmae_plugin.errors import DataError
from nsmae_plugin.geometry.projection import (
    frustum_pixels,
    frustum_rays,
    image_from_lidar,
    projection_matrix,
)

# Camera looking along LiDAR x: camera x (right) = -y, camera y (down) = -z, camera z = x.
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def intrinsics(focal: float, cu: float, cv: float) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[0, 0] = matrix[1, 1] = focal
    matrix[0, 2], matrix[1, 2] = cu, cv
    return matrix


def rotation_z(angle: float) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return matrix


def cameras(number: int, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """One sample's calibration: cameras around the car, 1 m apart from its centre."""
    poses = []
    for index in range(number):
        offset = torch.eye(4)
        offset[:3, 3] = torch.tensor([1.0, 0.1 * index, 1.5])
        poses.append(rotation_z(2 * math.pi * index / number) @ offset @ FORWARD)
    camera2lidar = torch.stack(poses).to(dtype)
    camera_intrinsics = intrinsics(400.0, 350.0, 130.0).to(dtype).expand(number, 4, 4)
    return {
        "camera_intrinsics": camera_intrinsics[None],
        "camera2lidar": camera2lidar[None],
        "lidar2image": (camera_intrinsics @ torch.linalg.inv(camera2lidar))[None],
    }


def lidar_augmentation(rotate=0.0, scale=1.0, flip=(1.0, 1.0), shift=(0.0, 0.0, 0.0)):
    matrix = rotation_z(rotate) @ torch.diag(torch.tensor([*flip, 1.0, 1.0]))
    matrix[:3, :3] *= scale
    matrix[:3, 3] = torch.tensor(shift)
    return matrix.double()


def image_augmentation(rotate=0.0, resize=1.0, flip=1.0, shift=(0.0, 0.0)):
    matrix = rotation_z(rotate)
    matrix[:2, :2] *= resize
    matrix[0] *= flip
    matrix[:2, 3] = torch.tensor(shift)
    return matrix.double()


LIDAR_AUGMENTATIONS = {
    "none": lidar_augmentation(),
    "rotation": lidar_augmentation(rotate=0.7),
    "scaling": lidar_augmentation(scale=1.1),
    "flip": lidar_augmentation(flip=(1.0, -1.0)),
    "translation": lidar_augmentation(shift=(0.5, -0.3, 0.2)),
    "all": lidar_augmentation(0.7, 0.9, (-1.0, 1.0), (0.5, -0.3, 0.2)),
}
IMAGE_AUGMENTATIONS = {
    "none": image_augmentation(),
    "resize and crop": image_augmentation(resize=0.48, shift=(-32.0, -176.0)),
    "flip": image_augmentation(flip=-1.0, shift=(704.0, 0.0)),
    "rotation": image_augmentation(rotate=0.09, shift=(10.0, -5.0)),
    "all": image_augmentation(0.09, 0.44, -1.0, (700.0, -100.0)),
}


def test_a_point_lands_on_the_pixel_computed_by_hand():
    calibration = {
        "lidar2image": (intrinsics(100.0, 50.0, 40.0) @ torch.linalg.inv(FORWARD))[None, None]
    }
    # 10 m ahead, 2 m left, 1 m up: 20 pixels left of and 10 above the principal point.
    # The second is 5 m behind.
    points = torch.tensor([[[10.0, 2.0, 1.0], [-5.0, 0.0, 0.0]]])
    pixels, depth = image_from_lidar(
        points, img_aug_matrix=torch.eye(4)[None, None], lidar_aug_matrix=torch.eye(4)[None],
        **calibration,
    )  # fmt: skip
    torch.testing.assert_close(pixels[0, 0, 0], torch.tensor([30.0, 30.0]))
    assert torch.isnan(pixels[0, 0, 1]).all()
    torch.testing.assert_close(depth[0, 0], torch.tensor([10.0, -5.0]))


def test_the_image_augmentation_moves_pixels_and_leaves_depth():
    lidar2image = (intrinsics(100.0, 50.0, 40.0) @ torch.linalg.inv(FORWARD))[None, None]
    augmentation = image_augmentation(resize=0.5, flip=-1.0, shift=(100.0, 7.0))[None, None]
    pixels, depth = image_from_lidar(
        torch.tensor([[[10.0, 2.0, 1.0]]]), lidar2image, augmentation, torch.eye(4)[None]
    )
    torch.testing.assert_close(pixels[0, 0, 0], torch.tensor([100 - 15.0, 15.0 + 7.0]))
    assert depth.item() == pytest.approx(10.0)


@pytest.mark.parametrize("image", IMAGE_AUGMENTATIONS)
@pytest.mark.parametrize("lidar", LIDAR_AUGMENTATIONS)
def test_pixels_return_through_their_rays(lidar, image, device):
    """A frustum point projects back onto its own pixel and depth: 1e-9 of 700 pixels in float64."""
    calibration = {key: value.to(device) for key, value in cameras(3).items()}
    lidar2image = calibration.pop("lidar2image")
    image_matrix = IMAGE_AUGMENTATIONS[image].to(device).expand(1, 3, 4, 4)
    lidar_matrix = LIDAR_AUGMENTATIONS[lidar].to(device)[None]
    pixels = frustum_pixels((256, 704), (4, 8)).double().to(device)
    rays, origins = frustum_rays(
        pixels, img_aug_matrix=image_matrix, lidar_aug_matrix=lidar_matrix, **calibration
    )
    for depth in (1.0, 12.5, 59.5):
        points = origins.unsqueeze(2) + rays * depth
        for camera in range(3):
            back, distance = image_from_lidar(
                points[:, camera], lidar2image, image_matrix, lidar_matrix
            )
            torch.testing.assert_close(back[0, camera], pixels, rtol=0, atol=1e-7)
            expected = torch.full_like(distance[0, camera], depth)
            torch.testing.assert_close(distance[0, camera], expected, rtol=0, atol=1e-9)


def test_points_return_through_their_pixels():
    """The other way round, with another augmentation for every sample and camera."""
    generator = torch.Generator().manual_seed(0)
    calibration = {key: value.expand(2, 4, 4, 4) for key, value in cameras(4).items()}
    lidar2image = calibration.pop("lidar2image")
    choices = list(IMAGE_AUGMENTATIONS.values())
    image_matrix = torch.stack([torch.stack(choices[:4]), torch.stack(choices[1:])])
    lidar_matrix = torch.stack([LIDAR_AUGMENTATIONS["all"], LIDAR_AUGMENTATIONS["rotation"]])
    points = torch.rand(2, 50, 3, generator=generator, dtype=torch.float64) * 80 - 40
    pixels, depth = image_from_lidar(points, lidar2image, image_matrix, lidar_matrix)
    rays, origins = frustum_rays(
        pixels, img_aug_matrix=image_matrix, lidar_aug_matrix=lidar_matrix, **calibration
    )
    back = origins.unsqueeze(2) + rays * depth.unsqueeze(-1)
    ahead = depth > 0
    assert 0.2 < ahead.double().mean() < 0.8
    expected = points.unsqueeze(1).expand_as(back)
    torch.testing.assert_close(back[ahead], expected[ahead], rtol=0, atol=1e-9)
    assert torch.isnan(back[~ahead]).all()


def test_inputs_are_left_as_they_were():
    calibration = cameras(2)
    points = torch.rand(1, 5, 3)
    matrices = [calibration["lidar2image"], torch.eye(4).expand(1, 2, 4, 4), torch.eye(4)[None]]
    before = [points.clone(), *(matrix.clone() for matrix in matrices)]
    image_from_lidar(points, *matrices)
    for old, new in zip(before, [points, *matrices], strict=True):
        assert torch.equal(old, new)


def test_float32_points_stay_within_a_hundredth_of_a_pixel():
    """Combining the matrices in float64 leaves one rounding per product: 704 * 2**-24 * a few."""
    calibration = cameras(3)
    arguments = (
        calibration["lidar2image"],
        IMAGE_AUGMENTATIONS["all"].expand(1, 3, 4, 4),
        LIDAR_AUGMENTATIONS["all"][None],
    )
    points = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(1)) * 100 - 50
    exact, depth = image_from_lidar(points.double(), *arguments)
    rounded, _ = image_from_lidar(points, *(matrix.float() for matrix in arguments))
    near = (depth > 1.0) & (exact.abs() < 2000).all(-1)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded[near].double(), exact[near], rtol=0, atol=1e-2)


def test_frustum_pixels_span_the_image_from_first_to_last_pixel():
    pixels = frustum_pixels((16, 24), (2, 3))
    expected = [[0, 0], [11.5, 0], [23, 0], [0, 15], [11.5, 15], [23, 15]]
    torch.testing.assert_close(pixels, torch.tensor(expected))


def test_a_matrix_without_inverse_is_named():
    good = torch.eye(4)[None, None]
    with pytest.raises(DataError, match="lidar_aug_matrix"):
        projection_matrix(good, good, torch.zeros(1, 4, 4))
    with pytest.raises(DataError, match="camera_intrinsics"):
        frustum_rays(torch.zeros(1, 2), torch.zeros(1, 1, 4, 4), good, good, torch.eye(4)[None])
