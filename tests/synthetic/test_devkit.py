"""The synthetic dataset as a nuScenes database: what the unmodified devkit makes of it."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import mini_train, mini_val
from pyquaternion import Quaternion

from nsmae_plugin.synthetic import SyntheticOptions, write_dataset

matplotlib.use("Agg")
OPTIONS = SyntheticOptions(scenes=3, keyframes=3, sweeps=2, image_size=(64, 112))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("world"), OPTIONS)


def predictions_of_ground_truth(database: NuScenes, scenes: list[str]) -> dict[str, list[dict]]:
    attributes = {record["token"]: record["name"] for record in database.attribute}
    results = {}
    for sample in database.sample:
        if database.get("scene", sample["scene_token"])["name"] not in scenes:
            continue
        boxes = [database.get("sample_annotation", token) for token in sample["anns"]]
        results[sample["token"]] = [
            {
                "sample_token": sample["token"],
                **{key: box[key] for key in ("translation", "size", "rotation")},
                "velocity": list(database.box_velocity(box["token"])[:2]),
                "detection_name": category_to_detection_name(box["category_name"]),
                "detection_score": 1.0,
                "attribute_name": "".join(attributes[t] for t in box["attribute_tokens"]),
            }
            for box in boxes
        ]
    return results


def test_scenes_carry_the_official_names_of_both_splits(database):
    names = [scene["name"] for scene in database.scene]
    assert len(names) == 3
    assert sum(name in mini_train for name in names) == 2
    assert sum(name in mini_val for name in names) == 1


def test_ground_truth_as_predictions_scores_one_for_all_ten_classes(database, tmp_path):
    results = predictions_of_ground_truth(database, mini_val)
    modalities = ("camera", "lidar", "radar", "map", "external")
    meta = {f"use_{name}": name in ("camera", "lidar") for name in modalities}
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"meta": meta, "results": results}))
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(database, config, str(path), "mini_val", str(tmp_path), False)
    metrics, _ = evaluation.evaluate()
    seen = {box.detection_name for box in evaluation.gt_boxes.all}
    assert seen == set(DETECTION_NAMES)
    assert metrics.mean_ap == pytest.approx(1.0, abs=1e-12)
    for error in ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"):
        assert metrics.tp_errors[error] == pytest.approx(0.0, abs=1e-6)


def test_classes_that_can_move_both_stand_and_move(database):
    kinds = {}
    for box in database.sample_annotation:
        name = category_to_detection_name(box["category_name"])
        speed = np.linalg.norm(database.box_velocity(box["token"])[:2])
        if np.isfinite(speed):
            kinds.setdefault(name, set()).add("moves" if speed > 0.3 else "stands")
    assert set(kinds) == set(DETECTION_NAMES)
    for name, states in kinds.items():
        still = name in ("barrier", "traffic_cone")
        assert states == ({"stands"} if still else {"moves", "stands"}), name


def test_attributes_agree_with_velocities(database):
    attributes = {record["token"]: record["name"] for record in database.attribute}
    for box in database.sample_annotation:
        for token in box["attribute_tokens"]:
            speed = np.linalg.norm(database.box_velocity(box["token"])[:2])
            if np.isfinite(speed):
                moving = attributes[token].endswith((".moving", ".with_rider"))
                assert moving == (speed > 0.1), (box["category_name"], attributes[token], speed)


def test_annotated_point_counts_are_those_of_the_devkit(database):
    """Counted with the devkit's own geometry; a point within 1e-4 m of a face may differ."""
    for sample in database.sample[::2]:
        path, boxes, _ = database.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3].astype(np.float64)
        for box in boxes:
            annotated = database.get("sample_annotation", box.token)["num_lidar_pts"]
            count = points_in_box(box, points).sum()
            assert annotated > 0
            assert abs(int(count) - annotated) <= 1


