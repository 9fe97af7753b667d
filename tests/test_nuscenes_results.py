"""From predicted boxes to the official scores: ground truth gets full marks, and nothing else."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.utils.splits import create_splits_scenes

from nsmae_plugin.data.infos import read_infos
from nsmae_plugin.errors import ConfigError, DataError, NonFiniteError
from nsmae_plugin.evaluation import nuscenes_benchmark
from nsmae_plugin.evaluation.nuscenes_results import (
    ATTRIBUTES,
    NuScenesEvaluation,
    attribute,
    make_results,
    sample_results,
)

VERSION = "v1.0-mini"
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


def annotation(boxes, names, scores=None, token="one"):
    boxes = np.asarray(boxes, dtype=np.float64) if len(names) else np.zeros((0, 9))
    return {
        "name": np.array(names, dtype=str),
        "score": np.ones(len(names)) if scores is None else np.asarray(scores, dtype=np.float64),
        "boxes_lidar": boxes,
        "pred_labels": np.ones(len(names), dtype=np.int64),
        "metadata": {"token": token},
        "frame_id": token,
    }


class Frames(NuScenesEvaluation):
    """The validation split of a database, as far as the evaluation looks at a data set."""

    def __init__(self, root, split="val", version=VERSION, infos=None, class_names=DETECTION_NAMES):
        self.root_path = Path(root) / version
        self.dataset_cfg = EasyDict(VERSION=version, DATA_SPLIT={"test": split})
        self.class_names = list(class_names)
        self.use_camera, self.use_lidar = True, True
        self.infos = infos
        if infos is None:
            self.infos = read_infos(self.root_path / f"nuscenes_infos_3sweeps_{split}.pkl")

    def truth(self):
        """The annotated boxes as predictions, equally sure of all."""
        return [
            annotation(
                np.nan_to_num(info["gt_boxes"])[known],
                info["gt_names"][known],
                token=info["token"],
            )
            for info in self.infos
            for known in [np.isin(info["gt_names"], self.class_names)]
        ]

    def score(self, annotations, folder):
        return self.evaluation(annotations, self.class_names, output_path=folder)


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
    with pytest.raises(DataError, match=r"no predictions for 4 of 5 samples \(b, c, d\)"):
        make_results([given["a"]], infos, True, True)
    with pytest.raises(DataError, match="sample a twice"):
        make_results([given["a"], given["a"]], infos, True, True)
    with pytest.raises(DataError, match="the data set has no such sample"):
        make_results([given["x"]], infos, True, True)


def test_predictions_take_openpcdets_layout(tmp_path):
    batch = {"frame_id": np.array(["f0", "f1"]), "metadata": [{"token": "a"}, {"token": "b"}]}
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
    one, other = Frames.generate_prediction_dicts(
        batch, [found, nothing], ["car", "bus"], output_path=tmp_path
    )
    assert one["name"].tolist() == ["bus"]
    assert one["boxes_lidar"].dtype == np.float32
    assert (one["frame_id"], one["metadata"]) == ("f0", {"token": "a"})
    assert other["boxes_lidar"].shape == (0, 9)
    assert len(other["name"]) == 0
    written = json.loads((tmp_path / "f0.json").read_text(encoding="utf-8"))
    assert (written["token"], written["names"], written["scores"]) == ("a", ["bus"], [0.5])
    assert json.loads((tmp_path / "f1.json").read_text(encoding="utf-8"))["boxes"] == []


def test_ground_truth_as_predictions_gets_full_marks(val, tmp_path, capfd):
    text, metrics = val.score(val.truth(), tmp_path)
    assert metrics["mAP"] == pytest.approx(1.0)
    assert metrics["mAP_present"] == pytest.approx(1.0)
    assert all(metrics[f"AP/{name}"] == pytest.approx(1.0) for name in DETECTION_NAMES)
    for error in ("trans_err", "scale_err", "orient_err"):
        assert metrics[error] == pytest.approx(0.0, abs=1e-4)
    # Attributes are guessed, so NDS may lose up to its tenth for them.
    assert 0.9 <= metrics["NDS"] <= 1.0
    for line in ("mAP: 1.0000", "Per-class results:", "AP within"):
        assert line in text
    assert capfd.readouterr() == ("", "")  # the devkit's chatter does not reach the user
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"results_nusc.json", "metrics_summary.json", "metrics_details.json"}
    summary = json.loads((tmp_path / "metrics_summary.json").read_text(encoding="utf-8"))
    assert summary["mean_ap"] == metrics["mAP"]
    assert summary["meta"]["use_camera"]


def changed(annotations, change):
    result = copy.deepcopy(annotations)
    for one in result:
        change(one["boxes_lidar"])
    return result


def test_boxes_in_the_samples_of_others_score_lower(val, tmp_path):
    truth = val.truth()
    shuffled = [
        {**one, "metadata": other["metadata"]}
        for one, other in zip(truth, truth[1:] + truth[:1], strict=True)
    ]
    assert val.score(shuffled, tmp_path)[1]["mAP"] < 0.9


def test_each_error_costs_its_own_mark(val, tmp_path):
    def shift(boxes):
        boxes[:, 0] += 0.8

    def scale(boxes):
        boxes[:, 3:6] *= 0.5

    def turn(boxes):
        boxes[:, 6] += 0.3

    def spread(boxes):
        boxes[:, :2] *= 1.3

    truth = val.truth()
    shifted = val.score(changed(truth, shift), tmp_path)[1]
    # Beyond 0.5 m, within 1, 2 and 4 m: three quarters, but for neighbours that are confused.
    assert 0.6 < shifted["mAP"] <= 0.76
    scaled = val.score(changed(truth, scale), tmp_path)[1]
    assert scaled["mAP"] == pytest.approx(1.0)  # the benchmark matches centres
    assert scaled["scale_err"] == pytest.approx(1 - 0.5**3, abs=1e-6)
    turned = val.score(changed(truth, turn), tmp_path)[1]
    # The nine classes with a heading; barriers look alike from both sides.
    assert turned["orient_err"] == pytest.approx(0.3, abs=1e-4)
    assert val.score(changed(truth, spread), tmp_path)[1]["mAP"] < 0.7


def test_sureness_ranks_the_boxes(val, tmp_path):
    """False boxes cost little when they are the least sure, and much when they are the surest."""

    def with_false_boxes(score):
        result = val.truth()
        for one in result:
            false = one["boxes_lidar"].copy()
            false[:, :2] = -false[:, :2] + 7.3
            for key, more in (("boxes_lidar", false), ("name", one["name"])):
                one[key] = np.concatenate([one[key], more])
            one["score"] = np.concatenate([one["score"], np.full(len(false), score)])
        return result

    unsure = val.score(with_false_boxes(0.1), tmp_path)[1]["mAP"]
    sure = val.score(with_false_boxes(2.0), tmp_path)[1]["mAP"]
    # The devkit reads the precision at recall 1, one of 101 points, after the last box.
    assert 0.99 <= unsure <= 1.0
    assert sure < 0.7


def test_no_box_at_all_scores_nothing(val, tmp_path):
    (tmp_path / "metrics_details.json").write_text("{}", encoding="utf-8")
    nothing = [annotation([], [], token=info["token"]) for info in val.infos]
    text, metrics = val.score(nothing, tmp_path)
    assert (metrics["mAP"], metrics["mAP_present"], metrics["NDS"]) == (0.0, 0.0, 0.0)
    assert "not a single box" in text
    summary = json.loads((tmp_path / "metrics_summary.json").read_text(encoding="utf-8"))
    assert summary["nd_score"] == 0.0
    assert not (tmp_path / "metrics_details.json").exists()


def test_one_wrong_box_scores_as_little_as_none(val, tmp_path):
    """The rule for no box at all continues the devkit's own numbers."""
    lone = [annotation([], [], token=info["token"]) for info in val.infos]
    lone[0] = annotation([[0, 0, 50, 1, 1, 1, 0, 0, 0]], ["bus"], token=val.infos[0]["token"])
    metrics = val.score(lone, tmp_path)[1]
    assert (metrics["mAP"], metrics["NDS"]) == (0.0, 0.0)


