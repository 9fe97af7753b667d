"""tools/test.py: OpenPCDet's flags and folders, the scores of a detector that knows the truth."""

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import toys
import yaml
from oracle import OracleDetector

import nsmae_plugin
from nsmae_plugin import host

# isort: split
import torch
from tensorboardX import event_file_writer
from tensorboardX.proto.event_pb2 import Event
from torch import nn

from nsmae_plugin.data.infos import read_infos
from nsmae_plugin.evaluation import session as evaluation_session
from nsmae_plugin.evaluation.history import History
from nsmae_plugin.registration import register_all
from nsmae_plugin.training import checkpoint

OPENPCDET_FLAGS = (
    *("cfg_file", "batch_size", "workers", "extra_tag", "ckpt", "pretrained_model", "launcher"),
    *("tcp_port", "local_rank", "set", "max_waiting_mins", "start_epoch", "eval_tag", "eval_all"),
    *("ckpt_dir", "save_to_file", "infer_time"),
)
CLASS_NAMES = yaml.safe_load((toys.REPOSITORY / "cfgs/tiny/nsmae_pretrain.yaml").read_text())[
    "CLASS_NAMES"
]
CONFIG = {
    "CLASS_NAMES": CLASS_NAMES,
    "DATA_CONFIG": {
        "_BASE_CONFIG_": str(toys.REPOSITORY / "cfgs/dataset_configs/synthetic_detection.yaml"),
        "CAMERA_CONFIG": {"USE_CAMERA": False},
        "DATA_AUGMENTOR": {"AUG_CONFIG_LIST": []},
        "DATA_PROCESSOR": [
            {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True}
        ],
    },
    "MODEL": {"NAME": "OracleWithHead"},
    "OPTIMIZATION": toys.CONFIG["OPTIMIZATION"],
}


