"""tools/train.py: OpenPCDet's flags and folders, and a run that can be killed at any moment."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime import files
from nsmae_plugin.training import checkpoint
from tests.helpers import toys
from tests.helpers.paths import TINY
from tests.helpers.programs import TORCHRUN, TOYS, environment_of_a_program, run_python

OPENPCDET_FLAGS = (
    *("cfg_file", "batch_size", "epochs", "workers", "extra_tag", "ckpt", "pretrained_model"),
    *("launcher", "tcp_port", "sync_bn", "fix_random_seed", "ckpt_save_interval", "local_rank"),
    *("max_ckpt_save_num", "logger_iter_interval", "ckpt_save_time_interval", "use_amp", "set"),
)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty working directory with ``cfgs/group/toy.yaml``."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "TOY_KILL_AT", "TOY_NAN_AT"):
        monkeypatch.delenv(name, raising=False)
    toys.write_config(tmp_path)
    return tmp_path


def arguments(tag, *more):
    return ["--cfg_file", "cfgs/group/toy.yaml", "--workers", "0", "--extra_tag", tag, *more]


def train(tag, *more):
    return toys.train(*arguments(tag, *more))


def start_process(workspace, *words, **environment):
    """Run a program in a process of its own; returns its exit status.

    Its output is not captured: the pipe would stay open as long as a loader process of it lives.
    """
    variables = environment_of_a_program() | environment
    return subprocess.run([sys.executable, *words], cwd=workspace, env=variables).returncode


def folder(workspace, tag):
    return workspace / "output/group/toy" / tag


def last_content(workspace, tag):
    return checkpoint.read(checkpoint.find(folder(workspace, tag) / "ckpt"))


def records(workspace, tag):
    text = (folder(workspace, tag) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_same(one, other):
    """The same weights, optimiser state and schedule to the last bit."""
    assert (one["epoch"], one["it"]) == (other["epoch"], other["it"])
    for name, value in one["model_state"].items():
        assert torch.equal(value, other["model_state"][name]), name
    for key, state in one["optimizer_state"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, other["optimizer_state"]["state"][key][name]), (key, name)
    assert one["scheduler_state"] == other["scheduler_state"]


def test_the_folder_is_laid_out_as_openpcdets(workspace):
    assert train("a", "--seed", "1", "--max_ckpt_save_num", "2") == 0
    names = {path.name for path in folder(workspace, "a").iterdir()}
    assert {"ckpt", "tensorboard", "metrics.jsonl", "toy.yaml"} <= names
    assert len([name for name in names if name.startswith("train_")]) == 1
    kept = sorted(path.name for path in (folder(workspace, "a") / "ckpt").iterdir())
    assert kept == ["checkpoint_epoch_2.pth", "checkpoint_epoch_3.pth"]
    assert [one["step"] for one in records(workspace, "a")] == [5, 10, 15]


@pytest.mark.parametrize("flag", OPENPCDET_FLAGS)
def test_openpcdets_flags_are_there(flag, capsys):
    with pytest.raises(SystemExit):
        toys.train("--help")
    assert f"--{flag} " in capsys.readouterr().out.replace("]", " ")


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(workspace):
    options = ("--seed", "1", "--ckpt_save_step_interval", "3")
    assert train("whole", *options) == 0
    status = start_process(workspace, *TOYS, *arguments("killed", *options), TOY_KILL_AT="8")
    assert status == -signal.SIGKILL
    content = last_content(workspace, "killed")
    assert (content["it"], content["batch_in_epoch"]) == (6, 1)  # in the middle of epoch 2
    # Without a seed, and with another number of workers: both follow from the checkpoint.
    assert toys.train(*arguments("killed")[:2], "--workers", "1", "--extra_tag", "killed") == 0
    assert_same(last_content(workspace, "killed"), last_content(workspace, "whole"))
    whole, killed = records(workspace, "whole"), records(workspace, "killed")
    assert [one["step"] for one in killed] == [one["step"] for one in whole]
    assert killed[-1] == whole[-1]


def in_one_of_two_processes(rank, ports, runs):
    for port, words in zip(ports, runs, strict=True):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        assert toys.train(*words) == 0


def test_two_processes_stopped_and_resumed_end_as_if_never_stopped(workspace):
    options = ("--launcher", "pytorch", "--device", "cpu", "--batch_size", "4", "--seed", "1")
    assert start_process(workspace, *TORCHRUN, *TOYS, *arguments("whole", *options)) == 0
    runs = [arguments("stopped", *options, "--max_steps", "4"), arguments("stopped", *options)]
    ports = [toys.free_port(), toys.free_port()]
    torch.multiprocessing.spawn(in_one_of_two_processes, args=(ports, runs), nprocs=2)
    # 10 samples for 2 processes with 2 each: 3 batches an epoch, so 4 steps end within epoch 2.
    content = checkpoint.read(folder(workspace, "stopped") / "ckpt/latest_model.pth")
    assert (content["it"], content["epoch"], content["batch_in_epoch"]) == (4, 1, 1)
    assert content["plan"]["world_size"] == len(content["random_states"]) == 2
    assert_same(last_content(workspace, "stopped"), last_content(workspace, "whole"))


def test_an_unreadable_checkpoint_is_an_error_and_nothing_starts_again(workspace, capsys):
    assert train("a", "--seed", "1", "--max_steps", "7") == 0
    path = checkpoint.find(folder(workspace, "a") / "ckpt")
    path.write_bytes(path.read_bytes()[:1000])
    before = records(workspace, "a")
    assert train("a") == 1
    message = capsys.readouterr().err
    assert "error: cannot read the checkpoint" in message
    assert path.name in message
    logs = [one.read_text() for one in sorted(folder(workspace, "a").glob("train_*.log"))]
    assert message.strip() in logs[-1]
    assert path.stat().st_size == 1000
    assert records(workspace, "a") == before


def test_a_changed_plan_is_an_error(workspace, capsys):
    assert train("a", "--seed", "1", "--max_steps", "7") == 0
    assert train("a", "--epochs", "5") == 1
    assert "epochs 3 -> 5" in capsys.readouterr().err


def test_a_finished_run_says_so(workspace, capsys):
    assert train("a", "--seed", "1") == 0
    before = last_content(workspace, "a")
    assert train("a") == 0
    output = capsys.readouterr().out
    assert "RESUMED from" in output
    assert "nothing left to train" in output
    assert_same(last_content(workspace, "a"), before)


def test_pretrained_weights_start_a_run_and_never_change_an_earlier_one(workspace, capsys):
    assert train("a", "--seed", "1") == 0
    weights = folder(workspace, "a") / "ckpt"
    assert train("a", "--pretrained_model", str(weights)) == 1
    assert "another --extra_tag" in capsys.readouterr().err
    assert train("b", "--seed", "2", "--pretrained_model", str(weights), "--max_steps", "1") == 0
    loaded = last_content(workspace, "b")["model_state"]
    trained = last_content(workspace, "a")["model_state"]
    assert (loaded["head.weight"] - trained["head.weight"]).abs().max() < 0.01  # one small step
    assert int(loaded["global_step"]) == 1
    # The same command again, as a scheduler gives it: the run goes on, the weights are not loaded.
    assert train("b", "--pretrained_model", str(weights), "--max_steps", "2") == 0
    assert train("b", "--max_steps", "3") == 0
    assert train("b", "--pretrained_model", str(weights)) == 0
    assert last_content(workspace, "b")["it"] == 15
    other = folder(workspace, "b") / "ckpt"
    assert train("b", "--pretrained_model", str(other)) == 1


def test_a_non_finite_loss_ends_with_a_message(workspace, capsys, monkeypatch):
    monkeypatch.setenv("TOY_NAN_AT", "6")
    assert train("a", "--seed", "1") == 1
    message = capsys.readouterr().err
    assert "loss_fit=nan for the samples frame" in message
    assert "checkpoint_epoch_1.pth" in message


def test_the_seed_decides_the_run(workspace):
    for tag, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert train(tag, "--seed", seed, "--max_steps", "3") == 0
    same = last_content(workspace, "a")["model_state"]["head.weight"]
    assert torch.equal(same, last_content(workspace, "b")["model_state"]["head.weight"])
    assert not torch.equal(same, last_content(workspace, "c")["model_state"]["head.weight"])
    assert train("d", "--fix_random_seed", "--max_steps", "1") == 0
    assert last_content(workspace, "d")["plan"]["seed"] == 666


def test_options_reach_the_run(workspace, capsys):
    options = ("--batch_size", "1", "--accumulate_steps", "4", "--epochs", "2", "--use_amp")
    assert train("a", *options, "--seed", "1", "--set", "OPTIMIZATION.LR", "0.5") == 0
    output = capsys.readouterr().out
    assert "effective batch 4 = 1 per process x 1 processes x 4 accumulated" in output
    assert "2 epochs x 3 steps = 6 steps" in output
    assert "learning rate now 0.05" in output
    content = last_content(workspace, "a")
    assert content["plan"]["accumulate_steps"] == 4
    assert "LR: 0.5" in (folder(workspace, "a") / "toy.yaml").read_text(encoding="utf-8")


def test_bad_arguments_are_named(workspace, capsys):
    assert train("a", "--set", "OPTIMIZATION.LRR", "1") == 1
    assert "did you mean LR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train("a", "--epochs", "0")
    assert "--epochs" in capsys.readouterr().err
    assert train("a", "--set", "OPTIMIZATION.ACCUMULATE_STEPS", "0", "--seed", "1") == 1


def test_pretraining_on_the_synthetic_dataset_resumes_exactly_and_is_evaluated(
    tmp_path, monkeypatch, synthetic_root
):
    """The tiny recipe as its README command starts it, on whichever host is active."""
    monkeypatch.chdir(tmp_path)

    def pretrain(tag, *more):
        recipe = TINY / "nsmae_pretrain.yaml"
        options = ("--cfg_file", recipe, "--extra_tag", tag, "--workers", "0", "--seed", "1")
        data = ("--epochs", "1", *more, "--set", "DATA_CONFIG.DATA_PATH", str(synthetic_root))
        return toys.train(*options, *data)

    def content(tag):
        return checkpoint.read(
            checkpoint.find(tmp_path / "output/tiny/nsmae_pretrain" / tag / "ckpt")
        )

    assert pretrain("whole") == 0
    assert pretrain("parts", "--max_steps", "2") == 0
    assert content("parts")["batch_in_epoch"] == 2
    assert pretrain("parts") == 0
    assert content("whole")["it"] == 3  # 6 samples in pairs
    assert_same(content("parts"), content("whole"))

    lines = (tmp_path / "output/tiny/nsmae_pretrain/whole/metrics.jsonl").read_text(
        encoding="utf-8"
    )
    training, test = map(json.loads, lines.splitlines())
    assert {"loss", "loss_rgb", "loss_depth", "loss_bev_depth", "weighted_rgb"} <= training.keys()
    assert (test["split"], test["step"], test["samples"]) == ("test", 3, 3)
    assert {"rgb_psnr_masked", "depth_mae_hidden", "bev_depth_mae_hidden"} <= test.keys()


def test_another_learning_rate_takes_effect_at_a_resume_and_is_logged(workspace, capsys):
    assert train("a", "--seed", "1", "--max_steps", "7") == 0
    for tag in ("same", "other"):
        shutil.copytree(folder(workspace, "a"), folder(workspace, tag))
    capsys.readouterr()
    assert train("same") == 0
    assert "changed since" not in capsys.readouterr().out
    rates = ("--set", "OPTIMIZATION.LR", "0.02", "OPTIMIZATION.WEIGHT_DECAY", "0.5")
    assert (
        train("other", *rates, "OPTIMIZATION.GRAD_NORM_CLIP", "1", "DATA_CONFIG.LENGTH", "10") == 0
    )
    output = capsys.readouterr().out
    assert "changed since latest_model.pth: OPTIMIZATION.LR 0.01 -> 0.02" in output
    assert "OPTIMIZATION.WEIGHT_DECAY 0.01 -> 0.5" in output
    assert "OPTIMIZATION.GRAD_NORM_CLIP 35 -> 1" in output
    same, other = (last_content(workspace, tag)["optimizer_state"] for tag in ("same", "other"))
    (old,), (new,) = same["param_groups"], other["param_groups"]
    assert new["lr"] == pytest.approx(2 * old["lr"])
    assert (old["weight_decay"], new["weight_decay"]) == (0.01, 0.5)
    assert old["betas"] == new["betas"]


def test_a_run_that_follows_its_evaluations_resumes_exactly(workspace, monkeypatch, capsys):
    monkeypatch.setenv("TOY_EVALUATE", "1")
    # The error falls: the first of two evaluations is the largest.
    by = "{'METRIC': 'error', 'MODE': 'max', 'PATIENCE': 1}"
    stopping = ("--set", "OPTIMIZATION.EARLY_STOPPING", by)
    assert train("whole", "--seed", "1", *stopping) == 0
    assert train("parts", "--seed", "1", "--max_steps", "7", *stopping) == 0
    assert last_content(workspace, "parts")["early_stopping"]["step"] == 5
    assert train("parts", *stopping) == 0
    assert last_content(workspace, "parts")["epoch"] == 2
    assert_same(last_content(workspace, "parts"), last_content(workspace, "whole"))
    best = [folder(workspace, tag) / "ckpt/checkpoint_best.pth" for tag in ("parts", "whole")]
    assert_same(*map(checkpoint.read, best))
    capsys.readouterr()
    assert train("parts", "--set", "OPTIMIZATION.EARLY_STOPPING", by.replace("max", "min")) == 0
    assert "the best is found anew" in capsys.readouterr().out


def test_a_run_with_frozen_layers_resumes_exactly_and_cannot_thaw_them(workspace, capsys):
    frozen = ("--set", "OPTIMIZATION.FREEZE", "['BODY']")
    decay = ("OPTIMIZATION.LAYER_DECAY", "{'HEAD': 0.5}")
    assert train("whole", "--seed", "1", *frozen, *decay) == 0
    assert train("parts", "--seed", "1", "--max_steps", "7", *frozen, *decay) == 0
    assert train("parts", *frozen, *decay) == 0
    assert_same(last_content(workspace, "parts"), last_content(workspace, "whole"))
    capsys.readouterr()
    for words, change in (
        (frozen, "LAYER_DECAY.HEAD 0.5 -> absent"),
        (("--set", *decay), r"FREEZE ['BODY'] -> []"),
    ):
        assert train("parts", *words) == 1
        message = capsys.readouterr().err
        assert f"(OPTIMIZATION.{change}) that a run cannot change when it resumes; " in message
        assert "start a new run from its weights with --pretrained_model" in message


def test_a_refused_resume_leaves_the_record_of_the_run_alone(workspace, capsys):
    assert train("a", "--seed", "1", "--max_steps", "7") == 0
    record = folder(workspace, "a") / "toy.yaml"
    before = record.read_text(encoding="utf-8")
    assert train("a", "--set", "CLASS_NAMES", "['bus']") == 1
    assert "CLASS_NAMES ['car'] -> ['bus']" in capsys.readouterr().err
    assert train("a", "--epochs", "9", "--set", "OPTIMIZATION.LR", "0.5") == 1
    assert record.read_text(encoding="utf-8") == before
    assert train("a", "--set", "OPTIMIZATION.LR", "0.5") == 0
    assert "LR: 0.5" in record.read_text(encoding="utf-8")


def test_another_precision_is_logged_at_a_resume(workspace, capsys):
    assert train("a", "--seed", "1", "--max_steps", "7", "--use_amp", "--amp_dtype", "float16") == 0
    assert train("a", "--max_steps", "8") == 0
    assert "precision float16 -> float32" in capsys.readouterr().out
    assert train("a", "--use_amp", "--amp_dtype", "float16") == 0
    assert "precision float32 -> float16" in capsys.readouterr().out


def test_an_evaluation_that_was_killed_is_repeated_and_one_that_was_not_is_not(
    workspace, monkeypatch, capsys
):
    monkeypatch.setenv("TOY_EVALUATE", "1")
    assert train("whole", "--seed", "1") == 0

    original = toys.evaluate

    def evaluate(model):
        if int(model.global_step) == 10:
            raise DataError("killed")
        return original(model)

    monkeypatch.setattr(toys, "evaluate", evaluate)
    assert train("killed", "--seed", "1") == 1
    assert [one["step"] for one in records(workspace, "killed") if one["split"] == "test"] == [5]
    monkeypatch.setattr(toys, "evaluate", original)
    capsys.readouterr()
    assert train("killed") == 0
    assert "evaluating epoch 2: no evaluation is recorded" in capsys.readouterr().out
    assert records(workspace, "killed") == records(workspace, "whole")
    assert_same(last_content(workspace, "killed"), last_content(workspace, "whole"))
    assert train("killed") == 0
    assert "no evaluation is recorded" not in capsys.readouterr().out
    assert records(workspace, "killed") == records(workspace, "whole")


def test_trainings_killed_at_random_moments_end_as_if_never_killed(tmp_path):
    """The short form: ``python -m tests.helpers.kill_runs 100`` kills a hundred."""
    found = run_python("-m", "tests.helpers.kill_runs", "8")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 ended differently" in found.stdout


def test_a_second_run_in_the_same_folder_is_refused(workspace, capsys):
    with files.held(make(folder(workspace, "a")) / ".lock", "unused"):
        assert train("a", "--seed", "1") == 1
        message = capsys.readouterr().err
        assert message.startswith("error: another process is training in output/group/toy/a, ")
        assert "--extra_tag" in message
        assert train("b", "--seed", "1", "--max_steps", "1") == 0
    assert train("a", "--seed", "1", "--max_steps", "1") == 0
    assert train("a", "--seed", "1", "--max_steps", "2") == 0


def make(path):
    path.mkdir(parents=True)
    return path


def test_the_lock_of_a_killed_run_is_free_at_once_although_its_loader_process_lives_on(workspace):
    words = ["--cfg_file", "cfgs/group/toy.yaml", "--workers", "1", "--extra_tag", "a"]
    assert start_process(workspace, *TOYS, *words, TOY_KILL_AT="1") == -signal.SIGKILL
    assert train("a", "--seed", "1", "--max_steps", "1") == 0
