"""A network scores the same by our training, by our tools/test.py and inside OpenPCDet.

Its scripts are unmodified, the configurations are those of the project as they are. Every process
reads one sample at a time, so that all compute the same numbers, to the last bit.
"""

import json
import pickle

import numpy as np
import pytest
import torch

import nsmae_plugin
import tools.test
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.training import checkpoint
from tests.helpers.paths import REPOSITORY
from tests.helpers.programs import TORCHRUN, run_python
from tests.helpers.stock_scripts import start
from tests.helpers.tensorboard import scalars
from tests.runs.test_visualize import SMALL_CAMERA

# Both sides run inside OpenPCDet.
pytestmark = [pytest.mark.openpcdet, pytest.mark.usefixtures("openpcdet_host")]

SUMMARIES = ("reconstruction_metrics.json", "map_metrics.json", "metrics_summary.json")
TIMES = ("eval_time",)  # of the devkit


def recipe(name):
    return f"cfgs/tiny/{name}.yaml"


@pytest.fixture
def overrides(synthetic_root):
    return ["--set", "DATA_CONFIG.DATA_PATH", synthetic_root, *SMALL_CAMERA]


def train_in_two_processes(name, folder, *arguments):
    """Run our training into ``folder``."""
    command = [*TORCHRUN, "tools/train.py", "--launcher", "pytorch", "--batch_size", 2]
    outcome = run_python(*command, *options(name, folder), *arguments, PYTHONWARNINGS="ignore")
    assert outcome.returncode == 0, outcome.stderr[-2000:]


def evaluate(name, folder, *arguments):
    """Run our evaluation into ``folder``."""
    given = ["--batch_size", 1, *options(name, folder), *arguments]
    assert tools.test.main([str(one) for one in given]) == 0


def options(name, folder):
    names = ["--cfg_file", REPOSITORY / recipe(name), "--output_dir", folder]
    return [*names, "--workers", 0, "--device", "cpu"]


def stock(script, name, root, *arguments, processes=1):
    """Run one of OpenPCDet's tools in its copy at ``root``; returns what it printed."""
    launched = ["--launcher", "pytorch"] if processes > 1 else []
    given = ["--cfg_file", recipe(name), "--workers", 0, "--batch_size", processes, *launched]
    outcome = start([f"tools/{script}.py", *given, *arguments], root, processes=processes)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    return outcome.stdout + outcome.stderr


def summaries(folder):
    """The numbers that the dataset's evaluation has written into a folder."""
    found = {
        name: json.loads((folder / name).read_text(encoding="utf-8"))
        for name in SUMMARIES
        if (folder / name).exists()
    }
    assert found
    return {
        name: {key: value for key, value in content.items() if key not in TIMES}
        for name, content in found.items()
    }


def annotations(folder):
    return pickle.loads((folder / "result.pkl").read_bytes())


def assert_same(one, other):
    """Annotations of two evaluations, every number of them."""
    np.testing.assert_equal(one, other)


def last_record(folder, split="test"):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [one for one in map(json.loads, lines) if one["split"] == split]
    left_out = ("epoch", "step", "split", "eval_tag")
    return {key: value for key, value in records[-1].items() if key not in left_out}


def test_a_pretraining_network_scores_the_same_wherever_it_is_evaluated(
    overrides, openpcdet_copy, tmp_path
):
    name, run = "nsmae_pretrain", tmp_path / "tiny/nsmae_pretrain/default"
    train_in_two_processes(name, tmp_path, "--epochs", 1, "--seed", 1, *overrides)
    trained = run / "ckpt/checkpoint_epoch_1.pth"
    evaluate(name, tmp_path, *overrides)
    assert last_record(run) == pytest.approx(last_record(run / "eval", "val"), rel=1e-12)

    flags = ("--eval_tag", "two", "--save_to_file", "--infer_time", "--ckpt", trained)
    log = stock("test", name, openpcdet_copy, *flags, *overrides, processes=2)
    assert "colour PSNR, hidden patches (dB)" in log
    mine, theirs = (
        run / "eval/epoch_1/val/default",
        openpcdet_copy / "output/tiny/nsmae_pretrain/default/eval/epoch_1/val/two",
    )
    # Three samples in two processes: one is read twice, and counted once.
    assert_same(annotations(mine), annotations(theirs))
    assert summaries(theirs / "final_result/data") == summaries(mine)
    assert len(list((theirs / "final_result/data").glob("*.npz"))) == 3


def unlike_any_initialisation(name, overrides, path):
    """Write a checkpoint whose network is undecided about every cell of the map."""
    nsmae_plugin.register()
    config = load_config(REPOSITORY / recipe(name), list(map(str, overrides[1:])))
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, False)
    torch.manual_seed(0)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)
    torch.nn.init.zeros_(model.map_head.classifier[-1].bias)
    checkpoint.write({"epoch": 0, "it": 0, "model_state": model.state_dict()}, path)


def test_a_network_for_boxes_and_maps_scores_the_same_wherever_it_is_evaluated(
    overrides, openpcdet_copy, tmp_path
):
    name, run = "bevfusion_multitask", tmp_path / "tiny/bevfusion_multitask/default"
    weights = tmp_path / "undecided.pth"
    unlike_any_initialisation(name, overrides, weights)
    begin = ("--pretrained_model", weights, "--epochs", 1)
    train_in_two_processes(name, tmp_path, *begin, "--seed", 1, *overrides)
    evaluate(name, tmp_path, *overrides)
    assert_same(last_record(run), last_record(run / "eval", "val"))
    mine = run / "eval/epoch_1/val/default"
    assert_same(annotations(run / "eval/eval_with_train/val"), annotations(mine))
    assert summaries(mine)["map_metrics.json"]["mean_iou"] > 0.05  # of maps at random

    stock("test", name, openpcdet_copy, "--ckpt", run / "ckpt/checkpoint_epoch_1.pth", *overrides)
    theirs = openpcdet_copy / "output/tiny/bevfusion_multitask/default/eval/epoch_1/val/default"
    assert_same(annotations(mine), annotations(theirs))
    assert_same(summaries(theirs / "final_result/data"), summaries(mine))


def test_what_openpcdet_has_trained_scores_the_same_in_our_tools(
    overrides, openpcdet_copy, tmp_path
):
    """Its evaluation after a training in two processes, into its TensorBoard log as well."""
    name, overrides = "nsmae_pretrain_lidar", overrides[:3]
    more = ("--epochs", 1, "--num_epochs_to_eval", 1, "--fix_random_seed", "--extra_tag", "two")
    stock("train", name, openpcdet_copy, *more, *overrides, processes=2)
    run = openpcdet_copy / "output/tiny/nsmae_pretrain_lidar/two"
    evaluate(name, tmp_path, "--ckpt", run / "ckpt/checkpoint_epoch_1.pth", *overrides)
    mine = tmp_path / "tiny/nsmae_pretrain_lidar/default/eval/epoch_1/val/default"
    assert_same(annotations(run / "eval/eval_with_train/epoch_1/val"), annotations(mine))
    error = summaries(mine)["reconstruction_metrics.json"]["bev_depth_mae_hidden"]
    board = scalars(run / "eval/eval_with_train/tensorboard_val")
    assert board["bev_depth_mae_hidden"] == [(1, pytest.approx(error))]