class OracleWithHead(OracleDetector):
    """An oracle that can be trained, counts recalls, and has a head with a row per class."""

    def __init__(self, model_cfg, num_class, dataset):
        super().__init__(model_cfg, num_class, dataset)
        for path in Path(dataset.root_path).glob("nuscenes_infos_*.pkl"):  # of all splits
            self.infos |= {info["token"]: info for info in read_infos(path)}
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.dense_head = nn.Linear(2, num_class)

    def update_global_step(self):
        self.global_step += 1

    def forward(self, batch):
        if self.training:
            # Without a gradient for ``shift``: whatever is trained, the boxes stay right.
            loss = self.dense_head.weight.square().mean() + self.dense_head.bias.square().mean()
            return {"loss": loss}, {}, {}
        assert not torch.is_grad_enabled()
        predictions, _ = super().forward(batch)
        if not torch.isfinite(self.shift).all():
            predictions = predictions[::-1]
        found = sum(len(one["pred_boxes"]) for one in predictions)
        return predictions, {"gt": found, "roi_0.3": 0, "rcnn_0.3": found // 2, "rcnn_0.5": 0}


def register():
    register_all()
    host.register("detector", "OracleWithHead", OracleWithHead)


def tool():
    spec = importlib.util.spec_from_file_location("tools_test", toys.REPOSITORY / "tools/test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tool(*arguments):
    """Run tools/test.py; returns its exit status."""
    original = nsmae_plugin.register
    nsmae_plugin.register = register
    try:
        return tool().main([str(one) for one in arguments])
    finally:
        nsmae_plugin.register = original


@pytest.fixture
def workspace(tmp_path, monkeypatch, synthetic_root):
    """An empty working directory with ``cfgs/group/oracle.yaml``."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    config = {**CONFIG, "DATA_CONFIG": {**CONFIG["DATA_CONFIG"], "DATA_PATH": str(synthetic_root)}}
    path = tmp_path / "cfgs/group/oracle.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path


def run_folder(workspace, tag="default"):
    return workspace / "output/group/oracle" / tag


def save(workspace, epoch=3, shift=(0.0, 0.0, 0.0), classes=10, tag="default", **more):
    """Write the checkpoint of an oracle that is wrong by ``shift`` metres."""
    folder = run_folder(workspace, tag) / "ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "shift": torch.tensor(shift),
        "global_step": torch.tensor([4 * epoch]),
        "dense_head.weight": torch.zeros(classes, 2),
        "dense_head.bias": torch.zeros(classes),
    }
    path = folder / f"checkpoint_epoch_{epoch}.pth"
    checkpoint.write({"epoch": epoch, "it": 4 * epoch, "model_state": state, **more}, path)
    return path


def evaluate(*more):
    return run_tool("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", *more)


def results_folder(workspace, epoch=3, split="val", eval_tag="default"):
    return run_folder(workspace) / f"eval/epoch_{epoch}" / split / eval_tag


def summary(folder):
    return json.loads((folder / "metrics_summary.json").read_text(encoding="utf-8"))


def history(workspace):
    text = (run_folder(workspace) / "eval/metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def scalars(folder):
    """``{tag: [(step, value)]}`` of the TensorBoard files in a folder, in the order of steps."""
    result = {}
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)  # then 4 bytes of checksum
            event = Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length
            for value in event.summary.value:
                result.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {tag: sorted(values) for tag, values in result.items()}


def test_evaluations_within_a_second_all_reach_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file_writer.time, "time", lambda: 1e9)
    history = History(tmp_path, "val", "default")
    for step in (4, 8):
        history.add(1, step, {"mAP": 0.5})
    assert scalars(tmp_path / "tensorboard_val_default") == {"eval/mAP": [(4, 0.5), (8, 0.5)]}


@pytest.mark.parametrize("flag", OPENPCDET_FLAGS)
def test_openpcdets_flags_are_there(flag, capsys):
    with pytest.raises(SystemExit):
        run_tool("--help")
    assert f"--{flag} " in capsys.readouterr().out.replace("]", " ")


def test_the_newest_checkpoint_is_evaluated_into_its_folder(workspace, capsys):
    save(workspace, epoch=1, shift=(9.0, 0.0, 0.0))
    save(workspace, epoch=3)
    assert evaluate("--infer_time", "--save_to_file") == 0
    output = capsys.readouterr().out
    for words in ("mAP: 1.0000", "Per-class results", "AP within", "ms per sample"):
        assert words in output
    assert "recall/rcnn_0.5: 0.0000" in output
    assert "roi_" not in output  # a detector of one stage
    folder = results_folder(workspace)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("results_nusc.json", "metrics_summary.json", "metrics_details.json"),
        *("result.txt", "result.pkl", "final_result"),
    }
    assert summary(folder)["mean_ap"] == pytest.approx(1.0)
    assert len(list((folder / "final_result/data").glob("*.json"))) == 3
    assert len(list((run_folder(workspace) / "eval").glob("log_eval_*.txt"))) == 1

    (record,) = history(workspace)
    expected = {"epoch": 3, "step": 12, "split": "val", "eval_tag": "default"}
    assert expected.items() <= record.items()
    assert record["mAP"] == pytest.approx(1.0)
    assert 0.4 < record["recall/rcnn_0.3"] <= 0.5
    board = scalars(run_folder(workspace) / "eval/tensorboard_val_default")
    assert board["eval/mAP"] == [(12, pytest.approx(1.0))]


def test_worse_boxes_score_lower_and_replace_the_record(workspace):
    path = save(workspace)
    assert evaluate("--ckpt", path) == 0
    save(workspace, shift=(1.5, 0.0, 0.0))
    assert evaluate("--ckpt", path.parent, "--infer_time") == 0
    assert evaluate("--eval_tag", "other") == 0
    # 1.5 m off: not within 0.5 m and 1 m, but within 2 m and 4 m, where neighbours may mix.
    assert 0.3 < summary(results_folder(workspace))["mean_ap"] <= 0.51
    assert [(one["eval_tag"], one["mAP"] < 0.6) for one in history(workspace)] == [
        ("default", True),
        ("other", True),
    ]


def test_the_training_split_can_be_evaluated(workspace):
    save(workspace)
    assert evaluate("--split", "train") == 0
    aps = summary(results_folder(workspace, split="train"))["mean_dist_aps"]
    assert aps["car"] == pytest.approx(1.0)


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
    assert "was trained for the classes traffic_cone, pedestrian" in capsys.readouterr().err
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
    checkpoint.write({"model_state": content["model_state"]}, path)
    assert evaluate() == 0
    assert (run_folder(workspace) / "eval/epoch_no_number/val/default/result.txt").is_file()
    save(workspace, batch_in_epoch=2)
    assert evaluate() == 0
    assert (run_folder(workspace) / "eval/epoch_3_step_12/val/default/result.txt").is_file()


def test_what_cannot_be_evaluated_says_so_before_the_network_runs(workspace, capsys):
    save(workspace)
    assert evaluate("--set", "DATA_CONFIG.DATA_SPLIT.test", "train") == 1
    assert "hold 0 of the 6 samples of the split mini_train" in capsys.readouterr().err
    assert evaluate("--set", "CLASS_NAMES", "['animal']") == 1
    assert "the nuScenes benchmark has no class animal" in capsys.readouterr().err
    assert evaluate("--batch_size", "0") == 1
    pretraining = toys.REPOSITORY / "cfgs/tiny/nsmae_pretrain.yaml"
    assert run_tool("--cfg_file", pretraining) == 1
    assert "tools/evaluate_pretrain.py" in capsys.readouterr().err
    assert run_tool("--cfg_file", toys.write_config(workspace)) == 1
    assert "DATA_CONFIG has no DATA_SPLIT" in capsys.readouterr().err


def test_a_broken_network_names_a_sample(workspace, capsys):
    save(workspace, shift=(float("nan"), 0.0, 0.0))
    (results_folder(workspace)).mkdir(parents=True)
    (results_folder(workspace) / "result.txt").write_text("of an earlier evaluation")
    assert evaluate() == 1
    assert "is NaN or infinite" in capsys.readouterr().err
    assert not (results_folder(workspace) / "result.txt").exists()


def test_a_results_file_is_scored_without_a_network(workspace, capsys):
    save(workspace)
    assert evaluate() == 0
    results = results_folder(workspace) / "results_nusc.json"
    capsys.readouterr()
    assert evaluate("--results", results) == 0
    assert "mAP: 1.0000" in capsys.readouterr().out
    content = json.loads(results.read_text(encoding="utf-8"))
    lost = sorted(content["results"])[1]
    del content["results"][lost]
    results.write_text(json.dumps(content), encoding="utf-8")
    assert evaluate("--results", results) == 1
    message = capsys.readouterr().err
    assert "results_nusc.json holds 2 of the 3 samples" in message
    assert lost in message


def start_two_processes(workspace, *more):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    arguments = ("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", *more)
    options = ("--launcher", "pytorch", "--device", "cpu", "--batch_size", "4")
    return subprocess.run(
        [sys.executable, *torchrun, __file__, *arguments, *options],
        cwd=workspace,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(toys.REPOSITORY)},
        capture_output=True,
        text=True,
    )


def test_two_processes_see_every_sample_once(workspace):
    save(workspace, shift=(0.3, 0.0, 0.0))
    assert evaluate("--eval_tag", "one") == 0
    outcome = start_two_processes(workspace, "--eval_tag", "two", "--save_to_file")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("Per-class results") == 1
    one, two = (
        json.loads((results_folder(workspace, eval_tag=tag) / "results_nusc.json").read_text())
        for tag in ("one", "two")
    )
    assert one == two
    assert len(two["results"]) == 3  # an odd number: nothing is repeated to fill up
    first, second = history(workspace)
    assert first["mAP"] == second["mAP"]
    assert first["recall/rcnn_0.5"] == second["recall/rcnn_0.5"] == 0
    files = results_folder(workspace, eval_tag="two") / "final_result/data"
    assert len(list(files.iterdir())) == 3


def test_two_processes_fail_together(workspace):
    save(workspace, shift=(float("nan"), 0.0, 0.0))
    outcome = start_two_processes(workspace)
    assert outcome.returncode != 0
    assert outcome.stderr.count("error: a predicted box of sample") == 2


def test_training_evaluates_a_detector(workspace, capsys, monkeypatch):
    monkeypatch.setattr(nsmae_plugin, "register", register)
    arguments = ("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", "--seed", "1")
    arguments += ("--epochs", "2", "--extra_tag", "trained")
    assert toys.train(*arguments, register_toys=False) == 0
    folder = run_folder(workspace, "trained")
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    tests = [one for one in map(json.loads, text.splitlines()) if one["split"] == "test"]
    assert [(one["epoch"], round(one["mAP"], 6)) for one in tests] == [(1, 1.0), (2, 1.0)]
    assert (folder / "eval/eval_with_train/val/results_nusc.json").is_file()
    assert "Per-class results" in capsys.readouterr().out
    assert evaluate("--extra_tag", "trained") == 0
    assert (folder / "eval/epoch_2/val/default/result.txt").is_file()
    # What could not be evaluated stops before anything is trained.
    wrong = ("--set", "DATA_CONFIG.DATA_SPLIT.test", "train")
    assert toys.train(*arguments[:-1], "wrong", *wrong, register_toys=False) == 1
    assert not list((run_folder(workspace, "wrong") / "ckpt").iterdir())


@pytest.mark.openpcdet
@pytest.mark.skipif(host.NAME != "openpcdet", reason="the data set is OpenPCDet's")
def test_openpcdets_own_data_set_is_evaluated(workspace, capsys):
    save(workspace)
    own = ("--set", "DATA_CONFIG.DATASET", "NuScenesDataset")
    assert evaluate(*own) == 0
    assert summary(results_folder(workspace))["mean_ap"] == pytest.approx(1.0)
    assert history(workspace)[0]["mAP"] == pytest.approx(1.0)
    assert evaluate("--split", "train", *own) == 1
    assert "evaluates the validation split only" in capsys.readouterr().err


if __name__ == "__main__":
    sys.exit(run_tool(*sys.argv[1:]))