def test_classes_that_were_not_trained_are_named(synthetic_root, tmp_path):
    frames = Frames(synthetic_root, class_names=["car", "pedestrian"])
    text, metrics = frames.score(frames.truth(), tmp_path)
    assert metrics["mAP"] == pytest.approx(0.2)
    assert "not in CLASS_NAMES, counted with AP 0: truck, bus" in text


def test_the_training_split_can_be_evaluated(synthetic_root, tmp_path):
    frames = Frames(synthetic_root, "train")
    assert frames.benchmark().split == "mini_train"
    metrics = frames.score(frames.truth(), tmp_path)[1]
    assert metrics["AP/car"] == pytest.approx(1.0)
    assert metrics["mAP_present"] == pytest.approx(1.0)


def test_classes_that_the_split_lacks_limit_its_map(copied_tables, synthetic_root, tmp_path):
    """Full marks in nine classes and zero in the tenth, of which there is no box."""
    root = copied_tables("v1.0-mini")
    folder = root / VERSION / VERSION
    categories = json.loads((folder / "category.json").read_text(encoding="utf-8"))
    for one in categories:
        if one["name"].startswith("vehicle.bus"):
            one["name"] = "animal"  # which the benchmark does not know
    (folder / "category.json").write_text(json.dumps(categories), encoding="utf-8")
    val = Frames(root, infos=Frames(synthetic_root).infos)
    text, metrics = val.score(val.truth(), tmp_path / "out")
    assert metrics["mAP"] == pytest.approx(0.9)
    assert metrics["mAP_present"] == pytest.approx(1.0)
    assert "mAP of the 9 classes that the split has: 1.0000" in text


