"""tools/label_efficiency.py trusts trials only when they were made with the same settings."""

import json
from pathlib import Path

import pytest

from tests.helpers.label_runs import (
    calls,
    experiment,
    folder,
    make_workspace,
    write_config,
)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    return make_workspace(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--set", "OPTIMIZATION.LR", "0.5"], "config.OPTIMIZATION.LR 0.01 -> 0.5"),
        (["--train_args", "--batch_size 4"], "train_args [] -> ['--batch_size', '4']"),
        (["--test_args", "--batch_size 4"], "test_args [] -> ['--batch_size', '4']"),
    ],
)
def test_a_trial_of_other_settings_is_neither_continued_nor_counted(
    workspace, capsys, change, named
):
    assert experiment() == 0
    made = calls(workspace)
    assert experiment(*change) == 1
    message = capsys.readouterr().err
    assert f"scratch_0.1_seed0 was made with other settings ({named})" in message
    assert "give another --extra_tag" in message
    assert calls(workspace) == made
    assert experiment("--report_only", *change) == 1
    assert "no trial in" in capsys.readouterr().err


def test_a_trial_that_stops_early_is_evaluated_at_its_best_checkpoint(workspace):
    assert experiment() == 0
    stopping = ("OPTIMIZATION.EARLY_STOPPING", "{}", "DATA_CONFIG.VALIDATION_FRACTION", "0.1")
    assert experiment("--extra_tag", "early", "--set", *stopping) == 0
    plain, early = (calls(workspace)[start : start + 2] for start in (0, 4))
    best = "output/group/toy/early/scratch_0.1_seed0/ckpt/checkpoint_best.pth"
    assert [(one["eval_interval"], one["ckpt"]) for one in plain] == [("0", None), (None, None)]
    assert [(one["eval_interval"], one["ckpt"]) for one in early] == [(None, None), (None, best)]


def test_other_weights_under_the_same_name_are_noticed(workspace, capsys):
    assert experiment() == 0
    Path("weights.pth").write_text("other weights")
    assert experiment() == 1
    assert "pretrained_0.1_seed0 was made with other settings" in capsys.readouterr().err
    assert experiment("--report_only") == 0
    text = (folder(workspace) / "table.md").read_text(encoding="utf-8")
    assert "| 10 % | 1 / 0 | 5.00 | – | – |" in text
    assert "not counted, made with other settings: pretrained_0.1_seed0 (weights " in text


def test_an_edited_configuration_file_is_noticed(workspace, capsys):
    assert experiment() == 0
    write_config(NUM_EPOCHS=4)
    assert experiment() == 1
    assert "config.OPTIMIZATION.NUM_EPOCHS 3 -> 4" in capsys.readouterr().err


def test_another_data_set_in_the_same_place_is_noticed(workspace, capsys):
    assert experiment() == 0
    Path("v1/infos.pkl").write_text("infos of another world")
    assert experiment() == 1
    assert "(infos.v1/infos.pkl" in capsys.readouterr().err


def test_an_edited_map_is_noticed_where_maps_are_the_labels(workspace, capsys):
    maps = {"CLASSES": ["walkway"], "XBOUND": [-1, 1, 1], "YBOUND": [-1, 1, 1], "LINE_WIDTH": 1}
    path = Path("v1/maps/expansion/town.json")
    path.parent.mkdir(parents=True)
    path.write_text("a town")
    assert experiment() == 0
    path.write_text("another town")
    assert experiment() == 0  # boxes come from the info files
    labels = ("--extra_tag", "maps", "--set", "DATA_CONFIG.MAP_CONFIG", json.dumps(maps))
    assert experiment(*labels) == 0
    path.write_text("a town")
    capsys.readouterr()
    assert experiment(*labels) == 1
    assert "(infos.v1/maps/expansion/town.json" in capsys.readouterr().err


def test_workers_and_jobs_change_no_result_and_may_change(workspace):
    assert experiment("--workers", "1") == 0
    made = calls(workspace)
    assert experiment("--workers", "2", "--jobs", "2") == 0
    assert calls(workspace) == made


def test_a_record_written_by_hand_is_refused(workspace, capsys):
    assert experiment() == 0
    path = folder(workspace, "scratch_0.1_seed0") / "trial.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["settings"]["seed"] = 5
    path.write_text(json.dumps(record))
    assert experiment() == 1
    assert "trial.json was edited" in capsys.readouterr().err
    path.write_text("{")
    assert experiment() == 1
    assert "trial.json is not valid JSON" in capsys.readouterr().err


def test_checkpoints_of_another_run_are_not_taken_over(workspace, capsys):
    checkpoint = folder(workspace, "scratch_0.1_seed0") / "ckpt/checkpoint_epoch_1.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert experiment() == 1
    assert "has checkpoints, but no trial.json" in capsys.readouterr().err
    assert calls(workspace) == []
