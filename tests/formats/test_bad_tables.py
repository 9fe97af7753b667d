"""Tables with gaps or implausible values end in one line that names the record."""
# ruff: noqa: F401, F811
# Fixtures of another file are imported, and named as arguments.

import json
import logging
import math
import shutil

import numpy as np
import pytest

from nsmae_plugin.errors import DataError, OutputError
from nsmae_plugin.formats import plausibility
from nsmae_plugin.formats.infos import read_infos, write_infos
from nsmae_plugin.runs.create_infos import create_infos
from tests.formats.test_create_infos import TABLES, VERSION, database, edit
from tests.helpers.tiny_frames import link_database


def change(database, table, position, **fields):
    """Write fields into one record; ``...`` removes them. Returns the record as it was."""
    was = {}

    def one(records):
        was.update(records[position])
        records[position].update(fields)
        for field in [key for key, value in fields.items() if value is ...]:
            del records[position][field]
        return records

    edit(database, table, one)
    return was


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("scene", "name", ..., "has no name"),
        ("scene", "first_sample_token", "gone", "names first_sample_token gone"),
        ("sample", "timestamp", None, "timestamp is None; it must be a finite number"),
        ("sample", "scene_token", "gone", "names scene_token gone"),
        ("sample_data", "is_key_frame", ..., "has no is_key_frame"),
        ("sample_data", "is_key_frame", "yes", "is_key_frame is yes; it must be true or false"),
        ("sample_data", "filename", 3, "filename is 3; it must be a text"),
        ("sample_data", "sample_token", "gone", "names sample_token gone"),
        ("sample_data", "timestamp", math.inf, "timestamp is inf"),
        ("calibrated_sensor", "rotation", [0.0, 0.0, 0.1], "it must be a quaternion"),
        ("calibrated_sensor", "rotation", [0.0] * 4, "must be a quaternion .* of length 1"),
        ("calibrated_sensor", "rotation", [2.0, 0.0, 0.0, 0.0], "quaternion .* of length 1"),
        ("calibrated_sensor", "sensor_token", "gone", "names sensor_token gone"),
        ("ego_pose", "translation", [math.nan, 0.0, 0.0], "must be three finite numbers"),
        ("ego_pose", "rotation", [1.0, "x", 0.0, 0.0], "it must be a quaternion"),
        ("sensor", "modality", "lidar ", "it must be lidar or camera or radar"),
        ("sample_annotation", "num_radar_pts", ..., "has no num_radar_pts"),
        ("sample_annotation", "num_lidar_pts", -1e30, "it must be a whole number"),
        ("sample_annotation", "size", [math.nan] * 3, "must be three finite numbers"),
        ("sample_annotation", "rotation", [0.0] * 4, "must be a quaternion"),
        ("sample_annotation", "instance_token", "gone", "names instance_token gone"),
        ("instance", "category_token", None, "category_token is None"),
        ("category", "name", "", "name is ; it must be a text that is not empty"),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_named(
    database,
    table,
    field,
    value,
    message,
):
    was = change(database, table, 1, **{field: value})
    with pytest.raises(DataError, match=message) as caught:
        create_infos(database, VERSION, 1, with_cam=True)
    assert f"{table}.json: record {was['token']!r}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((database / VERSION).glob("*.pkl"))


def test_records_that_are_no_objects_or_share_a_token_are_named(database):
    edit(database, "ego_pose", lambda records: [*records, records[0]])
    with pytest.raises(DataError, match=r"ego_pose.json: two records have the token"):
        create_infos(database, VERSION, 1, with_cam=False)
    edit(database, "scene", lambda records: [*records, "scene"])
    with pytest.raises(DataError, match=r"scene.json: record 3 is scene, not an object"):
        create_infos(database, VERSION, 1, with_cam=False)


def keyframes(database, channel):
    """Positions in ``sample_data`` of the keyframes of a sensor."""
    records = json.loads((database / TABLES / "sample_data.json").read_text())
    return [
        at
        for at, one in enumerate(records)
        if one["is_key_frame"] and f"/{channel}/" in one["filename"]
    ]


def test_a_chain_of_sweeps_that_does_not_go_back_in_time_is_named(database):
    position = keyframes(database, "LIDAR_TOP")[1]
    record = change(database, "sample_data", position)
    change(database, "sample_data", position, prev=record["token"])
    with pytest.raises(DataError, match=f"prev names {record['token']}, which was not taken befo"):
        create_infos(database, VERSION, 3, with_cam=False)


def test_an_annotation_before_itself_is_named(database):
    token = change(database, "sample_annotation", 0)["token"]
    change(database, "sample_annotation", 0, prev=token)
    with pytest.raises(DataError, match=f"prev names {token}, whose sample is not before its own"):
        create_infos(database, VERSION, 1, with_cam=False)


