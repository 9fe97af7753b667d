"""Damaged and missing files end in a DataError that names the file, the sample and the remedy."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from nsmae_plugin import host
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.infos import write_infos
from tests.helpers.tiny_frames import CLASSES, configuration, dataset, write_frames


@pytest.fixture
def frame(tmp_path):
    """Root, folder and info of a single good frame."""
    (info,) = write_frames(tmp_path, frames=1, cameras=2)
    return tmp_path, tmp_path / "v1.0-mini", info


def rewrite(path, content):
    path.write_bytes(content)


def change_cloud(path, change):
    cloud = np.fromfile(path, np.float32).reshape(-1, 5)
    change(cloud)
    cloud.tofile(path)


def set_to(value):
    def change(cloud):
        cloud[[3, 9], 1] = value

    return change


def out_of_range(cloud):
    cloud[:, 0] += 500


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), ": No such file.*; check DATA_PATH"),
        (lambda path: path.unlink() or os.mkfifo(path), "is a named pipe, no file"),
        (lambda path: path.unlink() or path.symlink_to("/dev/zero"), "is a device, no file"),
        (lambda path: os.truncate(path, 2 << 30), "2147483648 bytes, more than"),
        (
            lambda path: Image.new("RGB", (80, 48)).save(path),
            "80 x 48 pixels, and the optical",
        ),
        (lambda path: rewrite(path, path.read_bytes()[:200]), "truncated or no image"),
        (lambda path: rewrite(path, b""), "truncated or no image"),
        (lambda path: rewrite(path, b"<html>404</html>" * 50), "truncated or no image"),
    ],
)
def test_a_bad_image_is_named(frame, damage, message):
    root, folder, info = frame
    path = folder / info["cams"]["CAM_1"]["data_path"]
    damage(path)
    with pytest.raises(DataError, match=f"{path} of sample token-0.*{message}"):
        dataset(root)[0]


def test_an_image_of_another_size_than_the_tables_say_is_named(frame):
    root, folder, info = frame
    info["cams"]["CAM_1"] |= {"width": 160, "height": 96}
    write_infos(folder / "infos.pkl", [info])
    dataset(root)[0]
    path = folder / info["cams"]["CAM_1"]["data_path"]
    Image.new("RGB", (150, 90)).save(path)
    with pytest.raises(DataError, match=f"{path} .* has 150 x 90 pixels, and its info 160 x 96"):
        dataset(root)[0]


def test_a_truncated_jpeg_is_named(frame):
    root, folder, info = frame
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    path = folder / info["cams"]["CAM_0"]["data_path"]
    Image.fromarray(pixels).save(path, format="JPEG")
    dataset(root)[0]
    rewrite(path, path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=f"{path} of sample token-0 is truncated"):
        dataset(root)[0]


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "No such file.*check DATA_PATH"),
        (
            lambda path: rewrite(path, path.read_bytes()[:-7]),
            "no whole number of points in 5 c",
        ),
        (
            lambda path: rewrite(path, path.read_bytes()[:-4]),
            "no whole number of points in 5 c",
        ),
        (lambda path: rewrite(path, b""), "is empty"),
        (lambda path: path.unlink() or os.mkfifo(path), "is a named pipe, no file"),
        (lambda path: path.unlink() or path.symlink_to("/dev/zero"), "is a device, no file"),
        (lambda path: path.unlink() or path.mkdir(), "is a folder, no file"),
        (lambda path: os.truncate(path, 200 << 30), "214748364800 bytes, more than the 200000000"),
        (
            lambda path: change_cloud(path, set_to(1e30)),
            "2 points with NaN, infinite",
        ),
        (
            lambda path: change_cloud(path, set_to(np.nan)),
            "2 points with NaN, infinite",
        ),
        (
            lambda path: change_cloud(path, set_to(-np.inf)),
            "2 points with NaN, infinite",
        ),
    ],
)
def test_a_bad_point_cloud_is_named(frame, sweep, damage, message):
    root, folder, info = frame
    path = folder / (info["sweeps"][1] if sweep else info)["lidar_path"]
    damage(path)
    with pytest.raises(DataError, match=f"{path} of sample token-0.*{message}"):
        dataset(root)[0]


def test_a_cloud_outside_the_range_is_named(frame):
    root, folder, info = frame
    for entry in (info, *info["sweeps"]):
        change_cloud(folder / entry["lidar_path"], out_of_range)
    with pytest.raises(
        DataError, match=r"no LiDAR point of sample token-0 .*check the range, .*metres"
    ):
        dataset(root, training=False, without=("mask_voxels",))[0]


def test_an_error_in_a_worker_stays_a_data_error_with_its_message(frame):
    root, folder, info = frame
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    _, loader, _ = build_dataloader(configuration(root), CLASSES, batch_size=1, workers=1)
    (folder / info["lidar_path"]).unlink()
    with pytest.raises(DataError, match=r"^cannot read the LiDAR file .*$"):  # one line of it
        next(iter(loader))


def in_four_columns(path):
    np.fromfile(path, np.float32).reshape(-1, 5)[:, :4].tofile(path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("sensor", "damage", "message"),
    [
        ("lidar", in_four_columns, r"^the LiDAR file .* does not hold points in 5 columns .*$"),
        (
            "lidar",
            lambda path: path.unlink() or os.mkfifo(path),
            r"^the LiDAR file .* pipe, no .*$",
        ),
        ("camera", lambda path: rewrite(path, b"%!PS-Adobe-3.0 EPSF"), r"^the image .* or PNG .*$"),
        ("camera", lambda path: Image.new("RGB", (40, 30)).save(path), r"^the image .*40 x 30.*$"),
    ],
)
def test_bad_files_are_one_line_with_workers_and_without(frame, workers, sensor, damage, message):
    root, folder, info = frame
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    _, loader, _ = build_dataloader(configuration(root), CLASSES, batch_size=1, workers=workers)
    damage(
        folder / (info["lidar_path"] if sensor == "lidar" else info["cams"]["CAM_1"]["data_path"])
    )
    with pytest.raises(DataError, match=message) as caught:
        next(iter(loader))
    assert "\n" not in str(caught.value)


class Attack:
    def __reduce__(self):
        return print, ("code from a file was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"infos": [], "metadata": {}}, "holds a dict .mmdetection3d's layout., not OpenPCDet's"),
        ({"frames": 3}, "holds a dict, not OpenPCDet's list"),
        (["a", "b"], "frame 0 .* is a str, not a dict"),
        ([{"point_cloud": {}, "image": {}, "calib": {}}], "lacks token, .*looks like KITTI's"),
        ([{"token": "t", "lidar_path": "p"}], "lacks timestamp"),
        ([], "no sample in"),
        ([Attack()], "asks for builtins.print, which no such file needs"),
    ],
)
def test_an_info_file_of_another_layout_is_refused(frame, capsys, content, message):
    root, folder, _ = frame
    (folder / "infos.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message):
        dataset(root)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([{"token": "t"}])[:-9]])
def test_a_damaged_info_file_is_refused(frame, content):
    root, folder, _ = frame
    (folder / "infos.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"infos.pkl cannot be used: .*nsmae create-infos"):
        dataset(root)


def test_a_missing_info_file_says_how_to_make_it(frame):
    root, folder, _ = frame
    (folder / "infos.pkl").unlink()
    with pytest.raises(
        DataError, match=r"infos.pkl: No such file .*nsmae create-infos --data_path"
    ):
        dataset(root)


def test_an_info_file_without_cameras_says_how_to_add_them(frame):
    root, folder, info = frame
    del info["cams"]
    write_infos(folder / "infos.pkl", [info])
    with pytest.raises(DataError, match=r"no cameras for sample token-0.*--with_cam"):
        dataset(root)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sensor2lidar_rotation", np.eye(4)), ("camera_intrinsics", None), ("data_path", ...)],
)
def test_a_camera_without_its_calibration_is_named(frame, key, value):
    root, folder, info = frame
    info["cams"]["CAM_1"][key] = value
    if value is ...:
        del info["cams"]["CAM_1"][key]
    write_infos(folder / "infos.pkl", [info])
    with pytest.raises(DataError, match=f"camera CAM_1 of sample token-0 has no {key}"):
        dataset(root)


def test_too_few_sweeps_in_the_info_file_are_a_matter_of_configuration(frame):
    root, _, _ = frame
    with pytest.raises(
        ConfigError, match=r"MAX_SWEEPS is 10, but .* only 2 .*--max_sweeps MAX_SWEEPS"
    ):
        dataset(root, MAX_SWEEPS=10)
