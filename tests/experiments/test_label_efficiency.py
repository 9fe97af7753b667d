"""tools/label_efficiency.py: trials that run once and add up."""

import json
import math
from pathlib import Path

import pytest

from tests.helpers.label_runs import (
    SEEDS,
    SMALL,
    WHOLE,
    calls,
    experiment,
    folder,
    label_efficiency,
    make_workspace,
    results,
    write_config,
)
from tests.helpers.paths import TINY


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    return make_workspace(tmp_path, monkeypatch)


def test_every_trial_is_trained_and_evaluated_once_seed_by_seed(workspace):
    assert experiment(grid=WHOLE) == 0
    made = [(call["command"], call["name"]) for call in calls(workspace)]
    assert made == [
        (command, f"{arm}_{fraction}_seed{seed}")
        for seed in "01"
        for fraction in ("0.1", "1.0")
        for arm in ("scratch", "pretrained")
        for command in ("train", "test")
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
    row = "| 10 % | 2 | 5.50 ± 0.71 | 15.50 ± 0.71 | +10.00 ± 0.00 [+10.00, +10.00] |"
    text = (folder(workspace) / "table.md").read_text(encoding="utf-8")
    assert row in text
    assert row in capsys.readouterr().out
    row = "| 100 % | 2 | 50.50 ± 0.71 | 60.50 ± 0.71 | +10.00 ± 0.00 [+10.00, +10.00] | 101.00"
    assert row in text
    assert "Trials finished: 8; not finished: 0." in text
    comparison = results(workspace)["comparisons"][0]
    assert comparison["scratch"]["values"] == {"0": pytest.approx(5), "1": pytest.approx(6)}
    assert comparison["scratch"]["sd"] == pytest.approx(math.sqrt(0.5))
    assert comparison["pretrained"]["values"] == {"0": pytest.approx(15), "1": pytest.approx(16)}
    assert comparison["difference"]["mean"] == pytest.approx(10)
    assert results(workspace)["pretrained_model"] == "weights.pth"
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
    assert [call["command"] for call in again] == ["train", "train", "test"]
    assert [call["pretrained_model"] for call in again[:2]] == ["weights.pth", None]
    values = results(workspace)["comparisons"][0]["pretrained"]["values"]
    assert values["0"] == pytest.approx(15)


def test_a_failed_evaluation_is_repeated_without_training_again(workspace, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "test scratch_0.1_seed0")
    assert experiment() == 1
    monkeypatch.delenv("STUB_FAIL")
    assert experiment() == 0
    again = [call["command"] for call in calls(workspace) if call["name"] == "scratch_0.1_seed0"]
    assert again == ["train", "test", "test"]


def test_a_failure_shows_its_log_and_counts_nowhere(workspace, monkeypatch, capsys):
    monkeypatch.setenv("STUB_FAIL", "train scratch_0.1_seed1")
    assert experiment(grid=SEEDS) == 1
    output = capsys.readouterr().out
    assert "scratch_0.1_seed1: train ended with status 3" in output
    assert "    the stub was told to fail" in output
    assert "3 of 4 trials finished" in output
    first = results(workspace)["comparisons"][0]
    assert set(first["scratch"]["values"]) == {"0"}
    assert set(first["difference"]["values"]) == {"0"}
    assert "| 10 % | 1 / 2 | 5.00 | 15.50 ± 0.71 | +10.00 |" in output


def test_several_processes_are_joined_by_torchrun(workspace, capsys):
    assert experiment("--dry_run", "--nproc_per_node", "8") == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line[0] != "#"]
    start = "-m torch.distributed.run --standalone --nproc_per_node 8 "
    assert all(start in line and "--launcher pytorch" in line for line in commands)


def named(*weights, grid=SEEDS, more=()):
    start = ["--cfg_file", "cfgs/group/toy.yaml", *grid, *more]
    return label_efficiency.main([*start, "--pretrained_model", *weights])


def test_arms_with_names_are_compared_with_the_scratch_of_before(workspace, capsys):
    assert experiment(grid=SEEDS) == 0
    Path("better.pth").write_text("weights of a detector")
    assert named("pretrained=weights.pth", "supervised=better.pth") == 0
    names = [call["name"] for call in calls(workspace)[8:]]
    assert names == [f"supervised_0.1_seed{seed}" for seed in "01" for _ in ("train", "test")]
    # Supervised: 15 and 18, so 10 and 12 above scratch: sd sqrt(2), and with t = 12.706 for one
    # degree of freedom 11 ± 12.706 * sqrt(2) / sqrt(2).
    text = (folder(workspace) / "table.md").read_text(encoding="utf-8")
    assert [row.split(" | ")[:5] for row in text.splitlines() if "10 %" in row] == [
        ["| 10 %", "scratch", "2", "5.50 ± 0.71", "–"],
        ["| 10 %", "pre-trained", "2", "15.50 ± 0.71", "+10.00 ± 0.00 [+10.00, +10.00]"],
        ["| 10 %", "supervised", "2", "16.50 ± 2.12", "+11.00 ± 1.41 [-1.71, +23.71]"],
    ]
    assert "Start: pre-trained from `weights.pth`, supervised from `better.pth`." in text
    content = results(workspace)
    assert content["pretrained_model"] == {"pretrained": "weights.pth", "supervised": "better.pth"}
    difference = content["comparisons"][0]["differences"]["supervised"]
    assert difference["values"] == {"0": pytest.approx(10), "1": pytest.approx(12)}
    assert difference["interval"] == pytest.approx([11 - 12.7062, 11 + 12.7062], abs=1e-4)
    capsys.readouterr()
    # The single path of before goes on in the same folder, and leaves the other arm out.
    assert experiment(grid=SEEDS) == 0
    assert len(calls(workspace)) == 12
    assert "supervised_0.1_seed0 (no --pretrained_model is given" in capsys.readouterr().out