def scale_times(factor):
    def scaled(records):
        return [{**one, "timestamp": one["timestamp"] * factor} for one in records]

    return scaled


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1e-6, r"5e-07 s after the keyframe before.*microseconds"),  # seconds
        (1e-3, r"0.0005 s after the keyframe before.*microseconds"),
        (1e3, r"500 s after the keyframe before.*microseconds"),  # nanoseconds
        (0.0, "has the time of the keyframe before"),
    ],
)
def test_times_in_other_units_are_refused(database, factor, message):
    for table in ("sample", "sample_data", "ego_pose"):
        edit(database, table, scale_times(factor))
    with pytest.raises(DataError, match=rf"sample.json: record '\w+' .*{message}"):
        create_infos(database, VERSION, 1, with_cam=False)


def test_units_that_differ_between_tables_are_refused(database):
    edit(database, "sample_data", scale_times(1e-3))
    with pytest.raises(DataError, match=r"sample_data.json: .* s after its sample; .*in both"):
        create_infos(database, VERSION, 1, with_cam=False)


def test_poses_in_other_units_are_refused(database):
    def millimetres(poses):
        return [{**one, "translation": [1e3 * x for x in one["translation"]]} for one in poses]

    edit(database, "ego_pose", millimetres)
    with pytest.raises(DataError, match=r"would have come at .* m/s; timestamps are in"):
        create_infos(database, VERSION, 1, with_cam=False)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (lambda k: [row + [0.0] for row in k], "is 3 x 4, not the 3 x 3 .*leave out the fourth"),
        (lambda k: [[x / 160 for x in k[0]], [x / 96 for x in k[1]], k[2]], "if it is normalised"),
        (lambda k: [[10 * x for x in k[0]], k[1], k[2]], "outside the image of 160 x 96 pixels"),
        (lambda k: [k[0], k[1], [0.0, 0.0, 0.0]], "is not of the form"),
        (lambda k: [[math.nan] * 3, k[1], k[2]], "holds NaN or infinity"),
        (lambda k: [], "is 0, not the 3 x 3 matrix"),
    ],
)
def test_intrinsics_that_cannot_be_meant_are_refused(database, matrix, message):
    def changed(sensors):
        for one in sensors:
            if one["camera_intrinsic"]:
                one["camera_intrinsic"] = matrix(one["camera_intrinsic"])
        return sensors

    edit(database, "calibrated_sensor", changed)
    words = rf"calibrated_sensor.json: record '\w+' \(CAM_\w+\): camera_intrinsic .*{message}"
    with pytest.raises(DataError, match=words):
        create_infos(database, VERSION, 1, with_cam=True)
    create_infos(database, VERSION, 1, with_cam=False)  # nobody reads them


def test_the_real_matrix_of_a_camera_is_accepted():
    front = [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]
    assert plausibility.intrinsics_problem(front, (1600, 900)) is None
    assert "outside the image" in plausibility.intrinsics_problem(front, (800, 450))


def test_rotations_are_told_from_mirrors_scalings_and_nan():
    angle = 0.3
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    mirror, scaled, broken = np.diag([1.0, -1, 1]), 1.01 * turn, turn * np.nan
    rounded = np.round(turn, 4)
    found = plausibility.rotations_are_proper(np.stack([turn, rounded, mirror, scaled, broken]))
    assert found.tolist() == [True, True, False, False, False]


def test_a_file_that_is_missing_is_found_at_once(synthetic_root, tmp_path):
    root = link_database(synthetic_root, tmp_path)
    (root / VERSION / "samples").unlink()
    shutil.copytree(synthetic_root / VERSION / "samples", root / VERSION / "samples")
    path = sorted((root / VERSION / "samples" / "CAM_BACK").iterdir())[1]
    path.unlink()
    with pytest.raises(
        DataError, match=rf"cannot read the image .*{path.name} of sample \w+: No such"
    ):
        create_infos(root, VERSION, 1, with_cam=True)
    create_infos(root, VERSION, 1, with_cam=False)


def test_a_camera_that_one_frame_lacks_is_named(database, caplog):
    position = keyframes(database, "CAM_BACK")[0]
    sample = change(database, "sample_data", position)["sample_token"]
    edit(database, "sample_data", lambda all_: all_[:position] + all_[position + 1 :])
    with caplog.at_level(logging.WARNING):
        create_infos(database, VERSION, 1, with_cam=True)
    assert f"sample {sample} has no CAM_BACK, which other samples have" in caplog.text


def test_what_becomes_no_box_of_a_class_is_said(database, caplog):
    def annotations(records):
        records[0]["size"] = [1.0, -2.0, 1.0]
        records[1] |= {"num_lidar_pts": 0, "num_radar_pts": 0}
        return records

    def categories(records):
        for one in records:
            if one["name"] == "vehicle.car":
                one["name"] = "vehicle.car.sedan"
        return records

    edit(database, "sample_annotation", annotations)
    edit(database, "category", categories)
    first = change(database, "sample_annotation", 0)["token"]
    with caplog.at_level(logging.INFO):
        paths = create_infos(database, VERSION, 1, with_cam=False)
    names = [str(name) for path in paths for info in read_infos(path) for name in info["gt_names"]]
    said = caplog.text
    assert f"1 boxes (first: sample_annotation '{first}') of impossible size left out" in said
    assert "left out: no LiDAR or radar point lies in them" in said
    assert "boxes of the category 'vehicle.car.sedan', kept as 'ignore': nuScenes has no" in said
    assert "car" not in names
    counts = [
        int(line.split(" boxes: ")[0].split()[-1])
        for line in said.splitlines()
        if " boxes: " in line
    ]
    assert sum(counts) == len(names) - names.count("ignore")


