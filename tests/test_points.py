"""Clouds of keyframe and sweeps, against one point after the other."""

import numpy as np
import pytest

from nsmae_plugin.data.points import read_frame
from nsmae_plugin.data.world import transform_points


@pytest.fixture
def frame(tmp_path):
    """A folder and an info: a keyframe of 50 points, a sweep that moves and one that does not."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(50, 5)).astype(np.float32) * 3 for _ in range(3)]
    for number, cloud in enumerate(clouds):
        cloud.tofile(tmp_path / f"{number}.bin")
    matrix = np.eye(4)
    matrix[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    matrix[:3, 3] = [5.0, -2.0, 0.25]
    sweeps = [
        {"lidar_path": "1.bin", "transform_matrix": matrix, "time_lag": 0.05},
        {"lidar_path": "2.bin", "transform_matrix": None, "time_lag": 0.1},
    ]
    return tmp_path, {"token": "t", "lidar_path": "0.bin", "sweeps": sweeps}, clouds


def loop_frame(info, clouds, sweeps):
    expected = [[*point[:4], 0.0] for point in clouds[0]]
    for position in sweeps:
        sweep = info["sweeps"][position]
        for x, y, z, intensity, _ in clouds[position + 1]:
            if abs(x) < 1 and abs(y) < 1:  # the car itself
                continue
            if sweep["transform_matrix"] is not None:
                x, y, z, _ = sweep["transform_matrix"] @ [x, y, z, 1.0]
            expected.append([x, y, z, intensity, sweep["time_lag"]])
    return np.array(expected)


@pytest.mark.parametrize("sweeps", [[], [0], [1, 0]])
def test_a_frame_is_the_keyframe_and_the_sweeps_in_its_frame(frame, sweeps):
    root, info, clouds = frame
    cloud = read_frame(root, info, sweeps)
    expected = loop_frame(info, clouds, sweeps)
    assert (cloud.shape, cloud.dtype) == (expected.shape, np.float32)
    assert len(cloud) < 50 * (1 + len(sweeps)) or not sweeps
    np.testing.assert_allclose(cloud, expected, atol=4e-6)  # float32 at 10 m, four products


@pytest.mark.parametrize("layout", ["C", "F"])
def test_layouts_change_no_value(layout):
    points = np.array(np.random.default_rng(1).normal(size=(40, 5)), np.float32, order=layout)
    moved = transform_points(points, np.diag([2.0, -1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(moved, points * np.float32([2, -1, 1, 1, 1]))
