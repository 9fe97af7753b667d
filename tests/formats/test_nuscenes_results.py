"""From predicted boxes in the LiDAR frame to a nuScenes results file."""

import json

import numpy as np
import pytest
import torch
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES

from nsmae_plugin.data.scoring import check_samples
from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.formats.nuscenes.results import (
    ATTRIBUTES,
    attribute,
    make_results,
    sample_results,
)
from tests.helpers.nuscenes_frames import VERSION, Frames, annotation

# The ego vehicle at (100, 200, 0), facing north; the LiDAR 2 m above its origin, turned by -90
# degrees, so that its axes are those of the world.
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def rigid(rotation, translation):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


INFO = {
    "token": "one",
    "car_from_global": np.linalg.inv(rigid(TURN, [100, 200, 0])),
    "ref_from_car": np.linalg.inv(rigid(TURN.T, [0, 0, 2])),
}
CAR = [1.0, 2.0, -1.5, 4.0, 1.8, 1.5, np.pi / 2, 3.0, 0.5]


@pytest.fixture
def val(synthetic_root):
    return Frames(synthetic_root)


def test_a_box_goes_through_the_vehicle_into_the_world():
    (box,) = sample_results(annotation([CAR], ["car"], [0.25]), INFO)
    np.testing.assert_allclose(box["translation"], [101, 202, 0.5], atol=1e-9)
    assert box["size"] == [1.8, 4.0, 1.5]  # width, length, height
    # A quarter turn about z.
    np.testing.assert_allclose(box["rotation"], [0.5**0.5, 0, 0, 0.5**0.5], atol=1e-9)
    np.testing.assert_allclose(box["velocity"], [3.0, 0.5], atol=1e-9)
    assert (box["sample_token"], box["detection_name"]) == ("one", "car")
    assert (box["detection_score"], box["attribute_name"]) == (0.25, "vehicle.moving")


def test_velocities_turn_with_the_sensor():
    info = {**INFO, "ref_from_car": np.eye(4)}  # x of the sensor is north
    (box,) = sample_results(annotation([CAR], ["car"]), info)
    np.testing.assert_allclose(box["translation"], [98, 201, -1.5], atol=1e-9)
    np.testing.assert_allclose(box["velocity"], [-0.5, 3.0], atol=1e-9)


def test_boxes_without_velocity_stand_still():
    (box,) = sample_results(annotation([CAR[:7]], ["pedestrian"]), INFO)
    assert box["velocity"] == [0.0, 0.0]
    assert box["attribute_name"] == "pedestrian.standing"


def test_attributes_follow_class_and_speed():
    assert set(ATTRIBUTES) == set(DETECTION_NAMES)
    assert {one for pair in ATTRIBUTES.values() for one in pair} <= {"", *ATTRIBUTE_NAMES}
    assert attribute("bus", (0.0, 0.19)) == "vehicle.stopped"
    assert attribute("bus", (0.15, 0.15)) == "vehicle.moving"  # 0.21 m/s
    assert attribute("bicycle", (5, 0)) == "cycle.with_rider"
    assert attribute("motorcycle", (0, 0)) == "cycle.without_rider"
    assert attribute("barrier", (0, 0)) == ""


def test_the_surest_500_boxes_of_a_sample_count():
    boxes, scores = np.tile(CAR, (600, 1)), np.linspace(0, 1, 600)
    scores = np.roll(scores, 7)
    kept = sample_results(annotation(boxes, ["car"] * 600, scores), INFO)
    assert [one["detection_score"] for one in kept] == sorted(scores, reverse=True)[:500]


@pytest.mark.parametrize("column", [0, 6, 8])
def test_a_broken_box_names_its_sample(column):
    box = list(CAR)
    box[column] = np.nan
    with pytest.raises(NonFiniteError, match="sample one"):
        sample_results(annotation([box], ["car"]), INFO)
    with pytest.raises(NonFiniteError, match="sample one"):
        sample_results(annotation([CAR], ["car"], [np.inf]), INFO)


def test_an_info_without_poses_is_refused():
    with pytest.raises(DataError, match="sample one holds no ref_from_car"):
        sample_results(annotation([CAR], ["car"]), {"token": "one"})


