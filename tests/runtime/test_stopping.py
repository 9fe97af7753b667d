"""Ctrl-C and SIGTERM: nothing is lost, one line says how to go on, and nothing is a traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nsmae_plugin.runtime import stopping
from nsmae_plugin.runtime.command_line import command_to_resume, errors_in_one_line
from tests.helpers import toys
from tests.helpers.programs import TORCHRUN, TOYS, environment_of_a_program, run_python
from tests.runs.test_train import arguments, assert_same, folder, last_content, train, workspace  # noqa: F401


def log_of(workspace, tag):  # noqa: F811
    (path,) = folder(workspace, tag).glob("train_*.log")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("signum", "name", "status"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_a_training_saves_at_the_step_says_command_to_resume_and_loses_nothing(
    workspace,  # noqa: F811
    monkeypatch,
    capsys,
    signum,
    name,
    status,
):
    assert train("whole", "--seed", "1") == 0
    monkeypatch.setenv("TOY_SIGNAL_AT", f"6:{signum:d}")  # in the second epoch
    assert train("stopped", "--seed", "1") == status
    monkeypatch.delenv("TOY_SIGNAL_AT")
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"stopped by {name} at step 7, saved ")
    assert "latest_model.pth; to go on: python " in message
    assert "\n" not in message
    assert message in log_of(workspace, "stopped")
    assert last_content(workspace, "stopped")["it"] == 7
    assert train("stopped") == 0
    assert_same(last_content(workspace, "stopped"), last_content(workspace, "whole"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_in_the_last_step_of_an_epoch_ends_the_run_before_its_evaluation(
    workspace,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setenv("TOY_SIGNAL_AT", f"4:{signal.SIGTERM:d}")
    assert train("a", "--seed", "1") == 143
    content = last_content(workspace, "a")
    assert (content["epoch"], content["batch_in_epoch"], content["it"]) == (1, 0, 5)


def test_two_processes_stop_together_when_one_is_asked_to(workspace):  # noqa: F811
    options = ("--launcher", "pytorch", "--device", "cpu", "--batch_size", "4", "--seed", "1")
    words = [*TORCHRUN, *TOYS, *arguments("a", *options)]
    found = run_python(*words, cwd=workspace, TOY_SIGNAL_AT=f"4:{signal.SIGTERM:d}")
    assert found.returncode != 0
    assert found.stderr.count("stopped by SIGTERM at step 5") == 1
    assert 'toys.py", line' not in found.stderr  # no traceback but that of torchrun
    content = last_content(workspace, "a")
    assert (content["it"], len(content["random_states"])) == (5, 2)


def test_processes_of_the_loader_outlive_a_signal_for_the_whole_job(workspace):  # noqa: F811
    words = [
        "--cfg_file",
        "cfgs/group/toy.yaml",
        "--workers",
        "2",
        "--seed",
        "1",
        "--epochs",
        "900",
    ]
    process = subprocess.Popen(
        [sys.executable, *TOYS, *words, "--ckpt_save_interval", "900"],
        cwd=workspace,
        env=environment_of_a_program(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if "step 10/" in line:
            break
    os.killpg(process.pid, signal.SIGTERM)  # all processes of the job, as Slurm does
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert "stopped by SIGTERM at step" in output
    assert "Traceback" not in output


def test_other_tools_end_at_once_and_clean_up():
    cleaned = []

    @errors_in_one_line
    def tool():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            cleaned.append(True)

    assert tool() == 143
    assert cleaned == [True]


def test_a_second_ctrl_c_is_a_hurry_but_not_that_of_a_launcher():
    with stopping.signals_caught():
        with stopping.deferred(launched=True):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        with stopping.deferred(), pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGINT)
    with stopping.signals_caught(), stopping.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(stopping.Stopped), stopping.at_once():
            pass


def test_the_command_that_goes_on_starts_from_the_runs_own_checkpoints(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    words = ["tools/train.py", "--cfg_file", "a b.yaml", "--pretrained_model", "w.pth", "--ckpt=c"]
    words += ["--set", "OPTIMIZATION.LR", "1"]
    rest = "tools/train.py --cfg_file 'a b.yaml' --set OPTIMIZATION.LR 1"
    assert command_to_resume("none", words) == f"python {rest}"
    assert command_to_resume("slurm", words) == f"srun python {rest}"
    assert command_to_resume("pytorch", words) == f"torchrun --nproc_per_node 1 {rest}"


def test_the_command_that_goes_on_is_nsmae_where_that_began(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    words = ["nsmae train", "--cfg_file", "a b.yaml"]
    rest = "train --cfg_file 'a b.yaml'"
    assert command_to_resume("none", words) == f"nsmae {rest}"
    assert command_to_resume("slurm", words) == f"srun nsmae {rest}"
    launched = f"torchrun --nproc_per_node 2 -m nsmae_plugin.cli {rest}"
    assert command_to_resume("pytorch", words) == launched


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_error_of_the_data_is_the_same_line_with_workers_and_without(
    workspace,  # noqa: F811
    monkeypatch,
    capsys,
    workers,
):
    monkeypatch.setenv("TOY_BROKEN_FRAME", "3")
    words = ["--cfg_file", "cfgs/group/toy.yaml", "--extra_tag", "a", "--seed", "1"]
    assert toys.train(*words, "--workers", workers) == 1
    assert capsys.readouterr().err == "error: frame3 is broken\n"
    assert log_of(workspace, "a").endswith("error: frame3 is broken\n")


def test_a_process_ends_with_an_error_of_its_loader_processes(workspace):  # noqa: F811
    words = [*TOYS, *arguments("a", "--seed", "1", "--workers", "2")]
    # OpenPCDet's import warns of its use of torch.cuda.amp.
    found = run_python(*words, cwd=workspace, TOY_BROKEN_FRAME="3", PYTHONWARNINGS="ignore")
    assert (found.returncode, found.stderr) == (1, "error: frame3 is broken\n")


def test_an_error_of_the_data_of_one_process_is_one_line_of_the_run(workspace):  # noqa: F811
    options = ("--launcher", "pytorch", "--device", "cpu", "--batch_size", "4", "--seed", "1")
    words = [*TORCHRUN, *TOYS, *arguments("a", *options, "--workers", "1")]
    found = run_python(*words, cwd=workspace, TOY_BROKEN_FRAME="3")
    assert found.returncode != 0
    assert found.stderr.count("error: frame3 is broken\n") == 1
    assert "Connection closed" not in found.stderr
    assert log_of(workspace, "a").count("error: frame3 is broken") == 1


def test_the_death_of_a_loader_process_is_one_line(capsys):
    @errors_in_one_line
    def tool():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is\nmore")

    assert tool() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a process of the loader died (DataLoader worker (pid 7) is kil")