def test_sensor_data_form_time_ordered_chains_with_their_own_poses(database):
    for channel in ("LIDAR_TOP", "CAM_FRONT", "CAM_BACK_RIGHT"):
        records = [r for r in database.sample_data if r["channel"] == channel]
        starts = [record for record in records if not record["prev"]]
        assert len(starts) == len(database.scene)
        reached = 0
        for record in starts:
            while True:
                reached += 1
                pose = database.get("ego_pose", record["ego_pose_token"])
                assert pose["timestamp"] == record["timestamp"]
                if not record["next"]:
                    break
                following = database.get("sample_data", record["next"])
                assert following["prev"] == record["token"]
                assert following["timestamp"] > record["timestamp"]
                record = following
        assert reached == len(records)


def test_sweeps_are_evenly_spaced_and_belong_to_the_next_keyframe(database):
    scene = database.scene[0]
    sample = database.get("sample", database.get("sample", scene["first_sample_token"])["next"])
    key = database.get("sample_data", sample["data"]["LIDAR_TOP"])
    sweep, times = key, [key["timestamp"]]
    for _ in range(3):
        sweep = database.get("sample_data", sweep["prev"])
        times.append(sweep["timestamp"])
        if not sweep["is_key_frame"]:
            assert sweep["sample_token"] == sample["token"]
            assert sweep["filename"].startswith("sweeps/LIDAR_TOP/")
    assert sweep["is_key_frame"]
    # Half a second in three steps; timestamps are whole microseconds.
    np.testing.assert_allclose(-np.diff(times), 500_000 / 3, atol=1)


def test_cameras_fire_while_the_lidar_turns_and_the_vehicle_moves(database):
    sample = database.sample[1]
    lidar = database.get("sample_data", sample["data"]["LIDAR_TOP"])
    times = {}
    for channel, token in sample["data"].items():
        times[channel] = database.get("sample_data", token)["timestamp"] - lidar["timestamp"]
    order = ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK"]
    assert sorted(times, key=times.get) == [*order, "CAM_BACK_LEFT", "LIDAR_TOP"]
    assert min(times.values()) > -50_000
    first = database.get("ego_pose", database.get("sample_data", sample["data"][order[0]])["token"])
    last = database.get("ego_pose", lidar["ego_pose_token"])
    assert first["translation"] != last["translation"]


def test_earlier_sweeps_fall_into_the_boxes_of_parked_vehicles(database):
    """Brought over by the poses; a wrong pose or time (a metre and more) would miss the boxes.

    Of the points around a box, above the ground and within 0.5 m of it, all lie in it.
    """
    sample = database.sample[1]
    moved, times = LidarPointCloud.from_file_multisweep(
        database, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=3, min_distance=0.0
    )
    earlier = moved.points[:3, times[0] > 0.1]
    _, boxes, _ = database.get_sample_data(sample["data"]["LIDAR_TOP"])
    shares = []
    for box in boxes:
        standing = np.linalg.norm(database.box_velocity(box.token)) < 0.1
        if box.name in ("vehicle.car", "vehicle.truck") and standing:
            local = box.rotation_matrix.T @ (earlier - box.center[:, None])
            around = (np.abs(local[:2]) < box.wlh[[1, 0], None] / 2 + 0.5).all(0)
            around &= local[2] > 0.4 - box.wlh[2] / 2
            if around.sum() > 20:
                shares.append(points_in_box(box, earlier[:, around]).mean())
    assert len(shares) >= 3
    assert np.median(shares) > 0.98


def test_lidar_file_holds_position_intensity_and_ring(database):
    path = database.get_sample_data_path(database.sample[0]["data"]["LIDAR_TOP"])
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    assert np.isfinite(points).all()
    assert set(points[:, 4]) <= set(range(32))
    assert points[:, 3].min() >= 0
    assert points[:, 3].max() <= 255
    # Higher rings look higher.
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    means = [elevation[points[:, 4] == ring].mean() for ring in np.unique(points[:, 4])]
    assert (np.diff(means) > 0).all()


def test_lidar_frame_has_x_right_and_y_forward(database):
    record = next(r for r in database.calibrated_sensor if not r["camera_intrinsic"])
    rotation = Quaternion(record["rotation"]).rotation_matrix
    np.testing.assert_allclose(rotation, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_render_sample_draws(database, tmp_path):
    database.render_sample(
        database.sample[0]["token"], out_path=str(tmp_path / "sample.png"), verbose=False
    )
    assert (tmp_path / "sample.png").stat().st_size > 10_000
