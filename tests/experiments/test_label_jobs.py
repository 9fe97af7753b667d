"""tools/label_efficiency.py: the processes of trials, at once and when they are stopped."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.label_efficiency import jobs
from tests.helpers.label_runs import (
    SEEDS,
    calls,
    experiment,
    folder,
    make_workspace,
    results,
    words,
)
from tests.helpers.programs import environment_of_a_program


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    return make_workspace(tmp_path, monkeypatch)


def test_jobs_run_at_once_and_share_the_cores(workspace, monkeypatch):
    assert experiment("--jobs", "2") == 0
    cores = len(os.sched_getaffinity(0))
    assert {call["threads"] for call in calls(workspace)} == {str(max(1, cores // 2))}
    assert len(results(workspace)["trials"]) == 2


def test_a_number_of_threads_that_the_user_chose_stays(workspace, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert experiment() == 0
    assert {call["threads"] for call in calls(workspace)} == {"7"}


def test_a_trial_that_another_process_works_on_is_left_alone(workspace, capsys):
    place = folder(workspace, "scratch_0.1_seed0")
    place.mkdir(parents=True)
    with open(place / "trial.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert experiment() == 1
    assert "scratch_0.1_seed0: left out, another process" in capsys.readouterr().out
    assert "scratch_0.1_seed0" not in {call["name"] for call in calls(workspace)}
    assert len(results(workspace)["trials"]) == 1


def start_tool(workspace):
    """The tool in a process of its own, once its two trainings hang."""
    script = (
        "import sys, signal\n"
        "from nsmae_plugin.experiments.label_efficiency import trials\n"
        "from tools import label_efficiency\n"
        "from tests.helpers import stub_tools; trials.NSMAE = stub_tools.NSMAE\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        # A test run in the background of a shell was told to ignore Ctrl-C, and passes it on.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(label_efficiency.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, *words("--jobs", "2", grid=SEEDS)]
    environment = {**environment_of_a_program(), "STUB_HANG": "1"}
    process = subprocess.Popen(command, cwd=workspace, env=environment, start_new_session=True)
    wait_until(lambda: len(calls(workspace)) == 2)
    return process


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_the_tool_stops_its_trials(workspace, how):
    process = start_tool(workspace)
    process.send_signal(how)
    assert process.wait(30) != 0
    for name in ("scratch_0.1_seed0", "pretrained_0.1_seed0"):
        wait_until(lambda name=name: is_free(folder(workspace, name) / "trial.lock"))
    assert len(calls(workspace)) == 2


def test_a_training_that_outlives_the_tool_is_not_started_twice(workspace, capsys):
    process = start_tool(workspace)
    process.kill()
    process.wait(30)
    trainings = calls(workspace)
    assert experiment() == 1
    assert capsys.readouterr().out.count("left out, another process") == 2
    assert calls(workspace) == trainings
    for training in trainings:
        os.kill(training["pid"], signal.SIGKILL)
        wait_until(lambda one=training: is_free(folder(workspace, one["name"]) / "trial.lock"))
    assert experiment() == 0


def test_of_a_progress_bar_the_last_state_is_shown(tmp_path):
    log = tmp_path / "trial.log"
    log.write_bytes(
        b"first\r\n 10%\r 20%\rdone\n" + b"line\n" * 17 + "größer".encode() + b"\n\xff\n"
    )
    assert jobs._tail(log).split("\n")[0] == "    done"
    assert jobs._tail(log).endswith("    größer\n    \ufffd")


def test_several_metrics_files_are_refused(tmp_path):
    for epoch in (1, 2):
        place = tmp_path / f"eval/epoch_{epoch}/val/label_efficiency"
        place.mkdir(parents=True)
        (place / "metrics_summary.json").write_text('{"mean_ap": 0.5}')
        if epoch == 1:
            by_hand = tmp_path / "eval/epoch_1/val/default/metrics_summary.json"
            by_hand.parent.mkdir()
            by_hand.write_text("{}")
            found = jobs.read_metrics_file(tmp_path, "metrics_summary.json")
            assert found == {"mean_ap": 0.5}
    with pytest.raises(DataError, match="expected one metrics_summary"):
        jobs.read_metrics_file(tmp_path, "metrics_summary.json")


def is_free(path):
    """Whether nobody holds the lock: neither the tool nor a process that it started."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
