"""OpenPCDet's own ``tools/train.py`` trains the configurations of cfgs/tiny as they are.

Three optimiser steps each, the fewest that its one-cycle schedule takes, and an evaluation.
"""

import re

import pytest
import torch

from tests.helpers.stock_scripts import start

pytestmark = [pytest.mark.openpcdet, pytest.mark.usefixtures("openpcdet_host")]

STEPS = 3
# Parameters beside child modules: of Swin's windows, and of the attention in TransFusion's decoder.
LEFT_OUT = ("relative_position_bias_table", "in_proj_weight", "in_proj_bias")


@pytest.fixture(scope="module")
def train(openpcdet_copy, data):
    """A function that trains and evaluates; returns what was printed and the last checkpoint."""

    def run(name, tag, *options, processes=1, epochs=1):
        frames = "three_frames" if processes == 1 else "nuscenes_infos_3sweeps_train"
        outcome = start(
            ["tools/train.py", "--cfg_file", f"cfgs/tiny/{name}.yaml", "--extra_tag", tag]
            + ["--epochs", epochs, "--batch_size", processes, "--workers", 0, *options]
            + ["--launcher", "pytorch" if processes > 1 else "none", "--num_epochs_to_eval", 1]
            + ["--set", "DATA_CONFIG.DATA_PATH", data]
            + ["DATA_CONFIG.INFO_PATH.train", f"['{frames}.pkl']"],
            openpcdet_copy,
            processes=processes,
        )
        log = outcome.stdout + outcome.stderr
        assert outcome.returncode == 0, log[-3000:]
        assert f"Epoch {epochs} has been evaluated" in log
        path = openpcdet_copy / f"output/tiny/{name}/{tag}/ckpt/checkpoint_epoch_{epochs}.pth"
        return log, torch.load(path, weights_only=False)

    return run


def check_steps(log, checkpoint, steps=STEPS):
    """Check that every parameter has taken all steps, except those that OpenPCDet leaves out."""
    assert checkpoint["it"] == steps
    state = checkpoint["optimizer_state"]["state"].values()
    assert {int(one["step"]) for one in state} == {steps}
    weights = checkpoint["model_state"]
    assert all(torch.isfinite(one).all() for one in weights.values())
    assert int(weights["global_step"]) == steps
    told = re.search(r"leaves out (\d+) parameters \(\d+ values\)", log)
    left_out = [key for key in weights if key.endswith(LEFT_OUT)]
    assert (int(told[1]) if told else 0) == len(left_out)
    counters = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    counters += ("global_step",)
    trained = [key for key in weights if not key.endswith(counters)]
    assert len(state) == len(trained) - len(left_out)


@pytest.mark.parametrize(
    "name", ["nsmae_pretrain", "nsmae_pretrain_camera", "bevfusion_map", "bevfusion_det"]
)
def test_a_configuration_is_trained_and_evaluated_as_it_is(name, train):
    check_steps(*train(name, "one"))


@pytest.mark.parametrize("name", ["nsmae_pretrain", "bevfusion_multitask"])
def test_two_processes_train_and_evaluate(name, train):
    log, checkpoint = train(name, "two", processes=2)
    assert "Training in distributed mode : total_batch_size: 2" in log
    check_steps(log, checkpoint)


def test_a_run_is_resumed_from_its_newest_or_a_named_checkpoint(train, openpcdet_copy):
    """With a fixed seed both come to the same weights."""
    name = "nsmae_pretrain_lidar"
    check_steps(*train(name, "again", "--fix_random_seed"))
    log, newest = train(name, "again", "--fix_random_seed", epochs=2)
    assert re.search(r"Loading optimizer parameters from .*again/ckpt/checkpoint_epoch_1\.pth", log)
    check_steps(log, newest, steps=2 * STEPS)
    first = openpcdet_copy / f"output/tiny/{name}/again/ckpt/checkpoint_epoch_1.pth"
    log, named = train(name, "named", "--fix_random_seed", "--ckpt", first, epochs=2)
    check_steps(log, named, steps=2 * STEPS)
    for key, value in newest["model_state"].items():
        assert torch.equal(value, named["model_state"][key]), key


def test_epochs_are_merged_and_mixed_precision_is_off_without_a_device(train):
    options = ("--merge_all_iters_to_one_epoch", "--use_amp")
    log, checkpoint = train("nsmae_pretrain_lidar", "merged", *options, epochs=2)
    check_steps(log, checkpoint, steps=2 * STEPS)
