"""tools/test.py: the scores of a map segmenter that knows the truth, alone and beside boxes."""

import json

import numpy as np
import pytest
import yaml

import nsmae_plugin
from tests.helpers.oracle import BROKEN
from tests.helpers.oracle_runs import (
    evaluate,
    history,
    make_workspace,
    register,
    results_folder,
    run_folder,
    save,
    start_two_processes,
    summary,
)
from tests.helpers.tensorboard import scalars
from tests.helpers.toys import train

# isort: split
from nsmae_plugin.config.load import read

MAP_CONFIG = {
    "CLASSES": ["drivable_area", "walkway", "divider"],
    "XBOUND": [-20.0, 20.0, 0.5],
    "YBOUND": [-16.0, 16.0, 0.5],
    "LINE_WIDTH": 1.0,
}
RESULTS = {"map_metrics.json", "result.txt", "result.pkl"}


@pytest.fixture
def start(alone, synthetic_root):
    """Makes the working directory of an oracle with a map head and, if wanted, one for boxes."""

    def make(boxes=False, **data):
        model = {"NAME": "OracleWithMap", "MAP_HEAD": {"NAME": "OracleMapHead"}}
        if boxes:
            # Never built; a name that OpenPCDet knows, and whose keys are its own business.
            model["DENSE_HEAD"] = {"NAME": "AnchorHeadMulti"}
        data = {"USE_LABELS": boxes, "MAP_CONFIG": MAP_CONFIG, **data}
        return make_workspace(alone, synthetic_root, model, **data)

    return make


def save_map(workspace, shift=0.0, **more):
    """The checkpoint of an oracle that is wrong by ``shift`` cells."""
    settings = {"classes": 0, "map_classes": 3, "shift": (shift, 0.0, 0.0), **more}
    return save(workspace, **settings)


def test_a_map_is_scored_without_any_boxes(start, capsys):
    workspace = start()
    save_map(workspace)
    assert evaluate("--infer_time", "--save_to_file") == 0
    output = capsys.readouterr().out
    for words in ("3 samples\n", "map IoU (%)", "drivable_area", "100.00", "ms per sample"):
        assert words in output
    assert "labels: rasteriser exact, lines 1 m wide" in output
    assert "boxes" not in output
    assert "recall" not in output
    folder = results_folder(workspace)
    assert {path.name for path in folder.iterdir()} == {*RESULTS, "final_result"}
    content = summary(folder, "map_metrics.json")
    assert content["mean_iou"] == 1.0
    assert content["samples"] == 3
    files = sorted((folder / "final_result/data").iterdir())
    assert [path.suffix for path in files] == [".npz"] * 3
    with np.load(files[0]) as written:
        assert written["probabilities"].shape == (3, 64, 80)
        assert set(np.unique(written["probabilities"])) == {np.float16(0), np.float16(0.9)}

    (record,) = history(workspace)
    expected = {"epoch": 3, "step": 12, "split": "val", "mIoU": 1.0, "IoU/walkway": 1.0}
    assert expected.items() <= record.items()
    board = scalars(run_folder(workspace) / "eval/tensorboard_val_default")
    assert board["eval/mIoU"] == [(12, 1.0)]


def test_maps_and_boxes_of_one_network_are_scored_together(start, capsys):
    workspace = start(boxes=True)
    save_map(workspace, classes=10)
    assert evaluate() == 0
    output = capsys.readouterr().out
    for words in ("mAP: 1.0000", "recall/rcnn_0.5", "boxes each", "map IoU (%)"):
        assert words in output
    (record,) = history(workspace)
    assert record["mAP"] == pytest.approx(1.0)
    assert record["mIoU"] == 1.0
    names = {"results_nusc.json", "metrics_summary.json", "metrics_details.json"}
    assert {path.name for path in results_folder(workspace).iterdir()} == {*RESULTS, *names}


def test_classes_of_boxes_do_not_matter_to_a_map_alone(start):
    workspace = start()
    save_map(workspace)
    assert evaluate("--set", "CLASS_NAMES", "['animal']") == 0
    assert history(workspace)[0]["mIoU"] == 1.0


def test_two_processes_count_what_one_counts(start):
    """An odd number of samples: nothing is counted twice to fill up, nothing is averaged."""
    workspace = start()
    save_map(workspace, shift=1.0)
    assert evaluate("--eval_tag", "one") == 0
    outcome = start_two_processes(workspace, "--eval_tag", "two", "--save_to_file")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("map IoU (%)") == 1
    one, two = (
        summary(results_folder(workspace, eval_tag=tag), "map_metrics.json")
        for tag in ("one", "two")
    )
    assert one == two
    assert 0.3 < one["mean_iou"] < 0.99
    files = results_folder(workspace, eval_tag="two") / "final_result/data"
    assert len(list(files.iterdir())) == 3


def test_a_broken_map_ends_the_evaluation_of_all_processes(start):
    workspace = start()
    save_map(workspace, shift=BROKEN)
    outcome = start_two_processes(workspace)
    assert outcome.returncode != 0
    assert "error: the map predicted for sample" in outcome.stderr
    assert not (results_folder(workspace) / "result.txt").exists()


def test_a_checkpoint_of_another_map_is_an_error(start, capsys):
    workspace = start()
    save_map(workspace, map_classes=6)
    assert evaluate() == 1
    message = capsys.readouterr().err
    assert "map_head.weight has shape (6, 2), the model (3, 2)" in message
    assert "MAP_CONFIG.CLASSES" in message
    # As many, but others: only the configuration of the run can tell.
    save_map(workspace, config_tag="oracle")
    config = read(workspace / "cfgs/group/oracle.yaml")
    config["DATA_CONFIG"]["MAP_CONFIG"]["CLASSES"] = ["walkway", "drivable_area", "divider"]
    path = run_folder(workspace) / "oracle.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert evaluate() == 1
    message = capsys.readouterr().err
    assert (
        "DATA_CONFIG.MAP_CONFIG.CLASSES ['walkway', 'drivable_area', 'divider'] -> "
        "['drivable_area', 'walkway', 'divider']) that do not fit its weights" in message
    )
    config["DATA_CONFIG"]["MAP_CONFIG"]["CLASSES"] = MAP_CONFIG["CLASSES"]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert evaluate() == 0


def test_training_evaluates_a_map(start, capsys, monkeypatch):
    workspace = start()
    monkeypatch.setattr(nsmae_plugin, "register", register)
    arguments = ("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", "--seed", "1")
    assert train(*arguments, "--epochs", "1") == 0
    assert "map IoU (%)" in capsys.readouterr().out
    text = (run_folder(workspace) / "metrics.jsonl").read_text(encoding="utf-8")
    (record,) = [one for one in map(json.loads, text.splitlines()) if one["split"] == "test"]
    assert record["mIoU"] == 1.0
    # What could not be evaluated stops before anything is trained.
    wrong = ("--extra_tag", "wrong", "--set", "DATA_CONFIG.DATA_SPLIT.test", "train")
    assert train(*arguments, *wrong) == 1
    assert "hold 0 of the 6 samples of the split mini_train" in capsys.readouterr().err
    assert not list((run_folder(workspace, "wrong") / "ckpt").iterdir())
