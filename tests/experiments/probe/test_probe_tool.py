"""tools/probe.py on the synthetic dataset: networks, features, trials and report in one run."""

import json
from dataclasses import replace

import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.probe import run as run_module
from nsmae_plugin.experiments.probe.heads import RECIPES
from tests.helpers.paths import TINY
from tools import probe

SMALL = {
    "DATA_CONFIG.POINT_CLOUD_RANGE": "[-12.8, -12.8, -5.0, 12.8, 12.8, 3.0]",
    "DATA_CONFIG.MAP_CONFIG.XBOUND": "[-12.0, 12.0, 0.5]",
    "DATA_CONFIG.MAP_CONFIG.YBOUND": "[-12.0, 12.0, 0.5]",
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM": "[64, 96]",
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TEST": "[0.7, 0.7]",
    "DATA_CONFIG.DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE": "[0.2, 0.2, 0.2]",
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, least=4, most=4))
    return tmp_path


def run(*more, networks=("random=untrained", "other=untrained:1"), root="."):
    grid = ["--networks", *networks, "--seeds", "2", "--fractions", "0.5", "1.0"]
    words = {**SMALL, "DATA_CONFIG.DATA_PATH": str(root)}
    settings = [word for pair in words.items() for word in pair]
    recipe = ["--cfg_file", str(TINY / "bevfusion_multitask.yaml"), "--workers", "0"]
    return probe.main([*recipe, *grid, *more, "--set", *settings])


def test_networks_are_compared_and_others_added(workspace, synthetic_root, capsys):
    folder = workspace / "output/tiny/bevfusion_multitask/probe"
    assert run("--dry_run", root=synthetic_root) == 0
    output = capsys.readouterr().out
    assert "6 training frames, 3 of the split test; labels by frames" in output
    assert "50 %: 3 labelled frames" in output
    assert "144 trials, of which 0 have finished" in output
    assert not folder.exists()

    assert run("--tasks", "map", "occupancy", "--branches", "fused", root=synthetic_root) == 0
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "| map, mIoU | fused | linear | other |" in text
    assert "| other | camera | 32 |" in text
    assert "- random: untrained, seed 0\n- other: untrained, seed 1\n" in text
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    log = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(log) == 2 * 2 * 2 * 2 * 2  # networks, tasks, heads, fractions, seeds

    # The first network again: with the same seeds, nothing differs.
    grown = ("--tasks", "occupancy", "centers", "--branches", "lidar", "fused", "--heads", "linear")
    networks = ("random=untrained", "same=untrained")
    assert run(*grown, networks=networks, root=synthetic_root) == 0
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["networks"].keys() == {"random", "same"}
    rows = [row for row in results["comparisons"] if row["network"] == "same"]
    assert len(rows) == 8  # tasks, branches, fractions
    assert {value for row in rows for value in row["difference"]["values"].values()} == {0.0}
    again = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    assert again[: len(log)] == log
    assert len(again) == len(log) + 2 * 16 - 4  # occupancy of random's fused features was there

    capsys.readouterr()
    assert run("--report_only", networks=("same=x", "other=x"), root="nowhere") == 0
    assert "against same" in capsys.readouterr().out


def test_frames_of_the_validation_part_are_not_counted(
    workspace, synthetic_root, monkeypatch, capsys
):
    monkeypatch.setitem(SMALL, "DATA_CONFIG.VALIDATION_FRACTION", "0.5")
    assert run("--dry_run", "--fractions", "1", root=synthetic_root) == 0
    output = capsys.readouterr().out
    assert "3 training frames, 3 of the split test" in output
    assert "100 %: 3 labelled frames" in output


def test_options_of_the_features_reach_the_extraction(
    workspace, synthetic_root, monkeypatch, capsys
):
    def extract(_config, _networks, _splits, _folder, options, _tell):
        raise DataError(json.dumps(options.settings()))

    monkeypatch.setattr(run_module, "extract", extract)
    words = ("--statistics_batches", "0", "--channels", "8", "--lidar_depth", "--batch_size", "3")
    assert run("--tasks", "map", *words, root=synthetic_root) == 1
    found = json.loads(capsys.readouterr().err.partition("error: ")[2])
    expected = {"statistics_batches": 0, "channels": 8, "lidar_depth": True, "batch_size": 3}
    assert expected.items() <= found.items()


def test_bad_arguments_end_in_one_line(workspace, capsys):
    for words, message in {
        ("--reference", "paper"): "--reference paper is not among random, other",
        ("--metrics", "boxes=mAP"): "--metrics 'boxes=mAP': give TASK=METRIC",
        ("--report_only",): "there is no probe in output/tiny/bevfusion_multitask/probe",
    }.items():
        assert run(*words) == 1
        assert message in capsys.readouterr().err
    for networks, message in {
        ("random",): "--networks 'random': give NAME=PATH",
        ("a=untrained:x",): "the seed behind untrained: must be a number",
        ("a=untrained", "a=b.pth"): "two networks have the same name: a, a",
    }.items():
        assert run(networks=networks) == 1
        assert message in capsys.readouterr().err


def test_a_fraction_or_a_branch_that_the_data_lacks_ends_in_one_line(
    workspace, synthetic_root, capsys
):
    assert run("--fractions", "0.01", root=synthetic_root) == 1
    assert "LABEL_FRACTION 0.01 of 6 frames selects none" in capsys.readouterr().err
    assert run("--branches", "radar", "--tasks", "map", root=synthetic_root) == 1
    assert (
        "--branches radar: the networks have no such features, but lidar" in capsys.readouterr().err
    )