def test_points_are_counted_where_nobody_has(database, caplog):
    """The synthetic dataset counts a box's own returns; others that lie in it are few."""
    paths = create_infos(database, VERSION, 1, with_cam=False)
    counted = {
        token: count
        for path in paths
        for info in read_infos(path)
        for token, count in zip(info["gt_boxes_token"], info["num_lidar_pts"], strict=True)
    }
    edit(
        database,
        "sample_annotation",
        lambda records: [{**one, "num_lidar_pts": -1, "num_radar_pts": 0} for one in records],
    )
    with caplog.at_level(logging.INFO):
        create_infos(database, VERSION, 1, with_cam=False)
    assert "had no number of LiDAR points" in caplog.text
    agreeing = total = 0
    for path in paths:
        for info in read_infos(path):
            assert (info["num_lidar_pts"] > 0).all()
            for token, count in zip(info["gt_boxes_token"], info["num_lidar_pts"], strict=True):
                total += 1
                agreeing += abs(count - counted.get(token, 0)) <= 0.1 * count + 2
    assert total > 50
    assert agreeing > 0.9 * total


def test_good_infos_are_not_overwritten_by_empty_ones(database, caplog):
    train, val = create_infos(database, VERSION, 1, with_cam=False)
    kept = train.read_bytes(), val.read_bytes()
    first = json.loads((database / TABLES / "scene.json").read_text())[0]["name"]

    def rename(scenes):
        return [{**one, "name": one["name"] if one["name"] == first else "x"} for one in scenes]

    edit(database, "scene", rename)
    with pytest.raises(DataError, match=r"no sample belongs to (train|val), but .* holds some"):
        create_infos(database, VERSION, 1, with_cam=False)
    edit(database, "scene", lambda scenes: [{**one, "name": "x"} for one in scenes])
    with pytest.raises(DataError, match="nothing was written"):
        create_infos(database, VERSION, 1, with_cam=False)
    assert (train.read_bytes(), val.read_bytes()) == kept


def test_infos_and_database_of_read_only_data_go_to_a_folder_of_ones_own(
    database,
    tmp_path,
):
    out = tmp_path / "out"
    folder = database / VERSION
    folder.chmod(0o555)
    try:
        paths = create_infos(
            database, VERSION, 1, with_cam=False, with_gt_database=True, out_dir=out
        )
    finally:
        folder.chmod(0o755)
    assert {path.parent for path in paths} == {out}
    assert not list(folder.glob("*.pkl"))
    listed = read_infos_of_database(out)
    assert listed
    assert all(path.is_absolute() and path.is_file() for path in listed)


def read_infos_of_database(folder):
    from pathlib import Path

    from nsmae_plugin.formats.gt_database import read_gt_database

    content = read_gt_database(folder / "nuscenes_dbinfos_1sweeps_withvelo.pkl")
    return [Path(entry["path"]) for entries in content.values() for entry in entries]


def test_a_place_that_cannot_be_written_to_is_found_first(database, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*/file/x: .*another place with --out_d"):
        create_infos(database, VERSION, 1, with_cam=False, out_dir=tmp_path / "file" / "x")
    assert "train:" not in capsys.readouterr().err  # the progress bar of the work


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["scene-x"], "val": []}, "splits.json names scene-x, which scene.json"),
        ({"train": ["one"], "val": ["one"]}, "splits.json has one in train and in val"),
        ({"train": "one", "val": []}, "'train' is one, no list of names"),
        ({"train": ["one"]}, "it has no val"),
        ([], r"must read .*, not \[\]"),
    ],
)
def test_splits_that_cannot_be_meant_are_named(database, content, message):
    edit(database, "scene", lambda scenes: [{**scenes[0], "name": "one"}, *scenes[1:]])
    (database / TABLES / "splits.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        create_infos(database, VERSION, 1, with_cam=False)


def test_splits_for_the_evaluation_alone_leave_the_official_ones_in_place(
    database,
):
    paths = create_infos(database, VERSION, 1, with_cam=False)
    lengths = [len(read_infos(path)) for path in paths]
    name = json.loads((database / TABLES / "scene.json").read_text())[0]["name"]
    content = {"my_val": [name], "remark": "made by hand"}
    (database / TABLES / "splits.json").write_text(json.dumps(content))
    again = create_infos(database, VERSION, 1, with_cam=False)
    assert [len(read_infos(path)) for path in again] == lengths


def test_an_empty_file_in_the_way_is_overwritten(database):
    edit(database, "scene", lambda scenes: [scenes[0], *({**s, "name": "x"} for s in scenes[1:])])
    for split in ("train", "val"):
        write_infos(database / VERSION / f"nuscenes_infos_1sweeps_{split}.pkl", [])
    paths = create_infos(database, VERSION, 1, with_cam=False)
    assert sorted(len(read_infos(path)) for path in paths) == [0, 3]
