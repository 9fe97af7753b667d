"""Targets on scenes small enough to compute by hand, and against a loop over points."""

import math

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.models.targets import depth_from_above, filled_cells
from tests.helpers.heads import bev_head, perspective_head

# Four by two voxels of 1 x 1 x 0.5 m in the plane, 4 high: x in 0…4, y in 0…2, z in -1…1.
GRID = BEVGrid((0.0, 4.0, 1.0), (0.0, 2.0, 1.0), (-1.0, 1.0, 0.5))
HEIGHT, WIDTH = 16, 24  # 2 x 3 cells
ABOVE = bev_head(height=0.5)


def camera_head(depth=True):
    """Depth bins between 0.5 m and 19.5 m; the view transform reads LiDAR depth."""
    return perspective_head((2, 3), (1.0, 20.0, 1.0), depth=depth)


CAMERA = camera_head()


def targets_of(batch):
    return {**CAMERA.targets(batch), **ABOVE.targets(batch)}


def hidden_cells(batch, camera=CAMERA):
    return {**camera.hidden(batch), **ABOVE.hidden(batch)}


def camera_batch(points, samples=1):
    """A camera at the origin of the LiDAR, looking along x, focal length 8, centre (12, 8)."""
    lidar2image = torch.tensor(
        [[12.0, -8.0, 0.0, 0.0], [8.0, 0.0, -8.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )
    return {
        "batch_size": samples,
        "points": torch.tensor(points, dtype=torch.float32).reshape(-1, 4),
        "camera_imgs": torch.zeros(samples, 1, 3, HEIGHT, WIDTH),
        "image_mean": torch.zeros(samples, 3),
        "image_std": torch.ones(samples, 3),
        "lidar2image": lidar2image.expand(samples, 1, 4, 4),
        "img_aug_matrix": torch.eye(4).expand(samples, 1, 4, 4),
        "lidar_aug_matrix": torch.eye(4).expand(samples, 4, 4),
    }


# A point at x metres ahead, y = z = -0.1 x lands on pixel (12.8, 8.8): cell (1, 1).
def ahead(x, sample=0):
    return [sample, x, -0.1 * x, -0.1 * x]


def test_colour_is_the_mean_of_the_pixels_of_a_cell_without_the_normalisation():
    batch = camera_batch([])
    image = torch.zeros(3, HEIGHT, WIDTH)
    image[0, :8, :8] = torch.arange(64.0).reshape(8, 8) / 64  # mean 63 / 128
    image[1, 8:, 16:] = 1.0
    batch["image_mean"] = torch.tensor([[0.1, 0.2, 0.3]])
    batch["image_std"] = torch.tensor([[0.5, 0.25, 2.0]])
    mean, std = batch["image_mean"].reshape(3, 1, 1), batch["image_std"].reshape(3, 1, 1)
    batch["camera_imgs"] = ((image - mean) / std)[None, None]
    target = targets_of(batch)["target_rgb"]
    expected = torch.zeros(1, 1, 3, 2, 3)
    expected[0, 0, 0, 0, 0] = 63 / 128
    expected[0, 0, 1, 1, 2] = 1.0
    torch.testing.assert_close(target, expected)


def test_cells_that_the_image_does_not_fill_have_no_target():
    """By hand: of 16 x 24 pixels the upper 4 rows and the right 3 columns are black padding.

    The raw image has 6 x 10.5 pixels and is shown at twice its size; so 2 x 3 cells of 8 x 8 pixels
    lose the upper row and the right column.
    """
    batch = camera_batch([ahead(10.0), ahead(20.0, 0)])
    matrix = torch.eye(4)
    matrix[0, 0] = matrix[1, 1] = 2.0
    matrix[1, 3] = 4.0
    batch["img_aug_matrix"] = matrix[None, None]
    batch["lidar2image"] = torch.linalg.inv(matrix) @ batch["lidar2image"]  # (keeps the points)
    batch["image_bounds"] = torch.tensor([[[0.0, 0.0, 10.5, 6.0]]])
    targets = targets_of(batch)
    expected = torch.tensor([[False, False, False], [True, True, False]])
    assert torch.equal(targets["target_rgb_mask"][0, 0], expected)
    assert targets["target_depth_mask"][0, 0].tolist() == [[False] * 3, [False, True, False]]
    batch["image_bounds"][..., 2] = 7.9  # the last pixel of cell (1, 1) has its centre at 15.5 / 2
    assert targets_of(batch)["target_rgb_mask"][0, 0, 1].tolist() == [1, 1, 0]
    batch["image_bounds"][..., 2] = 7.7
    targets = targets_of(batch)
    assert targets["target_rgb_mask"][0, 0, 1].tolist() == [1, 0, 0]
    assert not targets["target_depth_mask"].any()
    assert not targets["target_depth"].any()


def test_a_turned_part_of_an_image_fills_the_cells_that_lie_inside():
    """By 45 degrees about the centre of 48 x 48 pixels: a diamond that touches the edges' middles.

    Its corner lies at 24 (1 - sqrt 2) of the turned frame; the cells inside |u| + |v| < 24 sqrt 2,
    by their farthest pixels.
    """
    batch = camera_batch([])
    batch["camera_imgs"] = torch.zeros(1, 1, 3, 48, 48)
    turn = torch.eye(4)
    half = 0.5**0.5
    turn[:2, :2] = torch.tensor([[half, -half], [half, half]])
    turn[:2, 3] = 24 - turn[:2, :2] @ torch.tensor([24.0, 24.0])
    batch["img_aug_matrix"] = turn[None, None]
    batch["image_bounds"] = torch.tensor([[[0.0, 0.0, 48.0, 48.0]]])
    filled = filled_cells(batch, 8)[0, 0]
    edges = torch.arange(6) * 8 - 24
    far = torch.maximum((edges + 0.5).abs(), (edges + 7.5).abs())
    expected = far[:, None] + far < 24 * 2**0.5
    assert torch.equal(filled, expected)
    assert 0 < filled.sum() < 36


def test_without_bounds_every_cell_is_filled():
    assert targets_of(camera_batch([]))["target_rgb_mask"].all()


def test_unknown_normalisation_is_named():
    batch = camera_batch([])
    del batch["image_std"]
    with pytest.raises(ConfigError, match="image_normalize"):
        targets_of(batch)


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearest_return_in_front_of_the_camera_wins(order):
    points = [ahead(9), ahead(4), ahead(-3), ahead(11)][::order]
    targets = targets_of(camera_batch(points))
    expected = torch.zeros(1, 1, 2, 3)
    expected[0, 0, 1, 1] = 4
    torch.testing.assert_close(targets["target_depth"], expected)
    assert torch.equal(targets["target_depth_mask"], expected > 0)


def test_returns_that_no_bin_can_render_are_no_target():
    for x in (0.4, 19.6):
        targets = targets_of(camera_batch([ahead(x)]))
        assert not targets["target_depth_mask"].any()
        assert not targets["target_depth"].any()


def test_depth_is_the_same_under_a_world_augmentation():
    points = [ahead(4), [0, 6, 4, 2], [0, 5, -5, -3]]
    expected = targets_of(camera_batch(points))
    batch = camera_batch(points)
    cos, sin = math.cos(0.4), math.sin(0.4)
    matrix = torch.tensor([[cos, -sin, 0, 1], [sin, cos, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    matrix[:3, :3] *= 1.1
    batch["lidar_aug_matrix"] = matrix[None]
    batch["points"][:, 1:] = batch["points"][:, 1:] @ matrix[:3, :3].T + matrix[:3, 3]
    targets = targets_of(batch)
    assert expected["target_depth_mask"].sum() >= 2
    assert torch.equal(targets["target_depth_mask"], expected["target_depth_mask"])
    # float32 rounding of points some metres away
    torch.testing.assert_close(targets["target_depth"], expected["target_depth"], rtol=0, atol=1e-5)


def test_masking_the_input_leaves_targets_and_points_alone():
    # In the released code the target is the tensor that the input mask is written into.
    points = [ahead(4), [0, 6, 4, 2], [0, 5, -5, -3], [0, 0.5, 0.5, 0.6], [0, 3.5, 1.5, -0.9]]
    batch = camera_batch(points)
    before, copy = targets_of(batch), batch["points"].clone()
    batch["depth_point_mask"] = torch.ones(len(points), dtype=torch.bool)
    batch["voxel_coords"] = torch.tensor([[0.0, 1, 0, 0]])
    after = targets_of(batch)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(batch["points"], copy)
    after["target_depth"].fill_(-1)
    assert torch.equal(batch["points"], copy)


def test_hidden_cells_have_a_target_and_no_visible_input():
    # Cell (1, 1): nearest point hidden, but a farther one is visible. Cell (0, 0): all hidden.
    points = [ahead(4), ahead(9), [0, 4.5, 3.5, 2], [0, 0.5, 0.5, 0.6], [0, 3.5, 1.5, -0.9]]
    batch = camera_batch(points)
    batch["depth_point_mask"] = torch.tensor([True, False, True, True, True])
    batch["voxel_coords"] = torch.tensor([[0.0, 0.0, 1.0, 3.0]])  # as the hosts deliver: floats
    batch.update(targets_of(batch))
    hidden = hidden_cells(batch)
    old = {"depth_hint_mask": batch["depth_point_mask"]}
    earlier = {key: value for key, value in batch.items() if key != "depth_point_mask"} | old
    assert torch.equal(hidden_cells(earlier)["target_depth_hidden"], hidden["target_depth_hidden"])
    assert batch["target_depth_mask"][0, 0].nonzero().tolist() == [[0, 0], [1, 1]]
    assert hidden["target_depth_hidden"][0, 0].nonzero().tolist() == [[0, 0]]
    assert batch["target_bev_mask"][0].nonzero().tolist() == [[0, 0], [1, 3]]
    assert hidden["target_bev_hidden"][0].nonzero().tolist() == [[0, 0]]


def test_without_masks_every_point_is_visible_and_without_voxels_none_is():
    batch = camera_batch([ahead(4), [0, 0.5, 0.5, 0.6]])
    batch.update(targets_of(batch))
    hidden = hidden_cells(batch)
    assert not hidden["target_depth_hidden"].any()
    assert torch.equal(hidden["target_bev_hidden"], batch["target_bev_mask"])


def test_without_lidar_depth_every_target_of_the_cameras_is_hidden():
    batch = camera_batch([ahead(4), [0, 0.5, 0.5, 0.6]])
    batch.update(targets_of(batch))
    hidden = hidden_cells(batch, camera_head(depth=False))
    assert batch["target_depth_mask"].any()
    assert torch.equal(hidden["target_depth_hidden"], batch["target_depth_mask"])


def test_bev_depth_is_that_of_the_topmost_voxel():
    points = torch.tensor(
        [
            [0, 0.5, 0.5, -0.9],  # lowest voxel of cell (0, 0), and
            [0, 0.2, 0.9, 0.3],  # the third one above it: centre at 0.25, 0.75 m below the top
            [0, 3.9, 1.1, 0.99],  # top voxel of cell (1, 3)
            [1, 2.5, 0.5, -0.6],  # sample 1: lowest voxel
            [0, 2.5, 0.5, 1.01],  # above, beside and below the range
            [0, 4.01, 0.5, 0.0],
            [0, -0.01, 0.5, 0.0],
            [0, 2.5, 0.5, -1.01],
            [0, 2.5, 0.5, math.nan],
            [1, 9.0, 9.0, 9.0],
        ]
    )
    depth, valid = depth_from_above(points, 2, GRID)
    expected = torch.zeros(2, 2, 4)
    expected[0, 0, 0], expected[0, 1, 3], expected[1, 0, 2] = 0.75, 0.25, 1.75
    torch.testing.assert_close(depth, expected)
    assert torch.equal(valid, expected > 0)


def test_bev_cells_of_several_voxels_take_the_topmost_of_all(device):
    # Sampling one voxel in 64, as the released code does, would miss nearly all of them.
    grid = BEVGrid((-8.0, 8.0, 0.5), (-16.0, 16.0, 0.5), (-1.0, 1.0, 0.25), stride=8)
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([2.0, 16.0, 32.0, 2.0])
    points = torch.rand(400, 4, generator=generator) * spread - torch.tensor([0, 8.0, 16.0, 1.0])
    points[:, 0] = points[:, 0].floor()
    depth, valid = depth_from_above(points.to(device), 2, grid)

    expected = torch.zeros(2, 8, 4)
    for sample, x, y, z in points.tolist():
        cell = int(sample), int((y + 16) / 4), int((x + 8) / 4)
        below_top = 2.0 - ((z + 1) // 0.25 + 0.5) * 0.25
        expected[cell] = below_top if expected[cell] == 0 else min(expected[cell], below_top)
    torch.testing.assert_close(depth.cpu(), expected)
    assert torch.equal(valid.cpu(), expected > 0)
    assert valid.any()


@pytest.mark.parametrize("points", [[], None])
def test_without_points_no_depth_is_valid(points):
    batch = camera_batch([])
    if points is None:
        del batch["points"]
    targets = targets_of(batch)
    assert not targets["target_depth_mask"].any()
    assert not targets["target_bev_mask"].any()
    assert all(value.isfinite().all() for value in targets.values())
