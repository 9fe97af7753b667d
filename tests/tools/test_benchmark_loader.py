"""The benchmark of the loader: stages that add up, variants that load the same, a command."""

import json

import numpy as np
import pytest

from nsmae_plugin.config.load import load_config
from tests.helpers.paths import TINY
from tools import benchmark
from tools.benchmarks import loader
from tools.benchmarks.loader import Stopwatch, watch
from tools.benchmarks.measure import MeasurementError

RECIPE = TINY / "bevfusion_det.yaml"


@pytest.fixture(scope="module")
def dataset(synthetic_root):
    config = load_config(RECIPE, ["DATA_CONFIG.DATA_PATH", str(synthetic_root)])
    return loader.build_dataset(config, "ours", sweeps=2)


def test_a_stage_within_another_is_not_counted_twice(monkeypatch):
    clock = [0.0]

    def work(seconds):
        clock[0] += seconds

    monkeypatch.setattr("tools.benchmarks.loader.time.process_time", lambda: clock[0])
    stopwatch = Stopwatch()
    inner = stopwatch.timed("inner", work)
    with stopwatch.stage("outer"):
        work(2.0)
        inner(3.0)
        inner(4.0)
    assert stopwatch.seconds == {"inner": 7.0, "outer": 2.0}


def test_watching_finds_all_stages_and_leaves_no_trace(dataset):
    before = loader.load_batch(dataset, 2, 0)
    queue, stopwatch = dataset.data_processor.data_processor_queue, Stopwatch()
    with watch(dataset, stopwatch):
        watched = loader.load_batch(dataset, 2, 0)
    assert loader.describe(watched) == loader.describe(before)
    assert dataset.data_processor.data_processor_queue is queue
    assert set(stopwatch.seconds) == {
        *("LiDAR files", "sweeps", "decoding", "scaling", "matrices", "augmentation"),
        *("range and shuffling", "voxelisation", "normalisation", "collation"),
    }
    seconds = dict(stopwatch.seconds)
    loader.load_batch(dataset, 1, 0)
    assert stopwatch.seconds == seconds


def test_sweeps_that_stand_in_for_missing_ones_are_moved():
    real = {"transform_matrix": np.eye(4), "time_lag": 0.05}
    assert loader.moving(real, 3) is real
    made_up = loader.moving({"transform_matrix": None, "time_lag": 0}, 3)
    assert made_up["time_lag"] == pytest.approx(0.15)
    assert np.linalg.norm(made_up["transform_matrix"][:3, 3]) == pytest.approx(1.5)


def test_variants_that_load_something_else_are_refused():
    loader.check_same({"ours": {"a": 1.0}, "openpcdet": {"a": 1.009}})
    with pytest.raises(MeasurementError, match=r"a is 1.0 of ours, 1.02 of openpcdet"):
        loader.check_same({"ours": {"a": 1.0}, "openpcdet": {"a": 1.02}})


def run_command(monkeypatch, tmp_path, root, *more):
    path = tmp_path / "report.json"
    options = ["--cfg_file", str(RECIPE), "--rounds", "1", "--repeats", "2", "--json", str(path)]
    overrides = ["--set", "DATA_CONFIG.DATA_PATH", str(root)]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert benchmark.main(["loader", *options, *more, *overrides]) == 0
    return json.loads(path.read_text())["batch 1"]


def test_the_command_measures_the_stages(synthetic_root, tmp_path, monkeypatch, capsys):
    report = run_command(monkeypatch, tmp_path, synthetic_root, "--only_ours")
    stages = report["stages"]["ours"]
    assert sum(stages.values()) > 0.5 * report["ours"]["seconds"]["median"]
    assert "samples per second" in capsys.readouterr().out


@pytest.mark.openpcdet
def test_the_command_compares_with_openpcdet(
    openpcdet_root, synthetic_root, tmp_path, monkeypatch, capsys
):
    report = run_command(monkeypatch, tmp_path, synthetic_root)
    assert set(report["stages"]) == {"ours", "openpcdet"}
    assert report["seconds_ratio"] > 0
    assert "ours / openpcdet" in capsys.readouterr().out