def test_a_part_of_the_split_is_refused_and_names_what_is_missing(synthetic_root):
    val = Frames(synthetic_root)
    tokens = sorted(info["token"] for info in val.infos)
    val.infos = [info for info in val.infos if info["token"] == tokens[0]]
    with pytest.raises(DataError, match=f"hold 1 of the 3 samples.*missing: {tokens[1]}, "):
        val.benchmark()


def test_infos_of_another_split_are_refused(synthetic_root):
    val, train = Frames(synthetic_root), Frames(synthetic_root, "train")
    val.infos = val.infos + train.infos
    with pytest.raises(DataError, match="hold 6 samples that are not in the split mini_val"):
        val.benchmark()


def test_classes_that_nuscenes_does_not_evaluate_are_refused(synthetic_root):
    with pytest.raises(ConfigError, match="has no class animal; it has car"):
        Frames(synthetic_root, class_names=["car", "animal"]).benchmark()


def test_a_split_without_annotations_is_refused(synthetic_root):
    val = Frames(synthetic_root)
    bare = [{k: v for k, v in info.items() if not k.startswith("gt_")} for info in val.infos]
    with pytest.raises(DataError, match=r"no sample of the split mini_val .* has an annotated box"):
        Frames(synthetic_root, infos=bare).benchmark()


@pytest.fixture
def copied_tables(synthetic_root, tmp_path):
    """Copy the tables, without any sensor data, to another version."""

    def copy_to(version, rename=lambda scene: scene):
        folder = tmp_path / "db" / version / version
        shutil.copytree(synthetic_root / VERSION / VERSION, folder)
        scenes = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        scenes = [{**scene, "name": rename(scene["name"])} for scene in scenes]
        (folder / "scene.json").write_text(json.dumps(scenes), encoding="utf-8")
        shutil.copytree(synthetic_root / VERSION / "maps", folder.parent / "maps")
        return tmp_path / "db"

    return copy_to


