"""The benchmark: formulations that agree, measurements that measure, a command that runs."""

import json
import sys
from pathlib import Path

import pytest
import torch

from nsmae_plugin.benchmark import frustum
from nsmae_plugin.benchmark.inputs import ring_of_cameras
from nsmae_plugin.benchmark.measure import (
    MeasurementError,
    compare,
    interleave,
    measure_calls,
    run_isolated,
)
from nsmae_plugin.geometry import image_from_lidar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import benchmark

TINY = frustum.SIZES["tiny"]


def test_both_formulations_give_the_same_values_and_gradients(device):
    """float64; 1e-13 is a few hundred roundings, the longest sum here."""
    differences = frustum.largest_differences(TINY, 2, device)
    assert set(differences) == set(frustum.QUANTITIES)
    assert max(differences.values()) < 1e-13, differences


def test_a_formulation_that_errs_is_noticed(monkeypatch):
    real = frustum.pool_frustum
    monkeypatch.setattr(frustum, "pool_frustum", lambda *args: real(*args) * 1.001)
    differences = frustum.largest_differences(TINY, 1, torch.device("cpu"))
    assert differences["bev"] == pytest.approx(1e-3, rel=0.1)
    assert differences["rgb"] < 1e-13


def test_the_full_size_is_the_one_of_the_paper():
    full = frustum.SIZES["full"]
    assert (full.features, full.bins, full.cameras) == ((32, 88), 118, 6)


def test_the_ring_of_cameras_sees_all_around():
    """Points 10 m away on the circle: each in one camera's view or two, straight ahead in one."""
    rig = ring_of_cameras(1, 6, (256, 704))
    angle = torch.arange(0, 2 * torch.pi, torch.pi / 90)
    points = torch.stack((10 * angle.cos(), 10 * angle.sin(), torch.zeros_like(angle)), dim=-1)
    pixels, depth = image_from_lidar(
        points[None], rig["lidar2image"], rig["img_aug_matrix"], rig["lidar_aug_matrix"]
    )
    inside = ((pixels >= 0) & (pixels < torch.tensor([704.0, 256.0]))).all(-1)[0]
    assert inside.any(1).all()
    assert inside[:, 0].tolist() == [True] + 5 * [False]
    assert depth[0, 0, 0] == pytest.approx(10 - 0.8)


def test_peak_memory_is_that_of_the_tensors_held_at_once():
    """Ten tensors of 64 MiB in turn, two at a time; half a tensor of slack for the allocator."""

    def step():
        for _ in range(5):
            one = torch.ones(16 << 20)
            two = one + 1
            del one, two

    result = measure_calls(step, torch.device("cpu"), repeats=2)
    assert len(result["seconds"]) == 2
    if not result["mib"]:
        pytest.skip("no /proc on this system")
    assert result["mib"] == [pytest.approx(2 * 64, abs=32)]


def test_variants_are_measured_in_turn():
    calls = []

    def measure(variant):
        calls.append(variant)
        return {"seconds": [1.0 if variant == "a" else 4.0], "mib": [10.0]}

    results = interleave(("a", "b"), measure, rounds=2)
    assert calls == ["a", "b", "a", "b"]
    report = compare(results, slow="b", fast="a")
    assert report["seconds_ratio"] == 4.0
    assert report["mib_ratio"] == 1.0
    assert report["b"]["seconds"] == {"median": 4.0, "min": 4.0, "max": 4.0}


def test_memory_that_cannot_be_read_is_left_out():
    results = {name: {"seconds": [1.0], "mib": []} for name in ("a", "b")}
    report = compare(results, slow="b", fast="a")
    assert report["mib_ratio"] is None
    benchmark.print_comparison(report, ("a", "b"))


def test_a_process_that_fails_says_why():
    with pytest.raises(MeasurementError, match="invalid choice: 'nonsense'"):
        run_isolated("nsmae_plugin.benchmark.frustum", ["nonsense"], huge_pages=False)


def test_the_command_compares_the_formulations_at_tiny_size(tmp_path, capsys, monkeypatch):
    path = tmp_path / "report.json"
    options = ["--size", "tiny", "--rounds", "1", "--repeats", "2", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "frustum", *options])
    assert benchmark.main() == 0
    report = json.loads(path.read_text())
    assert report["seconds_ratio"] > 0
    assert max(report["differences"].values()) < 1e-13
    assert "factorised" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_cuda_the_command_says_so(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "frustum", "--device", "cuda"])
    assert benchmark.main() == 1
    assert "no CUDA device" in capsys.readouterr().err
