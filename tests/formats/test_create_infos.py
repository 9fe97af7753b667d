"""Info files made from a database agree with the devkit and with OpenPCDet's."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes
from nuscenes.utils import splits
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion

from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.nuscenes.info_builder import CAMERAS
from nsmae_plugin.runs.create_infos import create_infos
from tests.helpers.tiny_frames import (
    CLASSES,
    MASKS,
    VERSION,
    all_infos,
    configuration,
    link_database,
)
from tools.create_infos import main

TABLES = Path(VERSION, VERSION)


@pytest.fixture(scope="module")
def nusc(synthetic_root):
    return NuScenes(VERSION, str(synthetic_root / VERSION), verbose=False)


@pytest.fixture
def database(synthetic_root, tmp_path):
    """A database of one's own: links to the sensor files, copies of the tables."""
    return link_database(synthetic_root, tmp_path)


def edit(database, table, change):
    path = database / TABLES / f"{table}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def pose(nusc, sample_data):
    """(4, 4) sensor → global, by the devkit's own function."""
    car = nusc.get("ego_pose", sample_data["ego_pose_token"])
    sensor = nusc.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
    return np.linalg.multi_dot(
        [transform_matrix(one["translation"], Quaternion(one["rotation"])) for one in (car, sensor)]
    )


def test_boxes_agree_with_the_devkit(synthetic_root, nusc):
    checked = moving = 0
    for info in all_infos(synthetic_root):
        lidar = nusc.get("sample", info["token"])["data"]["LIDAR_TOP"]
        _, boxes, _ = nusc.get_sample_data(lidar)
        boxes = {box.token: box for box in boxes}
        turn = pose(nusc, nusc.get("sample_data", lidar))[:3, :3].T
        for row, token in zip(info["gt_boxes"], info["gt_boxes_token"], strict=True):
            box = boxes[token]
            width, length, height = box.wlh
            heading = np.arctan2(box.rotation_matrix[1, 0], box.rotation_matrix[0, 0])
            velocity = turn @ nusc.box_velocity(token)
            expected = [*box.center, length, width, height, heading, *velocity[:2]]
            # Poses a kilometre from the origin leave 1e-10 m in float64.
            np.testing.assert_allclose(row, expected, atol=1e-8)
            checked += 1
            moving += np.linalg.norm(velocity[:2]) > 0.5
        annotations = [nusc.get("sample_annotation", token) for token in boxes]
        seen = [one for one in annotations if one["num_lidar_pts"] + one["num_radar_pts"] > 0]
        assert list(info["gt_boxes_token"]) == [one["token"] for one in seen]
    assert checked > 50
    assert moving > 5


def test_sweeps_and_cameras_lead_to_where_the_devkit_puts_them(synthetic_root, nusc):
    for info in all_infos(synthetic_root):
        data = nusc.get("sample", info["token"])["data"]
        lidar_to_global = pose(nusc, nusc.get("sample_data", data["LIDAR_TOP"]))
        for sweep in info["sweeps"]:
            if sweep["transform_matrix"] is None:
                continue
            expected = pose(nusc, nusc.get("sample_data", sweep["sample_data_token"]))
            np.testing.assert_allclose(
                lidar_to_global @ sweep["transform_matrix"], expected, atol=1e-8
            )
        assert list(info["cams"]) == [name for name in CAMERAS if name in data]
        for channel, camera in info["cams"].items():
            camera_to_lidar = np.eye(4)
            camera_to_lidar[:3, :3] = camera["sensor2lidar_rotation"]
            camera_to_lidar[:3, 3] = camera["sensor2lidar_translation"]
            expected = pose(nusc, nusc.get("sample_data", data[channel]))
            np.testing.assert_allclose(lidar_to_global @ camera_to_lidar, expected, atol=1e-8)


def test_sweeps_go_back_in_time_and_repeat_at_the_start_of_a_scene(synthetic_root, nusc):
    starts = {scene["first_sample_token"] for scene in nusc.scene}
    for info in all_infos(synthetic_root):
        lags = [sweep["time_lag"] for sweep in info["sweeps"]]
        assert len(lags) == 2
        assert lags == sorted(lags)
        if info["token"] in starts:
            assert info["sweeps"][0]["transform_matrix"] is None or lags[0] > 0


def test_boxes_that_no_sensor_hit_are_left_out(database):
    def empty_first(annotations):
        annotations[0] |= {"num_lidar_pts": 0, "num_radar_pts": 0}
        annotations[1] |= {"num_lidar_pts": 0, "num_radar_pts": 1}
        return annotations

    edit(database, "sample_annotation", empty_first)
    table = json.loads((database / TABLES / "sample_annotation.json").read_text())
    infos = [info for path in create_infos(database, VERSION, 1, True) for info in read_infos(path)]
    tokens = {token for info in infos for token in info["gt_boxes_token"]}
    assert table[0]["token"] not in tokens
    assert table[1]["token"] in tokens


def test_workers_give_the_same_files(database):
    paths = create_infos(database, VERSION, 2, with_cam=True)
    alone = [read_infos(path) for path in paths]
    create_infos(database, VERSION, 2, with_cam=True, workers=2)
    np.testing.assert_equal([read_infos(path) for path in paths], alone)