def test_the_test_split_gets_a_submission_and_no_metrics(copied_tables, synthetic_root, tmp_path):
    official = iter(create_splits_scenes()["test"])
    val = Frames(synthetic_root)
    tables = copied_tables("v1.0-test", lambda _: next(official))
    infos = val.infos + Frames(synthetic_root, "train").infos
    test = Frames(tables, "val", "v1.0-test", infos)  # OpenPCDet's YAML says val for it as well
    text, metrics = test.score(test.truth(), tmp_path / "out")
    assert metrics == {}
    assert f"submit {tmp_path / 'out/results_nusc.json'}" in text
    content = json.loads((tmp_path / "out/results_nusc.json").read_text(encoding="utf-8"))
    assert content["results"].keys() == {info["token"] for info in infos}
    test.infos = val.infos
    with pytest.raises(DataError, match="hold 3 of the 9 samples of the split test"):
        test.score(test.truth(), tmp_path / "out")


def test_a_split_of_ones_own_is_evaluated_under_its_name(copied_tables, synthetic_root, tmp_path):
    root = copied_tables("v1.0-own", lambda scene: f"my {scene}")
    scenes = {f"my {scene}" for scene in create_splits_scenes()["mini_val"]}
    splits = root / "v1.0-own/v1.0-own/splits.json"
    content = {"train": [], "val": sorted(scenes), "my_val": sorted(scenes)}
    splits.write_text(json.dumps(content), encoding="utf-8")
    infos = Frames(synthetic_root).infos
    own = Frames(root, "my_val", "v1.0-own", infos)
    assert own.score(own.truth(), tmp_path / "out")[1]["mAP"] == pytest.approx(1.0)
    with pytest.raises(ConfigError, match=r"DATA_SPLIT.test my_val"):
        Frames(root, "val", "v1.0-own", infos).benchmark()
    splits.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(DataError, match=r"splits.json must read"):
        own.benchmark()


def test_unknown_splits_are_refused(synthetic_root):
    with pytest.raises(ConfigError, match=r"no split 'vall'.*known: train, val, mini_train"):
        nuscenes_benchmark.find(synthetic_root / VERSION, VERSION, "vall")
    with pytest.raises(ConfigError, match=r"v1.0-mini has no split 'train_track'"):
        nuscenes_benchmark.find(synthetic_root / VERSION, VERSION, "train_track")


def score_content(val, content, folder):
    path = folder / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return nuscenes_benchmark.score(val.benchmark(), path, folder)


def test_a_results_file_from_elsewhere_is_scored_or_refused(val, tmp_path):
    whole = make_results(val.truth(), val.infos, True, True)
    assert score_content(val, whole, tmp_path)[1]["mAP"] == pytest.approx(1.0)

    lost, *kept = sorted(whole["results"])
    part = {**whole, "results": {token: whole["results"][token] for token in kept}}
    with pytest.raises(DataError, match=rf"mine.json holds 2 of the 3 samples.*missing: {lost}"):
        score_content(val, part, tmp_path)
    more = {**whole, "results": {**whole["results"], "elsewhere": []}}
    with pytest.raises(DataError, match=r"1 samples that are not in the split mini_val.*elsewhere"):
        score_content(val, more, tmp_path)

    crowd = copy.deepcopy(whole)
    crowd["results"][lost] = crowd["results"][lost][:1] * 501
    with pytest.raises(DataError, match=r"cannot evaluate .*500 boxes per sample"):
        score_content(val, crowd, tmp_path)
    foreign = copy.deepcopy(whole)
    foreign["results"][lost][0]["detection_name"] = "animal"
    with pytest.raises(DataError, match=r"cannot evaluate .*animal"):
        score_content(val, foreign, tmp_path)
    for content in ("{", "[]", {"results": {}}, {"meta": {}, "results": []}):
        with pytest.raises(DataError, match="no results file of nuScenes"):
            score_content(val, content, tmp_path)
    with pytest.raises(DataError, match="cannot read the results"):
        nuscenes_benchmark.score(val.benchmark(), tmp_path / "absent.json", tmp_path)


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
