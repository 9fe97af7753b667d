"""Frames of one's own: the same numbers as from a nuScenes database, and errors that help."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsmae_plugin.data.frame_folder import NAME, FrameFolderDataset, read_folder
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.frames import check_files
from nsmae_plugin.geometry.calibration import camera_matrices
from tests.helpers.tiny_frames import MASKS, camera, configuration, random_points

IDENTITY = np.eye(4).tolist()


def rig() -> dict:
    """One camera and one frame; no file exists."""
    one = camera("front", 0.4, "unused")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = one["sensor2lidar_rotation"], one["sensor2lidar_translation"]
    placed = {
        "intrinsics": one["camera_intrinsics"].tolist(),
        "camera_to_lidar": pose.tolist(),
    }
    frame = {"name": "a", "lidar": "a.bin", "cameras": {"front": {"image": "a.png"}}}
    return {"cameras": {"front": placed}, "frames": [frame]}


def write(folder: Path, content) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps(content))
    return folder


def test_matrices_are_those_of_the_same_camera_in_a_database(tmp_path):
    (info,) = read_folder(write(tmp_path, rig()))
    found, known = (
        camera_matrices(one) for one in (info["cams"]["front"], camera("front", 0.4, ""))
    )
    for name in ("camera_intrinsics", "camera2lidar", "lidar2camera", "lidar2image"):
        np.testing.assert_allclose(found[name], known[name], atol=1e-5)
    # No vehicle is known, so its frame is the LiDAR's.
    np.testing.assert_allclose(found["camera2ego"], found["camera2lidar"], atol=1e-6)


def test_a_frame_may_differ_from_the_shared_calibration(tmp_path):
    content = rig()
    moved = np.eye(4)
    moved[:3, 3] = [1, 2, 3]
    other = {"name": "b", "cameras": {"front": {"image": "b.png"}}}
    other["cameras"]["front"]["camera_to_lidar"] = moved.tolist()
    content["frames"].append(other)
    first, second = read_folder(write(tmp_path, content))
    assert first["cams"]["front"]["sensor2lidar_translation"].tolist() != [1, 2, 3]
    assert second["cams"]["front"]["sensor2lidar_translation"].tolist() == [1, 2, 3]
    assert second["cams"]["front"]["data_path"] == str(tmp_path.resolve() / "b.png")


def test_a_pose_makes_the_global_frame_known(tmp_path):
    content = rig()
    pose = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    content["frames"][0]["lidar_to_global"] = pose.tolist()
    (info,) = read_folder(write(tmp_path, content))
    np.testing.assert_allclose(np.linalg.inv(info["ref_from_car"] @ info["car_from_global"]), pose)


def change(path: str, value) -> dict:
    """The rig with one entry replaced; None removes it."""
    content = copy.deepcopy(rig())
    *parents, last = path.split(".")
    section = content
    for name in parents:
        section = section[int(name) if isinstance(section, list) else name]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return content


MIRROR = np.diag([1.0, -1, 1, 1]).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold a list 'frames'"),
        ({"frames": []}, "at least one frame"),
        ({"frames": ["a"]}, "frame 0 must be an object"),
        (change("frames.0.name", "../a"), "name of frame 0, '../a', .* another folder"),
        (change("frames.0.name", ""), "name of frame 0, '', .* another folder"),
        (change("frames.0.name", ".."), "name of frame 0, '..', .* another folder"),
        (change("frames.0.name", 3), "name of frame 0, 3, .* no string"),
        (change("frames.0.name", "a" * 10_000), "longer than 200 bytes"),
        (change("frames.0.cameras", "x" * 10_000), "'cameras' must be an object, not xxx"),
        (change("lidar_files", ["x"]), "'lidar_files' must be an object"),
        (
            change("lidar_files", {"columns": ["x", "y"]}),
            "COLUMNS must be a list that names x, y, z",
        ),
        (change("frames.0.lidar", 3), "'lidar' must be the path"),
        (change("frames.0.cameras", ["front"]), "'cameras' must be an object"),
        (change("frames.0.cameras.front", {}), "camera 'front': 'image' must be the path"),
        (change("cameras.front.intrinsics", None), "'intrinsics' must be 3 rows of 3 numbers"),
        (change("cameras.front.intrinsics", IDENTITY), "'intrinsics' must be 3 rows of 3"),
        (change("cameras.front.intrinsics", [[1, 2, 3], [1], []]), "'intrinsics' must be 3 rows"),
        (change("cameras.front.intrinsics", np.zeros((3, 3)).tolist()), "positive fx and fy"),
        (change("cameras.front.camera_to_lidar", MIRROR), "no rotation"),
        (change("cameras.front.camera_to_lidar", (2 * np.eye(4)).tolist()), "no rotation"),
        (change("frames.0.lidar_to_global", np.eye(3).tolist()), "must be 4 rows of 4"),
        (change("frames.0.sweeps", {"lidar": "b.bin"}), "'sweeps' must be a list"),
        (change("frames.0.sweeps", [{"lidar": "b.bin", "to_frame": IDENTITY}]), "'time_lag'"),
        (change("frames.0.sweeps", [{"lidar": "b.bin", "time_lag": 0.1}]), "'to_frame' must be 4"),
        (change("frames.0.sweeps", [{"lidar": "b.bin", "time_lag": float("nan")}]), "'time_lag'"),
        (change("cameras.front.intrinsics", [["1", "0", "1"]] * 3), "'intrinsics' must be 3 rows"),
        (change("cameras.front.intrinsics", [[10**400, 0, 1]] * 3), "'intrinsics' must be 3 rows"),
    ],
)
def test_a_bad_description_is_an_error_that_names_the_entry(content, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, content))
    assert len(str(caught.value)) < 500


def test_a_folder_may_name_the_layout_of_its_lidar_files(tmp_path):
    content = change("lidar_files", {"columns": ["x", "y", "z", "intensity"], "dtype": "float64"})
    folder = write(tmp_path, content)
    cloud = random_points(np.random.default_rng(0), 0)[:, :4].astype(np.float64)
    cloud.tofile(folder / "a.bin")
    Image.new("RGB", (160, 96), "red").save(folder / "a.png")
    points = load(folder, MAX_SWEEPS=1, without=MASKS)[0]["points"]
    seen = np.abs(cloud[:, :2]).max(axis=1) < 30
    np.testing.assert_array_equal(np.sort(points[:, 3]), np.sort(cloud[seen, 3]))


def test_a_missing_or_damaged_description_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*calibration\.json"):
        read_folder(tmp_path)
    (tmp_path / NAME).write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_folder(tmp_path)


def test_frames_of_one_name_are_an_error(tmp_path):
    content = rig()
    content["frames"] *= 2
    with pytest.raises(DataError, match="'a' occurs more than once"):
        read_folder(write(tmp_path, content))


def load(folder: Path, **options) -> FrameFolderDataset:
    config = configuration(folder, **options)
    return FrameFolderDataset(config, ["car"], training=False)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("lidar", "no 'lidar', and the network uses"), ("cameras", "no 'cameras', and the network")],
)
def test_a_sensor_that_the_network_needs_must_be_there(missing, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, change(f"frames.0.{missing}", None)))


def test_missing_sweeps_are_stood_in_for_and_told(tmp_path, caplog):
    content = rig()
    sweep = {"lidar": "b.bin", "to_frame": IDENTITY, "time_lag": 0.05}
    content["frames"] += [{**content["frames"][0], "name": "b", "sweeps": [sweep]}]
    folder = write(tmp_path, content)
    for name in ("a.bin", "b.bin", "a.png"):
        (folder / name).touch()
    with caplog.at_level(logging.WARNING):
        first, second = load(folder).infos
    assert [Path(one["lidar_path"]).name for one in first["sweeps"]] == ["a.bin"] * 2
    assert [one["transform_matrix"] for one in first["sweeps"]] == [None] * 2
    assert [Path(one["lidar_path"]).name for one in second["sweeps"]] == ["b.bin"] * 2
    assert "frame 'a'" in caplog.text
    assert "0 of the 2 earlier sweeps" in caplog.text


def test_without_lidar_cameras_are_enough(tmp_path):
    content = change("frames.0.lidar", None)
    folder = write(tmp_path, content)
    Image.new("RGB", (160, 96), "red").save(folder / "a.png")
    data = load(folder, USE_LIDAR=False, without=("mask_voxels", "mask_depth_points"))
    sample = data[0]
    assert sample["frame_id"] == "a"
    assert "points" not in sample
    images = sample["camera_imgs"]  # a list of them on OpenPCDet, one tensor on the built-in host
    assert (len(images), *images[0].shape) == (1, 3, 48, 96)
    assert data.root_path == folder


def test_a_missing_file_with_an_endless_name_is_one_short_line(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the LiDAR file .*… of sample a") as caught:
        check_files(tmp_path, [("ü" * 900, "the LiDAR file", "a")])
    assert len(str(caught.value)) < 500