def test_every_sample_needs_its_predictions_once():
    infos = [{**INFO, "token": token} for token in "abcde"]
    given = {token: annotation([], [], token=token) for token in "abcdex"}
    whole = make_results([given[token] for token in "abcde"], infos, True, False)
    assert whole["results"] == {token: [] for token in "abcde"}
    assert (whole["meta"]["use_camera"], whole["meta"]["use_lidar"]) == (True, False)
    for tokens, message in (
        ("a", r"no predictions for 4 of 5 samples \(b, c, d\)"),
        ("aa", "sample a twice"),
        ("x", "sample x but the dataset has no such sample"),
    ):
        with pytest.raises(DataError, match=message):
            check_samples([given[token] for token in tokens], infos)


def test_predictions_take_openpcdets_layout(tmp_path, val):
    # Two files of one stem, in the folders of two scenes.
    batch = {"frame_id": np.array(["f0", "f0"]), "metadata": [{"token": "a"}, {"token": "b"}]}
    found = {
        "pred_boxes": torch.tensor([CAR], dtype=torch.bfloat16),
        "pred_scores": torch.tensor([0.5]),
        "pred_labels": torch.tensor([2]),
    }
    nothing = {
        "pred_boxes": torch.zeros(0, 9),
        "pred_scores": torch.zeros(0),
        "pred_labels": torch.zeros(0, dtype=torch.long),
    }
    one, other = val.annotate(batch, [found, nothing], ["car", "bus"], output_path=tmp_path)
    assert one["name"].tolist() == ["bus"]
    assert one["boxes_lidar"].dtype == np.float32
    assert (one["frame_id"], one["metadata"]) == ("f0", {"token": "a"})
    assert other["boxes_lidar"].shape == (0, 9)
    assert len(other["name"]) == 0
    written = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (written["token"], written["names"], written["scores"]) == ("a", ["bus"], [0.5])
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["boxes"] == []


@pytest.mark.openpcdet
def test_results_equal_openpcdets(val, openpcdet_root):
    """Boxes, scores and, where nuScenes has any, attributes are those of OpenPCDet's writer."""
    from nuscenes.nuscenes import NuScenes

    from nsmae_plugin.host import openpcdet  # noqa: F401  (makes pcdet importable)

    # isort: split
    from pcdet.datasets.nuscenes import nuscenes_utils

    rng = np.random.default_rng(0)
    annotations = []
    for info in val.infos:
        boxes = rng.uniform(-3, 3, size=(40, 9))
        boxes[:, 3:6] = np.abs(boxes[:, 3:6])
        boxes[:, 7:] *= rng.choice([0.02, 1.0], size=(40, 1))
        annotations.append(
            annotation(boxes, DETECTION_NAMES * 4, rng.permutation(40) / 40, info["token"])
        )
    database = NuScenes(VERSION, str(val.root_path), verbose=False)
    theirs = nuscenes_utils.transform_det_annos_to_nusc_annos(annotations, database)["results"]
    ours = make_results(annotations, val.infos, True, True)["results"]
    assert ours.keys() == theirs.keys()
    for token, boxes in ours.items():
        expected = sorted(theirs[token], key=lambda box: -box["detection_score"])
        for box, other in zip(boxes, expected, strict=True):
            assert (box["detection_name"], box["detection_score"]) == (
                other["detection_name"],
                other["detection_score"],
            )
            for key in ("translation", "size", "velocity"):
                # The poses of the infos against those of the tables, float64 both.
                np.testing.assert_allclose(box[key], other[key], atol=1e-6)
            # A rotation is the same as its negative quaternion.
            assert abs(np.dot(box["rotation"], other["rotation"])) == pytest.approx(1, abs=1e-9)
            if box["detection_name"] not in ("barrier", "traffic_cone"):
                assert box["attribute_name"] == other["attribute_name"]


def test_a_token_that_leads_elsewhere_writes_nothing(tmp_path, val):
    """Info files come from elsewhere too; this one would write beside the output folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    batch = {"frame_id": np.array(["f0"]), "metadata": [{"token": "../x"}]}
    found = {
        "pred_boxes": torch.zeros(0, 9),
        "pred_scores": torch.zeros(0),
        "pred_labels": torch.zeros(0, dtype=torch.long),
    }
    with pytest.raises(DataError, match=r"token of a sample, '../x', cannot name a file: .*lead"):
        val.annotate(batch, [found], ["car"], output_path=folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
