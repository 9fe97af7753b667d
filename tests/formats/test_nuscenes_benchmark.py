"""The official scores: ground truth as predictions gets full marks, and nothing else."""

import copy
import json
import shutil

import numpy as np
import pytest
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.utils.splits import create_splits_scenes

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.nuscenes import devkit
from nsmae_plugin.formats.nuscenes.results import make_results
from tests.helpers.nuscenes_frames import VERSION, Frames, annotation


@pytest.fixture
def val(synthetic_root):
    return Frames(synthetic_root)


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
    assert frames.check().name == "mini_train"
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
        val.check()


def test_infos_of_another_split_are_refused(synthetic_root):
    val, train = Frames(synthetic_root), Frames(synthetic_root, "train")
    val.infos = val.infos + train.infos
    with pytest.raises(DataError, match="hold 6 samples that are not in the split mini_val"):
        val.check()


def test_classes_that_nuscenes_does_not_evaluate_are_refused(synthetic_root):
    with pytest.raises(ConfigError, match="has no class animal; it has car"):
        Frames(synthetic_root, class_names=["car", "animal"]).check()


def test_a_split_without_annotations_is_refused(synthetic_root):
    val = Frames(synthetic_root)
    bare = [{k: v for k, v in info.items() if not k.startswith("gt_")} for info in val.infos]
    with pytest.raises(DataError, match=r"no sample of the split mini_val .* has an annotated box"):
        Frames(synthetic_root, infos=bare).check()


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
    table = json.loads((root / "v1.0-own/v1.0-own/scene.json").read_text(encoding="utf-8"))
    own_names = {f"my {scene}" for scene in create_splits_scenes()["mini_val"]}
    scenes = own_names & {scene["name"] for scene in table}
    splits = root / "v1.0-own/v1.0-own/splits.json"
    content = {"train": [], "val": sorted(scenes), "my_val": sorted(scenes)}
    splits.write_text(json.dumps(content), encoding="utf-8")
    infos = Frames(synthetic_root).infos
    own = Frames(root, "my_val", "v1.0-own", infos)
    assert own.score(own.truth(), tmp_path / "out")[1]["mAP"] == pytest.approx(1.0)
    with pytest.raises(ConfigError, match=r"DATA_SPLIT.test my_val"):
        Frames(root, "val", "v1.0-own", infos).check()
    content["my_val"].append("scene-of-another-database")
    splits.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"splits.json names scene-of-another-database, which"):
        own.check()
    splits.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(DataError, match=r"splits.json must read"):
        own.check()


def test_unknown_splits_are_refused(synthetic_root):
    with pytest.raises(ConfigError, match=r"no split 'vall'.*known: train, val, mini_train"):
        devkit.find(synthetic_root / VERSION, VERSION, "vall")
    with pytest.raises(ConfigError, match=r"v1.0-mini has no split 'train_track'"):
        devkit.find(synthetic_root / VERSION, VERSION, "train_track")


def score_content(val, content, folder):
    path = folder / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return devkit.score(val.check(), path, folder)


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
        with pytest.raises(
            DataError, match=r"mine.json is not (a results file|valid JSON).*it must read"
        ):
            score_content(val, content, tmp_path)
    with pytest.raises(DataError, match="cannot read the results"):
        devkit.score(val.check(), tmp_path / "absent.json", tmp_path)
