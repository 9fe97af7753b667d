"""tools/label_efficiency.py: trials that run once, are trusted only when unchanged, and add up."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stub_tools
import toys
import yaml
from matplotlib.figure import Figure

from nsmae_plugin.errors import DataError
from nsmae_plugin.evaluation import label_jobs, label_report, label_trials

sys.path.insert(0, str(toys.REPOSITORY / "tools"))

import label_efficiency

SMALL = ("--fractions", "0.1", "--seeds", "0")
SEEDS = ("--fractions", "0.1", "--seeds", "0", "1")
WHOLE = ("--fractions", "0.1", "1.0", "--seeds", "0", "1")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working directory with a configuration, weights, and stubs in place of the tools."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "STUB_FAIL", "STUB_INTERRUPT", "STUB_HANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(label_trials, "TOOLS", stub_tools.install(tmp_path / "tools"))
    monkeypatch.setattr(label_report, "draw", lambda comparisons: Figure())  # takes long
    write_config()
    (tmp_path / "weights.pth").write_text("weights")
    return tmp_path


def write_config(use_labels=True, **optimization):
    """The configuration of the toys, with info files."""
    data = {"VERSION": "v1", "INFO_PATH": {"train": ["infos.pkl"]}, "USE_LABELS": use_labels}
    path = toys.write_config(".", **optimization)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["DATA_CONFIG"].update(data)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("v1").mkdir(exist_ok=True)
    Path("v1/infos.pkl").write_text("infos")


def words(*more, grid=SMALL):
    start = ("--pretrained_model", "weights.pth") if "--only" not in more else ()
    return ["--cfg_file", "cfgs/group/toy.yaml", *grid, *start, *more]


def experiment(*more, **options):
    return label_efficiency.main(words(*more, **options))


def folder(workspace, name=""):
    return workspace / "output/group/toy/label_efficiency" / name


def calls(workspace):
    path = workspace / "calls.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def results(workspace):
    return json.loads((folder(workspace) / "results.json").read_text(encoding="utf-8"))


def test_every_trial_is_trained_and_evaluated_once_seed_by_seed(workspace):
    assert experiment(grid=WHOLE) == 0
    made = [(call["script"], call["name"]) for call in calls(workspace)]
    assert made == [
        (script, f"{arm}_{fraction}_seed{seed}")
        for seed in "01"
        for fraction in ("0.1", "1.0")
        for arm in ("scratch", "pretrained")
        for script in ("train.py", "test.py")
    ]
    training = calls(workspace)[14]  # pretrained_1.0_seed1
    assert training["seed"] == "1"
    assert training["pretrained_model"] == "weights.pth"
    assert training["overrides"] == [
        *("DATA_CONFIG.LABEL_FRACTION", "1.0"),
        *("DATA_CONFIG.LABEL_FRACTION_SEED", "1"),
    ]


def test_the_table_holds_means_deviations_and_paired_differences(workspace, capsys):
    assert experiment(grid=WHOLE) == 0
    # mAP at 10 %: scratch 5 and 6, pre-trained 15 and 16; sd of two numbers 1 apart is sqrt(1/2).
    row = "| 10 % | 2 | 5.50 ± 0.71 | 15.50 ± 0.71 | +10.00 ± 0.00 |"
    text = (folder(workspace) / "table.md").read_text(encoding="utf-8")
    assert row in text
    assert row in capsys.readouterr().out
    assert "| 100 % | 2 | 50.50 ± 0.71 | 60.50 ± 0.71 | +10.00 ± 0.00 | 101.00" in text
    assert "Trials finished: 8; not finished: 0." in text
    comparison = results(workspace)["comparisons"][0]
    assert comparison["scratch"]["values"] == {"0": pytest.approx(5), "1": pytest.approx(6)}
    assert comparison["scratch"]["sd"] == pytest.approx(math.sqrt(0.5))
    assert (folder(workspace) / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_start_runs_nothing_and_writes_the_same_table(workspace):
    assert experiment() == 0
    before = (folder(workspace) / "table.md").read_text(encoding="utf-8")
    made = calls(workspace)
    (folder(workspace) / "table.md").unlink()
    assert experiment() == 0
    assert calls(workspace) == made
    assert (folder(workspace) / "table.md").read_text(encoding="utf-8") == before


def test_a_grid_can_grow_and_keeps_what_it_had(workspace):
    assert experiment() == 0
    assert experiment(grid=("--fractions", "0.1", "--seeds", "1")) == 0
    assert len(calls(workspace)) == 8
    assert set(results(workspace)["comparisons"][0]["difference"]["values"]) == {"0", "1"}


def test_an_interrupted_training_resumes_without_loading_the_weights_again(workspace, monkeypatch):
    monkeypatch.setenv("STUB_INTERRUPT", "pretrained_0.1_seed0")
    assert experiment() == 1
    monkeypatch.delenv("STUB_INTERRUPT")
    assert experiment() == 0
    again = [call for call in calls(workspace) if call["name"] == "pretrained_0.1_seed0"]
    assert [call["script"] for call in again] == ["train.py", "train.py", "test.py"]
    assert [call["pretrained_model"] for call in again[:2]] == ["weights.pth", None]
    values = results(workspace)["comparisons"][0]["pretrained"]["values"]
    assert values["0"] == pytest.approx(15)


def test_a_failed_evaluation_is_repeated_without_training_again(workspace, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "test.py scratch_0.1_seed0")
    assert experiment() == 1
    monkeypatch.delenv("STUB_FAIL")
    assert experiment() == 0
    again = [call["script"] for call in calls(workspace) if call["name"] == "scratch_0.1_seed0"]
    assert again == ["train.py", "test.py", "test.py"]


def test_a_failure_shows_its_log_and_counts_nowhere(workspace, monkeypatch, capsys):
    monkeypatch.setenv("STUB_FAIL", "train.py scratch_0.1_seed1")
    assert experiment(grid=SEEDS) == 1
    output = capsys.readouterr().out
    assert "scratch_0.1_seed1: train ended with status 3" in output
    assert "    the stub was told to fail" in output
    assert "3 of 4 trials finished" in output
    first = results(workspace)["comparisons"][0]
    assert set(first["scratch"]["values"]) == {"0"}
    assert set(first["difference"]["values"]) == {"0"}
    assert "| 10 % | 1 / 2 | 5.00 | 15.50 ± 0.71 | +10.00 |" in output


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


def test_several_processes_are_joined_by_torchrun(workspace, capsys):
    assert experiment("--dry_run", "--nproc_per_node", "8") == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line[0] != "#"]
    start = "-m torch.distributed.run --standalone --nproc_per_node 8 "
    assert all(start in line and "--launcher pytorch" in line for line in commands)


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
    assert "trial.json is no record of a trial" in capsys.readouterr().err


def test_checkpoints_of_another_run_are_not_taken_over(workspace, capsys):
    checkpoint = folder(workspace, "scratch_0.1_seed0") / "ckpt/checkpoint_epoch_1.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert experiment() == 1
    assert "has checkpoints, but no trial.json" in capsys.readouterr().err
    assert calls(workspace) == []


def test_jobs_run_at_once_and_share_the_cores(workspace, monkeypatch):
    assert experiment("--jobs", "2") == 0
    cores = len(os.sched_getaffinity(0))
    assert {call["threads"] for call in calls(workspace)} == {str(max(1, cores // 2))}
    assert len(results(workspace)["trials"]) == 2


def test_a_number_of_threads_that_the_user_chose_stays(workspace, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert experiment() == 0
    assert {call["threads"] for call in calls(workspace)} == {"7"}


def test_one_arm_runs_alone(workspace):
    assert experiment("--only", "scratch") == 0
    assert {call["name"].split("_")[0] for call in calls(workspace)} == {"scratch"}
    assert results(workspace)["comparisons"][0]["pretrained"] is None


def test_dry_run_prints_commands_and_starts_none(workspace, capsys):
    assert experiment("--dry_run", "--set", "OPTIMIZATION.LR", "0.5") == 0
    output = capsys.readouterr().out
    assert output.count("train.py") == output.count("test.py") == 2
    assert output.count("--pretrained_model weights.pth") == 1
    assert output.count("--set OPTIMIZATION.LR 0.5") == 4
    assert "# scratch_0.1_seed0: not begun" in output
    assert calls(workspace) == []
    assert not folder(workspace).exists()


def test_report_only_runs_nothing(workspace, monkeypatch, capsys):
    assert experiment("--report_only") == 1
    assert "no trial in" in capsys.readouterr().err
    monkeypatch.setenv("STUB_FAIL", "train.py scratch_0.1_seed0")
    assert experiment() == 1
    made = calls(workspace)
    assert experiment("--report_only") == 0
    assert "Trials finished: 1; not finished: 1 (scratch_0.1_seed0)." in capsys.readouterr().out
    assert calls(workspace) == made


def test_any_number_of_the_metrics_file_can_be_reported(workspace, capsys):
    assert experiment("--metrics", "NDS", "mean_dist_aps.car") == 0
    assert "mean_dist_aps.car scratch" in capsys.readouterr().out
    assert results(workspace)["trials"][0]["mean_dist_aps.car"] == 0.25
    for name, reason in {
        "mIoU": "'mean_iou' is not among mean_ap, nd_score",
        "mean_ap.car": "'car' is not among nothing",
        "mean_dist_aps.bus": "no finite number",
        "mean_dist_aps": "no finite number",
    }.items():
        assert experiment("--report_only", "--metrics", name) == 1
        assert reason in capsys.readouterr().err


def test_bad_arguments_are_named(workspace, capsys):
    assert label_efficiency.main(["--cfg_file", "cfgs/group/toy.yaml"]) == 1
    assert "--pretrained_model" in capsys.readouterr().err
    assert experiment("--set", "OPTIMIZATION.LRR", "1") == 1
    assert "did you mean LR" in capsys.readouterr().err
    write_config(use_labels=False)
    assert experiment() == 1
    assert "needs USE_LABELS True" in capsys.readouterr().err
    Path("weights.pth").unlink()
    assert experiment() == 1
    assert "no checkpoint at weights.pth" in capsys.readouterr().err
    for bad in ("0", "1.5", "nan"):
        with pytest.raises(SystemExit):
            experiment("--fractions", bad)
    assert calls(workspace) == []


def test_a_folder_of_weights_means_its_newest_checkpoint_for_all_trials(workspace):
    Path("run").mkdir()
    Path("weights.pth").rename("run/checkpoint_epoch_9.pth")
    start = ("--cfg_file", "cfgs/group/toy.yaml", "--fractions", "1", "--seeds", "0")
    assert label_efficiency.main([*start, "--pretrained_model", "run"]) == 0
    assert calls(workspace)[2]["pretrained_model"] == "run/checkpoint_epoch_9.pth"


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
        "import sys, signal; from pathlib import Path\n"
        f"sys.path.insert(0, {str(toys.REPOSITORY / 'tools')!r})\n"
        "import label_efficiency; from nsmae_plugin.evaluation import label_trials\n"
        "label_trials.TOOLS = Path('tools').resolve()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        # A test run in the background of a shell was told to ignore Ctrl-C, and passes it on.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(label_efficiency.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, *words("--jobs", "2", grid=SEEDS)]
    environment = {**os.environ, "STUB_HANG": "1"}
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
    assert label_jobs._tail(log).split("\n")[0] == "    done"
    assert label_jobs._tail(log).endswith("    größer\n    \ufffd")


def test_several_metrics_files_are_refused(tmp_path):
    for epoch in (1, 2):
        place = tmp_path / f"eval/epoch_{epoch}/val/label_efficiency"
        place.mkdir(parents=True)
        (place / "metrics_summary.json").write_text('{"mean_ap": 0.5}')
        if epoch == 1:
            by_hand = tmp_path / "eval/epoch_1/val/default/metrics_summary.json"
            by_hand.parent.mkdir()
            by_hand.write_text("{}")
            found = label_jobs.read_metrics_file(tmp_path, "metrics_summary.json")
            assert found == {"mean_ap": 0.5}
    with pytest.raises(DataError, match="expected one metrics_summary"):
        label_jobs.read_metrics_file(tmp_path, "metrics_summary.json")


def test_a_trial_of_the_real_tools_on_the_synthetic_world(tmp_path, monkeypatch, synthetic_root):
    """Half of the frames, one epoch, on whichever host is active."""
    monkeypatch.chdir(tmp_path)
    recipe = str(toys.REPOSITORY / "cfgs/tiny/bevfusion_det.yaml")
    grid = ("--fractions", "0.5", "--seeds", "0", "--only", "scratch", "--workers", "0")
    settings = ("DATA_CONFIG.DATA_PATH", str(synthetic_root), "OPTIMIZATION.NUM_EPOCHS", "1")
    arguments = ["--cfg_file", recipe, *grid, "--set", *settings]
    assert label_efficiency.main(arguments) == 0
    place = tmp_path / "output/tiny/bevfusion_det/label_efficiency"
    log = (place / "scratch_0.5_seed0/label_efficiency.log").read_text(encoding="utf-8")
    assert "labels of 3 of 6 samples are used" in log
    (trial,) = json.loads((place / "results.json").read_text(encoding="utf-8"))["trials"]
    assert 0 <= trial["mAP"] <= 100
    assert (place / "plot.png").read_bytes().startswith(b"\x89PNG")


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
