"""The BEV grid by hand, and the grid of a map."""

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid, map_grid
from nsmae_plugin.geometry.intervals import count_steps, is_whole

MAP = {
    "CLASSES": ["drivable_area", "divider"],
    "XBOUND": [-50.0, 50.0, 0.5],
    "YBOUND": [-50.0, 50.0, 0.5],
    "LINE_WIDTH": 1.0,
}


def test_rows_run_along_y_and_columns_along_x_both_ascending():
    grid = BEVGrid((0.0, 3.0, 1.0), (-1.0, 1.0, 0.5))
    assert grid.shape == (4, 3)
    centres = grid.centres()
    assert centres.shape == (4, 3, 2)
    np.testing.assert_allclose(centres[0], [[0.5, -0.75], [1.5, -0.75], [2.5, -0.75]])
    np.testing.assert_allclose(
        centres[:, 0], [[0.5, -0.75], [0.5, -0.25], [0.5, 0.25], [0.5, 0.75]]
    )


def test_the_usual_grid_has_200_cells_a_side_and_is_symmetric():
    grid = map_grid(MAP)
    assert grid.shape == (200, 200)
    x, y = grid.axes()
    np.testing.assert_array_equal(x, -x[::-1])
    assert (x[0], y[-1]) == (-49.75, 49.75)


def test_integers_are_metres_too_and_steps_may_be_no_binary_fraction():
    grid = map_grid({"XBOUND": [-3, 3, 0.1], "YBOUND": [0, 2, 1]})
    assert grid.shape == (2, 60)


@pytest.mark.parametrize(
    ("bound", "count"),
    [([-54.0, 54.0, 0.3], 360), ([-50.4, 50.4, 0.4], 252), ([1.0, 60.0, 0.5], 118)],
)
def test_steps_are_counted_without_losing_one_to_floating_point(bound, count):
    assert count_steps(bound, "DBOUND") == count


def test_a_range_that_went_through_float32_is_a_whole_number_of_steps():
    low, high = (float(np.float32(value)) for value in (-51.2, 51.2))
    assert (high - low) / 0.075 != round((high - low) / 0.075)
    assert not is_whole((high - low) / 0.075)
    assert count_steps([low, high, 0.1], "XBOUND") == 1024


def test_columns_of_voxels_make_a_cell_of_the_birds_eye_view():
    grid = BEVGrid.of_voxels([-2, 0, -1, 2, 3, 1], [0.5, 0.25, 2], stride=2)
    assert (grid.size, grid.shape) == ((8, 12, 1), (6, 4))
    assert (grid.lower, grid.step, grid.num_voxels) == ((-2, 0, -1), (0.5, 0.25, 2), 96)
    x, y = grid.axes()
    assert x.tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert y.tolist() == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    places = torch.tensor([[-1.5, 2.75], [0.0, 0.0]])
    assert grid.coordinates(places).tolist() == [[0.5, 5.5], [2.0, 0.0]]
    assert torch.equal(grid.metres(grid.coordinates(places)), places)
    assert grid.in_cells(torch.tensor([2.0, 2.0])).tolist() == [2.0, 4.0]


def test_points_fall_into_voxels_and_those_outside_are_marked():
    grid = BEVGrid((-2.0, 2.0, 0.5), (0.0, 3.0, 0.25), (-1.0, 1.0, 2.0), stride=2)
    nan = float("nan")
    inside_points = [[-2.0, 0.0, -1.0], [1.99, 2.99, 0.99], [0.25, 0.25, 0.0]]
    outside_points = [[2.0, 0.0, 0.0], [0.0, -0.01, 0.0], [0.0, 0.0, 1.0], [nan, 0.0, 0.0]]
    index, inside = grid.voxels(torch.tensor(inside_points + outside_points))
    assert inside.tolist() == [True] * 3 + [False] * 4
    assert index.tolist() == [[0, 0, 0], [7, 11, 0], [4, 1, 0]] + [[0, 0, 0]] * 4
    x, y, _ = index[:3].T
    # Of the second sample: 6 rows of 4 cells come before it.
    assert grid.flat_cells(torch.ones(3, dtype=torch.long), x, y).tolist() == [24, 47, 26]


@pytest.mark.parametrize(
    ("name", "bound", "message"),
    [
        ("XBOUND", [-50, 50, 0.3], r"XBOUND \[-50.0, 50.0, 0.3\] is 333.333 steps; 100 m must be"),
        ("YBOUND", [5, -5, 0.5], r"YBOUND must be \[min, max, step\] .* not \[5.0, -5.0, 0.5\]"),
        ("YBOUND", [-5, 5, 0], "step > 0"),
        ("XBOUND", [-5, float("inf"), 1], "XBOUND must be"),
    ],
)
def test_bounds_that_make_no_grid_are_refused(name, bound, message):
    with pytest.raises(ConfigError, match=message):
        map_grid({**MAP, name: bound})


def test_a_grid_with_too_many_cells_is_refused_by_the_names_of_its_bounds():
    message = "MAP_CONFIG.XBOUND and MAP_CONFIG.YBOUND make a grid of 100000 x 100000 cells"
    with pytest.raises(ConfigError, match=message):
        map_grid({"XBOUND": [-50.0, 50.0, 0.001], "YBOUND": [-50.0, 50.0, 0.001]})
