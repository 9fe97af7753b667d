"""Boxes as lines in an image: by hand, and beside a dense sampling of their edges."""

import numpy as np
import pytest

from nsmae_plugin.geometry.boxes import make_boxes
from nsmae_plugin.visualization.box_lines import (
    NEAR,
    project,
    skeletons,
)

SIZE = (200, 100)
FOCAL = 50.0


def looking_along_x() -> np.ndarray:
    """A camera at the LiDAR's place: z is the LiDAR's x, right is -y, down is -z."""
    turn = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = [[FOCAL, 0, 100], [0, FOCAL, 50], [0, 0, 1]]
    return intrinsics @ turn


def one_box(*values: float):
    return make_boxes([values], ["car"])


def test_a_cube_ahead_is_two_squares_joined_at_the_corners():
    # 2 m wide and high, its faces 9 m and 11 m away: half widths 50 / 9 and 50 / 11 pixels.
    lines, owners = project(one_box(10, 0, 0, 2, 2, 2, 0), looking_along_x(), SIZE)
    assert owners.tolist() == [0] * 13
    corners = lines[:12].reshape(-1, 2)
    offsets = np.unique(np.abs(corners - [100, 50]).round(9), axis=0)
    np.testing.assert_allclose(offsets, [[50 / 11] * 2, [50 / 9] * 2], atol=1e-8)
    # The line ahead leads from the bottom's middle to the far face, which is the cube's front.
    np.testing.assert_allclose(lines[12], [[100, 50 + 50 / 10], [100, 50 + 50 / 11]])


def test_boxes_behind_or_beside_the_view_are_not_drawn():
    for box in (one_box(-10, 0, 0, 2, 2, 2, 0), one_box(5, 50, 0, 2, 2, 2, 0)):
        lines, owners = project(box, looking_along_x(), SIZE)
        assert lines.shape == (0, 2, 2)
        assert owners.shape == (0,)


def test_an_edge_through_the_camera_itself_starts_before_it():
    lines, _ = project(one_box(0, 1, 1, 2, 2, 2, 0), looking_along_x(), SIZE)
    assert np.isfinite(lines).all()


def test_owners_say_which_box_a_line_belongs_to():
    values = [[-10, 0, 0, 2, 2, 2, 0], [10, 2, 0, 2, 2, 2, 0], [10, -2, 0, 2, 2, 2, 0]]
    lines, owners = project(make_boxes(values, ["car"] * 3), looking_along_x(), SIZE)
    assert set(owners) == {1, 2}
    assert (lines[owners == 1][:, :, 0] < 100).all()  # y to the left is u to the left
    assert (lines[owners == 2][:, :, 0] > 100).all()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_is_what_dense_points_on_the_edges_show(seed):
    """Boxes around, in and behind the camera: no visible point is left out, none is made up."""
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [rng.uniform(-8, 8, (30, 3)), rng.uniform(0.5, 6, (30, 3)), rng.uniform(-4, 4, (30, 1))], 1
    )
    boxes, matrix = make_boxes(values, ["car"] * 30), looking_along_x()
    lines, owners = project(boxes, matrix, SIZE)
    assert (lines >= -1e-9).all()
    assert (lines <= np.array(SIZE) + 1e-9).all()
    share = np.linspace(0, 1, 101)[:, None]
    for number, skeleton in enumerate(skeletons(boxes)):
        dense = np.concatenate([first + share * (last - first) for first, last in skeleton])
        scaled = dense @ matrix[:3, :3].T
        front = scaled[scaled[:, 2] >= NEAR]
        pixels = front[:, :2] / front[:, 2:]
        seen = pixels[((pixels >= 0) & (pixels <= SIZE)).all(1)]
        assert (owners == number).any() or not len(seen)
        for pixel in seen[::7]:
            assert distances(pixel, lines[owners == number]).min() < 1e-6


def distances(point: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(k,) distances in pixels of a point to lines (k, 2, 2)."""
    along = lines[:, 1] - lines[:, 0]
    length = np.maximum((along**2).sum(1), 1e-18)
    share = np.clip(((point - lines[:, 0]) * along).sum(1) / length, 0, 1)
    return np.linalg.norm(lines[:, 0] + share[:, None] * along - point, axis=1)


def test_no_boxes_are_no_lines():
    lines, owners = project(make_boxes([], []), looking_along_x(), SIZE)
    assert len(lines) == len(owners) == 0
