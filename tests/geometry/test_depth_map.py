"""LiDAR depth maps against a loop over points, and the cases without any point."""

import math

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.depth_map import lidar_depth_map

SIZE = (24, 32)


def scene(batch=2, cameras=3, points=400, seed=0, dtype=torch.float32):
    """Random cloud, cameras around it, and random augmentations of both."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    intrinsics = torch.eye(4, dtype=torch.float64)
    intrinsics[:2, :3] = torch.tensor([[12.0, 0, 16], [0, 12.0, 12]])
    forward = torch.tensor(
        [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    lidar2image = torch.empty(batch, cameras, 4, 4, dtype=torch.float64)
    for camera in range(cameras):
        turn = _turn(2 * math.pi * camera / cameras)
        lidar2image[:, camera] = intrinsics @ forward @ turn
    img_aug = torch.eye(4, dtype=torch.float64).repeat(batch, cameras, 1, 1)
    img_aug[..., 0, 0] = 0.8 + 0.4 * rand(batch, cameras)
    img_aug[..., :2, 3] = 4 * rand(batch, cameras, 2) - 2
    lidar_aug = torch.stack([_turn(float(angle)) for angle in rand(batch)])
    lidar_aug[:, :3, :3] *= 1.05
    lidar_aug[:, :3, 3] = rand(batch, 3)
    xyz = (rand(points, 3) - 0.5) * torch.tensor([40.0, 40.0, 8.0])
    sample = torch.randint(batch, (points, 1), generator=generator)
    cloud = torch.cat((sample, xyz, rand(points, 2)), dim=1)
    return tuple(tensor.to(dtype) for tensor in (cloud, lidar2image, img_aug, lidar_aug))


def _turn(angle: float) -> torch.Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return matrix


def depth_map_by_loop(points, lidar2image, img_aug, lidar_aug, size, stride):
    """Point after point, camera after camera, step after step."""
    batch, cameras = lidar2image.shape[:2]
    depth = torch.zeros(batch, cameras, size[0] // stride, size[1] // stride, dtype=points.dtype)
    for point in points:
        sample = int(point[0])
        raw = torch.linalg.inv(lidar_aug[sample]) @ torch.cat((point[1:4], point.new_ones(1)))
        for camera in range(cameras):
            x, y, z, _ = lidar2image[sample, camera] @ raw
            if z <= 0:
                continue
            pixel = torch.stack((x / z, y / z, torch.zeros_like(z), torch.ones_like(z)))
            u, v = (img_aug[sample, camera] @ pixel)[:2].tolist()
            if not (0 <= u < size[1] and 0 <= v < size[0]):
                continue
            cell = (sample, camera, int(v) // stride, int(u) // stride)
            if depth[cell] == 0 or z < depth[cell]:
                depth[cell] = z
    return depth


@pytest.mark.parametrize("stride", [1, 8])
def test_depth_maps_match_the_loop_reference(stride, device):
    """float64, so that no point changes its pixel by rounding."""
    arguments = scene(dtype=torch.float64)
    expected = depth_map_by_loop(*arguments, SIZE, stride)
    depth, valid = lidar_depth_map(*(x.to(device) for x in arguments), SIZE, stride)
    assert expected.count_nonzero() > 20
    torch.testing.assert_close(depth.cpu(), expected, rtol=1e-12, atol=0)
    assert torch.equal(valid.cpu(), expected > 0)


IDENTITY = torch.eye(4)
# Looks along LiDAR x; focal length 10 pixels, principal point in the middle of 16 x 16.
AHEAD = torch.tensor([[8.0, -10, 0, 0], [8, 0, -10, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def one_camera(points, **options):
    cloud = torch.tensor(points).view(-1, 4)
    arguments = (AHEAD[None, None], IDENTITY[None, None], IDENTITY[None], (16, 16))
    depth, valid = lidar_depth_map(cloud, *arguments, **options)
    return depth[0, 0], valid[0, 0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearest_of_colliding_points_wins_in_any_order(order):
    points = [[0.0, 20.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]]
    depth, valid = one_camera([points[i] for i in order])
    assert depth[8, 8] == 5.0
    assert valid.sum() == 1


def test_points_behind_the_camera_leave_no_trace():
    depth, valid = one_camera([[0.0, -5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert not depth.any()
    assert not valid.any()


def test_a_feature_cell_takes_the_nearest_of_its_pixels():
    # Pixels (8, 8) and (13, 8), of one 8 x 8 cell, and (2, 8) of another.
    points = [[0.0, 9.0, 0.0, 0.0], [0.0, 4.0, -2.0, 0.0], [0.0, 10.0, 6.0, 0.0]]
    depth, valid = one_camera(points, stride=8)
    assert depth.tolist() == [[0.0, 0.0], [10.0, 4.0]]
    assert valid.tolist() == [[False, False], [True, True]]


def test_hidden_points_are_not_drawn():
    points = [[0.0, 20.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]]
    depth, _ = one_camera(points, keep=torch.tensor([True, False]))
    assert depth[8, 8] == 20.0
    _, valid = one_camera(points, keep=torch.tensor([False, False]))
    assert not valid.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_are_not_drawn(bad):
    for axis in (1, 2, 3):
        point = [0.0, 5.0, 0.0, 0.0]
        point[axis] = bad
        depth, valid = one_camera([point])
        assert not valid.any()
        assert torch.isfinite(depth).all()


def test_an_empty_cloud_gives_empty_maps(device):
    _, *matrices = (tensor.to(device) for tensor in scene())
    depth, valid = lidar_depth_map(torch.zeros(0, 6, device=device), *matrices, SIZE)
    assert depth.shape == (2, 3, *SIZE)
    assert not depth.any()
    assert not valid.any()


def test_a_sample_without_points_leaves_the_others_alone():
    cloud, *matrices = scene(dtype=torch.float64)
    only_second = cloud[cloud[:, 0] == 1]
    depth, _ = lidar_depth_map(only_second, *matrices, SIZE)
    whole, _ = lidar_depth_map(cloud, *matrices, SIZE)
    assert not depth[0].any()
    assert torch.equal(depth[1], whole[1])


def test_the_points_are_left_as_they_were():
    arguments = scene()
    before = [tensor.clone() for tensor in arguments]
    lidar_depth_map(*arguments, SIZE)
    assert all(torch.equal(a, b) for a, b in zip(before, arguments, strict=True))


def test_a_stride_that_does_not_divide_the_image_is_an_error():
    with pytest.raises(ConfigError, match="stride 7"):
        lidar_depth_map(*scene(), SIZE, stride=7)