def test_one_of_several_arms_runs_alone(workspace, capsys):
    assert named("a=weights.pth", "b=weights.pth", more=("--only", "b")) == 0
    assert {call["name"].split("_")[0] for call in calls(workspace)} == {"b"}
    assert "not finished: 4" in capsys.readouterr().out
    assert named("a=weights.pth", more=("--only", "b")) == 1
    assert "--only b: there is no such arm; arms are scratch, a" in capsys.readouterr().err


def test_bad_names_of_arms_are_refused(workspace, capsys):
    for weights, message in {
        ("weights.pth", "b=weights.pth"): "weights.pth: several are given as NAME=PATH",
        ("a=weights.pth", "a=other.pth"): "the name a is given twice",
        ("scratch=weights.pth",): "the name scratch means training without weights",
        ("a=absent.pth",): "no checkpoint at absent.pth",
    }.items():
        assert named(*weights) == 1
        assert message in capsys.readouterr().err
    assert calls(workspace) == []


def test_a_single_path_may_hold_an_equals_sign(workspace):
    Path("weights.pth").rename("lr=0.1.pth")
    assert named("lr=0.1.pth", grid=SMALL) == 0
    assert calls(workspace)[2]["name"] == "pretrained_0.1_seed0"


def test_one_arm_runs_alone(workspace):
    assert experiment("--only", "scratch") == 0
    assert {call["name"].split("_")[0] for call in calls(workspace)} == {"scratch"}
    assert results(workspace)["comparisons"][0]["pretrained"] is None


def test_dry_run_prints_commands_and_starts_none(workspace, capsys):
    assert experiment("--dry_run", "--set", "OPTIMIZATION.LR", "0.5") == 0
    output = capsys.readouterr().out
    assert output.count("stub_tools train ") == output.count("stub_tools test ") == 2
    assert output.count("--pretrained_model weights.pth") == 1
    assert output.count("--set OPTIMIZATION.LR 0.5") == 4
    assert "# scratch_0.1_seed0: not begun" in output
    assert calls(workspace) == []
    assert not folder(workspace).exists()


def test_report_only_runs_nothing(workspace, monkeypatch, capsys):
    assert experiment("--report_only") == 1
    assert "no trial in" in capsys.readouterr().err
    monkeypatch.setenv("STUB_FAIL", "train scratch_0.1_seed0")
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


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ((), {"mAP": 5, "NDS": 10}),
        (("DENSE_HEAD",), {"mAP": 5, "NDS": 10}),
        (("MAP_HEAD",), {"mIoU": 2.5}),
        (("MAP_HEAD", "DENSE_HEAD"), {"mAP": 5, "NDS": 10, "mIoU": 2.5}),
    ],
)
def test_a_network_is_compared_by_the_metrics_of_its_tasks(workspace, model, expected):
    write_config(model=model)
    assert experiment() == 0
    found = results(workspace)["comparisons"]
    means = {one["metric"]: one["scratch"]["mean"] for one in found}
    assert means == pytest.approx(expected)
    # Where maps count, how they were drawn is told.
    drawn = [{"rasteriser": "devkit", "line_width": 1.5}] if "mIoU" in expected else []
    assert results(workspace)["map_labels"] == drawn
    text = (folder(workspace) / "table.md").read_text(encoding="utf-8")
    assert ("Labels of maps: rasteriser devkit, lines 1.5 m wide." in text) is bool(drawn)


def test_metrics_of_another_file_can_be_asked_for(workspace):
    assert experiment("--metrics", "iou.walkway", "--metrics_file", "map_metrics.json") == 0
    assert results(workspace)["comparisons"][0]["scratch"]["mean"] == 0.5


def test_bad_arguments_are_named(workspace, capsys):
    assert label_efficiency.main(["--cfg_file", "cfgs/group/toy.yaml"]) == 1
    assert "--pretrained_model" in capsys.readouterr().err
    assert experiment("--set", "OPTIMIZATION.LRR", "1") == 1
    assert "did you mean LR" in capsys.readouterr().err
    recipe = ["--cfg_file", str(TINY / "bevfusion_det.yaml"), *SMALL, "--only", "scratch"]
    assert label_efficiency.main([*recipe, "--set", "DATA_CONFIG.USE_LABELS", "False"]) == 1
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


def test_a_trial_of_the_real_tools_on_the_synthetic_dataset(tmp_path, monkeypatch, synthetic_root):
    """Half of the frames, one epoch, on whichever host is active."""
    monkeypatch.chdir(tmp_path)
    recipe = str(TINY / "bevfusion_det.yaml")
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
