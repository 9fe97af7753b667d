"""Clouds of keyframe and sweeps, against one point after the other; the layout of their files."""

import numpy as np
import pytest

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.lidar_files import LidarFiles, read_frame, read_points
from nsmae_plugin.geometry.augmentation import transform_points
from tests.helpers.tiny_frames import random_points


@pytest.fixture
def frame(tmp_path):
    """A folder and an info: a keyframe of 50 points, a sweep that moves and one that does not."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(50, 5)).astype(np.float32) * 3 for _ in range(3)]
    for number, cloud in enumerate(clouds):
        cloud[:, 3:] = abs(cloud[:, 3:]).round()  # intensity and ring
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


def write(path, cloud):
    np.ascontiguousarray(cloud).tofile(path)
    return path


@pytest.fixture
def cloud():
    """A keyframe: intensities up to 400, 32 rings."""
    points = random_points(np.random.default_rng(0), 0)
    points[:, 4] = np.arange(len(points)) % 32
    return points


LAYOUTS = {
    "nuScenes": (("x", "y", "z", "intensity", "ring"), np.float32),
    "4": (("x", "y", "z", "intensity"), np.float32),
    "3": (("x", "y", "z"), np.float32),
    "6": (("x", "y", "z", "intensity", "ring", "time"), np.float32),
    "float64": (("x", "y", "z", "intensity", "ring"), np.float64),
    "other order": (("intensity", "time", "z", "y", "x"), np.float64),
}


def in_layout(cloud, columns, dtype):
    own = dict(zip(("x", "y", "z", "intensity", "ring"), cloud.T, strict=True))
    own["time"] = np.full(len(cloud), 1.5e9)  # seconds since 1970: not a coordinate
    return np.stack([own[name] for name in columns], axis=1).astype(dtype)


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_read_in_the_layout_that_is_named(tmp_path, cloud, name):
    columns, dtype = LAYOUTS[name]
    path = write(tmp_path / "a.bin", in_layout(cloud, columns, dtype))
    section = {"COLUMNS": list(columns), "DTYPE": np.dtype(dtype).name}
    points = read_points(path, "t", LidarFiles.of(section, "DATA_CONFIG.LIDAR_FILES"))
    assert (points.shape, points.dtype) == ((len(cloud), 4), np.float32)
    expected = cloud[:, :4].copy()
    if "intensity" not in columns:
        expected[:, 3] = 0
    np.testing.assert_array_equal(points, expected)


@pytest.mark.parametrize("read_as", ["nuScenes", "4", "6", "float64"])
@pytest.mark.parametrize("written", ["nuScenes", "4", "3", "6", "float64", "other order"])
def test_files_in_another_layout_are_refused(tmp_path, cloud, written, read_as):
    """With a multiple of 60 points the sizes fit all layouts, as the sizes of long files may."""
    if written == read_as:
        return
    whole = np.concatenate([cloud] * 3)[: 60 * 20]
    path = write(tmp_path / "a.bin", in_layout(whole, *LAYOUTS[written]))
    columns, dtype = LAYOUTS[read_as]
    with pytest.raises(DataError, match=r"does not hold points in \d col.*LIDAR_FILES"):
        read_points(path, "t", LidarFiles(COLUMNS=list(columns), DTYPE=np.dtype(dtype).name))


def test_other_units_are_refused(tmp_path, cloud):
    cloud[:, :3] *= 1000  # millimetres
    with pytest.raises(DataError, match="100 % of its points are farther than 1000 m"):
        read_points(write(tmp_path / "a.bin", cloud), "t")


def test_an_intensity_of_minus_one_stands_for_unknown(tmp_path, cloud):
    cloud[:, 3] = -1
    assert (read_points(write(tmp_path / "a.bin", cloud), "t")[:, 3] == -1).all()


@pytest.mark.parametrize(
    ("header", "words"),
    [(b"# .PCD v0.7\nVERSION 0.7\n", "a PCD file"), (b"\x93NUMPY\x01\x00", "a NumPy file")],
)
def test_files_with_a_header_are_named(tmp_path, cloud, header, words):
    path = tmp_path / "a.bin"
    path.write_bytes(header + cloud.tobytes())
    with pytest.raises(DataError, match=f"for it is {words}"):
        read_points(path, "t")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"COLUMNS": ["x", "y", "intensity"]}, r"COLUMNS must be a list that names x, y, z"),
        (
            {"COLUMNS": ["x", "y", "z", "x"]},
            r"COLUMNS must be a list .* each once",
        ),
        ({"COLUMNS": 5}, r"COLUMNS must be a list that names x, y, z .*, not 5"),
        ({"COLUMNS": ["x", "y", "z", [1]]}, r"COLUMNS must be a list that names x, y, z"),
        ({"DTYPE": "int8"}, r"DTYPE must be float32 or float64, not 'int8'"),
    ],
)
def test_layouts_that_mean_nothing_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        LidarFiles.of(section, "DATA_CONFIG.LIDAR_FILES")