def test_any_cameras_and_missing_side_tables_will_do(database):
    """One standard camera and one of another name; no attributes, visibilities or maps."""

    def rename(sensors):
        for sensor in sensors:
            if sensor["channel"] == "CAM_BACK":
                sensor["channel"] = "CAM_ABOVE"
        return sensors

    def keep_two(sample_data):
        kept = ("LIDAR_TOP", "/CAM_FRONT/", "/CAM_BACK/")
        return [one for one in sample_data if any(name in one["filename"] for name in kept)]

    edit(database, "sensor", rename)
    edit(database, "sample_data", keep_two)
    for table in ("attribute", "visibility", "map"):
        (database / TABLES / f"{table}.json").unlink()
    (path, _) = create_infos(database, VERSION, 3, with_cam=True)
    assert list(read_infos(path)[0]["cams"]) == ["CAM_FRONT", "CAM_ABOVE"]
    info_path = {"train": [path.name], "test": []}
    config = configuration(database, MAX_SWEEPS=3, INFO_PATH=info_path)
    assert len(MultiModalNuScenesDataset(config, CLASSES)[0]["camera_imgs"]) == 2


def test_a_split_without_scenes_becomes_an_empty_list_and_a_warning(database, caplog):
    edit(database, "scene", lambda scenes: scenes[:1])
    first = json.loads((database / TABLES / "scene.json").read_text())[0]["token"]
    edit(database, "sample", lambda all_: [one for one in all_ if one["scene_token"] == first])
    tokens = {one["token"] for one in json.loads((database / TABLES / "sample.json").read_text())}

    def of_scene(records):
        return [one for one in records if one["sample_token"] in tokens]

    edit(database, "sample_data", of_scene)
    edit(database, "sample_annotation", of_scene)
    with caplog.at_level(logging.WARNING):
        lengths = [len(read_infos(path)) for path in create_infos(database, VERSION, 1, True)]
    assert sorted(lengths) == [0, 3]
    assert "no sample belongs to" in caplog.text


def test_scenes_whose_files_are_not_there_are_left_out(synthetic_root, tmp_path, caplog):
    root = link_database(synthetic_root, tmp_path)
    (root / VERSION / "samples").unlink()
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="nothing was written"):
        create_infos(root, VERSION, 1, with_cam=False)
    assert caplog.text.count("its LiDAR files are not there") == 3
    assert not list((root / VERSION).glob("*.pkl"))


def test_splits_of_ones_own_come_from_splits_json(database, nusc):
    os.rename(database / VERSION, database / "v9-custom")
    os.rename(database / "v9-custom" / VERSION, database / "v9-custom" / "v9-custom")
    with pytest.raises(ConfigError, match=r"v9-custom.*splits.json"):
        create_infos(database, "v9-custom", 1, with_cam=False)
    names = [scene["name"] for scene in nusc.scene]
    path = database / "v9-custom" / "v9-custom" / "splits.json"
    path.write_text(json.dumps({"train": names[:1], "val": names[1:]}))
    paths = create_infos(database, "v9-custom", 1, with_cam=False)
    assert [len(read_infos(path)) for path in paths] == [3, 6]
    path.write_text('{"train": []}')
    with pytest.raises(DataError, match=r"splits\.json must read"):
        create_infos(database, "v9-custom", 1, with_cam=False)


def test_the_test_version_has_no_boxes_and_one_file_that_can_be_loaded(database):
    os.rename(database / VERSION, database / "v1.0-test")
    os.rename(database / "v1.0-test" / VERSION, database / "v1.0-test" / "v1.0-test")
    (database / "v1.0-test" / "v1.0-test" / "sample_annotation.json").unlink()
    scenes = database / "v1.0-test" / "v1.0-test" / "scene.json"
    records = json.loads(scenes.read_text())
    for number, record in enumerate(records):
        record["name"] = sorted(splits.test)[number]
    scenes.write_text(json.dumps(records))
    (path,) = create_infos(database, "v1.0-test", 3, with_cam=True)
    assert path.name == "nuscenes_infos_3sweeps_test.pkl"
    config = configuration(
        database,
        without=MASKS,
        USE_LABELS=True,
        VERSION="v1.0-test",
        INFO_PATH={"train": [path.name], "test": [path.name]},
    )
    data = MultiModalNuScenesDataset(config, CLASSES, training=False)
    assert len(data) == 9
    batch = data.collate_batch([data[0], data[8]])
    assert "gt_boxes" not in batch
    assert batch["camera_imgs"].shape == (2, 6, 3, 48, 96)
    with pytest.raises(DataError, match=r"no boxes for sample .*\(a test split\?\)"):
        MultiModalNuScenesDataset(config, CLASSES, training=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot read the table .*sample_data.json"),
        (lambda path: path.write_text("[{"), "sample_data.json is not valid JSON"),
        (lambda path: path.write_text("{}"), "holds no list of records"),
    ],
)
def test_a_damaged_database_is_named(database, damage, message):
    damage(database / TABLES / "sample_data.json")
    with pytest.raises(DataError, match=message):
        create_infos(database, VERSION, 1, with_cam=False)


def test_a_record_that_points_nowhere_is_named(database):
    edit(database, "ego_pose", lambda poses: poses[1:])
    with pytest.raises(DataError, match=r"ego_pose.json has no such record.*incomplete"):
        create_infos(database, VERSION, 10, with_cam=True)


def test_the_command_ends_with_a_message_instead_of_a_traceback(tmp_path, capsys):
    assert main(["--data_path", str(tmp_path), "--version", VERSION]) == 1
    assert capsys.readouterr().err.startswith("error: cannot read the table")


@pytest.mark.real_data
def test_the_real_keyframe_becomes_one_training_sample(real_root, tmp_path):
    root = link_database(real_root, tmp_path)
    train, val = create_infos(root, VERSION, 3, with_cam=True)
    assert read_infos(val) == []
    (info,) = read_infos(train)
    assert list(info["cams"]) == list(CAMERAS)
    assert info["gt_boxes"].shape == (len(info["gt_names"]), 9)
    config = configuration(root, INFO_PATH={"train": [train.name], "test": []})
    sample = MultiModalNuScenesDataset(config, CLASSES)[0]
    assert len(sample["camera_imgs"]) == 6
    assert len(sample["points"]) > 20000
