"""tools/test.py: which checkpoints are evaluated, and which are refused."""

import re

import pytest
import torch
import yaml
from tensorboardX import event_file_writer

from nsmae_plugin.evaluation.history import record
from nsmae_plugin.runs import test as evaluation_session
from nsmae_plugin.training import checkpoint
from tests.helpers.oracle_runs import (
    CLASS_NAMES,
    evaluate,
    history,
    make_workspace,
    results_folder,
    run_folder,
    save,
)
from tests.helpers.tensorboard import scalars


@pytest.fixture
def workspace(alone, synthetic_root):
    return make_workspace(alone, synthetic_root)


def test_all_epochs_are_evaluated_once_and_anew_after_they_changed(workspace, capsys):
    for epoch in (0, 1, 2, 10):
        save(workspace, epoch, shift=(float(epoch), 0.0, 0.0))
    every = ("--eval_all", "--max_waiting_mins", "0", "--start_epoch", "1")
    assert evaluate(*every) == 0
    assert [one["epoch"] for one in history(workspace)] == [1, 2, 10]
    maps = [one["mAP"] for one in history(workspace)]
    assert maps == sorted(maps, reverse=True)
    board = scalars(run_folder(workspace) / "eval/tensorboard_val_default")
    assert [step for step, _ in board["eval/NDS"]] == [4, 8, 40]

    capsys.readouterr()
    assert evaluate(*every) == 0
    assert "evaluating" not in capsys.readouterr().out
    save(workspace, 2)
    (results_folder(workspace, 10) / "result.txt").unlink()  # as if the process had been killed
    assert evaluate(*every) == 0
    output = capsys.readouterr().out
    assert re.findall(r"evaluating .*checkpoint_epoch_(\d+)\.pth", output) == ["2", "10"]
    assert {one["epoch"]: one["mAP"] for one in history(workspace)}[2] == pytest.approx(1.0)


def test_checkpoints_that_appear_later_are_waited_for(workspace, monkeypatch):
    save(workspace, 1)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 1:
            save(workspace, 2)

    monkeypatch.setattr(evaluation_session.time, "sleep", sleep)
    assert evaluate("--eval_all", "--max_waiting_mins", "0.75") == 0
    assert [one["epoch"] for one in history(workspace)] == [1, 2]
    assert pauses == [30, 30, 15]  # the clock starts anew after every checkpoint


def test_a_folder_without_checkpoints_is_an_error(workspace, capsys):
    every = ("--eval_all", "--max_waiting_mins", "0")
    assert evaluate() == 1
    assert "there is no checkpoint at" in capsys.readouterr().err
    assert evaluate(*every) == 1
    assert "there is no folder of checkpoints" in capsys.readouterr().err
    save(workspace, 1)
    assert evaluate(*every, "--start_epoch", "2") == 1
    assert "from epoch 2 on" in capsys.readouterr().err
    assert evaluate(*every, "--ckpt_dir", workspace / "elsewhere") == 1


def test_a_checkpoint_of_other_classes_is_an_error(workspace, capsys):
    save(workspace, classes=3)
    assert evaluate() == 1
    message = capsys.readouterr().err
    assert "dense_head.weight has shape (3, 2), the model (10, 2)" in message
    assert "CLASS_NAMES" in message
    assert "--pretrained_model" in message
    # As many, but others: only the configuration of the run can tell.
    save(workspace, config_tag="oracle")
    config = {"CLASS_NAMES": CLASS_NAMES[::-1]}
    (run_folder(workspace) / "oracle.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert evaluate() == 1
    assert "was trained with other settings (CLASS_NAMES ['traffic_cone', 'pedestrian'" in (
        capsys.readouterr().err
    )
    config = {"CLASS_NAMES": CLASS_NAMES}
    (run_folder(workspace) / "oracle.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert evaluate() == 0


def test_a_checkpoint_must_be_whole_but_for_what_the_pretrained_model_gives(workspace, capsys):
    path = save(workspace)
    content = checkpoint.read(path)
    shift = content["model_state"].pop("shift")
    checkpoint.write(content, path)
    assert evaluate() == 1
    assert "shift is missing" in capsys.readouterr().err
    rest = workspace / "rest.pth"
    state = {"shift": shift, "render_head.weight": shift, "dense_head.bias": torch.ones(10)}
    checkpoint.write({"model_state": state}, rest)
    assert evaluate("--pretrained_model", rest) == 0
    checkpoint.write({"model_state": {**content["model_state"], "more.x": shift}}, path)
    assert evaluate("--pretrained_model", rest) == 1
    assert "more.x is not in the model" in capsys.readouterr().err


def test_weights_without_an_epoch_get_a_folder_too(workspace):
    path = save(workspace)
    content = checkpoint.read(path)
    path.unlink()
    checkpoint.write({"model_state": content["model_state"]}, path.with_name("weights.pth"))
    assert evaluate() == 0
    assert (run_folder(workspace) / "eval/epoch_no_number/val/default/result.txt").is_file()
    # OpenPCDet takes the epoch from the name of the file: here it does where the content has none.
    path.with_name("weights.pth").rename(path)
    assert evaluate("--eval_all", "--max_waiting_mins", "0") == 0
    assert (run_folder(workspace) / "eval/epoch_3/val/default/result.txt").is_file()
    save(workspace, batch_in_epoch=2)
    assert evaluate() == 0
    assert (run_folder(workspace) / "eval/epoch_3_step_12/val/default/result.txt").is_file()


def test_evaluations_within_a_second_all_reach_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file_writer.time, "time", lambda: 1e9)
    for step in (4, 8):
        record(tmp_path, "val", "default", 1, step, {"mAP": 0.5})
    assert scalars(tmp_path / "tensorboard_val_default") == {"eval/mAP": [(4, 0.5), (8, 0.5)]}
