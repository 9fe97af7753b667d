"""The benchmark: formulations that agree, measurements that measure, a command that runs."""

import json
import math

import numpy as np
import pytest
import spconv.pytorch as spconv
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.geometry.projection import image_from_lidar
from nsmae_plugin.runtime.memory import CHOICES
from tests.helpers.paths import REPOSITORY, TINY
from tests.helpers.programs import run_python
from tools import benchmark
from tools.benchmarks import commands, frustum, loader, parity, report, sparse, step
from tools.benchmarks.inputs import (
    FIRST_CAMERA,
    first_frames,
    made_up_batch,
    ring_of_cameras,
    scan,
)
from tools.benchmarks.measure import MeasurementError, compare, interleave, run_isolated
from tools.benchmarks.parity import without_dropout

CPU = torch.device("cpu")
#: What the environment may tell the allocator.
ALLOCATOR = {*CHOICES, "THP_MEM_ALLOC_ENABLE"}
ALLOCATIONS = """
import json, torch
from tools.benchmarks.measure import measure_calls

def allocate():
    for _ in range(5):
        one = torch.ones(16 << 20)
        two = one + 1
        del one, two

print(json.dumps(measure_calls(allocate, torch.device("cpu"), repeats=2)))
"""


def test_both_formulations_give_the_same_values_and_gradients(device):
    """float64; 1e-13 is a few hundred roundings, the longest sum here."""
    differences = frustum.largest_differences("tiny", 2, device)
    assert set(differences) == set(frustum.QUANTITIES)
    assert max(differences.values()) < 1e-13, differences


def test_the_fused_kernels_are_measured_where_they_run(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(frustum, "triton_installed", lambda: True)
    assert frustum.variants(CPU) == ("factorised", "materialised")
    assert frustum.variants(cuda) == ("factorised", "materialised", "triton")
    monkeypatch.setattr(frustum, "triton_installed", lambda: False)
    assert frustum.variants(cuda) == ("factorised", "materialised")


def test_the_fused_kernels_must_agree_with_the_other_formulations(kernel_device, monkeypatch):
    """float64 as above, then float32 as parity compares devices; sizes for the interpreter."""
    from nsmae_plugin.ops.kernels import rendering as fused_rendering

    size = frustum.Size((16, 24), 2, 4, (1.0, 7.0, 1.0), (-8.0, 8.0, 2.0))
    monkeypatch.setitem(frustum.SIZES, "tiny", size)
    monkeypatch.setattr(frustum, "variants", lambda _: frustum.VARIANTS)
    assert max(frustum.largest_differences("tiny", 1, kernel_device).values()) < 1e-13
    differences = parity.operation_differences(kernel_device, "tiny")
    assert {"fused bev_pool value", "fused render_frustum logit gradient"} <= set(differences)
    assert max(differences.values()) <= parity.OPERATION_TOLERANCE
    monkeypatch.setattr(fused_rendering, "BACKGROUND", 0.6)
    assert frustum.largest_differences("tiny", 1, kernel_device)["rgb"] > 1e-3


def test_a_formulation_that_errs_is_noticed(monkeypatch):
    real = frustum.pool_frustum
    monkeypatch.setattr(frustum, "pool_frustum", lambda *args: real(*args) * 1.001)
    differences = frustum.largest_differences("tiny", 1, CPU)
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
    assert depth[0, 0, 0] == pytest.approx(10 * math.cos(FIRST_CAMERA) - 0.8)


def test_peak_memory_is_that_of_the_tensors_held_at_once():
    """Ten tensors of 64 MiB in turn, two at a time; half a tensor of slack for the allocator.

    In a process of its own, as in every measurement: what earlier tests have told this one's
    allocator to keep, and where they left holes, would count as well.
    """
    done = run_python("-c", ALLOCATIONS, without=sorted(ALLOCATOR))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
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
    measured = compare(results, slow="b", fast="a")
    assert measured["mib_ratio"] is None
    report.print_comparison(measured, ("a", "b"))


def test_a_process_that_fails_says_why():
    with pytest.raises(MeasurementError, match="unexpected keyword argument 'nonsense'"):
        run_isolated(frustum.measure, {"nonsense": 1}, memory="small_pages")


def test_what_a_process_refuses_is_one_line():
    arguments = {"variant": "ours", "batch": 1, "repeats": 1, "sweeps": None}
    arguments["cfg_file"] = TINY / "centerpoint_lidar.yaml"
    arguments["overrides"] = ["DATA_CONFIG.DATA_PATH", "nowhere"]
    with pytest.raises(
        MeasurementError,
        match=r"^cannot read the info file nowhere/.*nsmae create-infos .*--with_cam$",
    ):
        run_isolated(loader.measure, arguments, memory="small_pages")


def test_the_command_compares_the_formulations_from_any_folder_without_an_installation(tmp_path):
    script = REPOSITORY / "tools" / "benchmark.py"
    options = ["--size", "tiny", "--rounds", "1", "--repeats", "2", "--json", "report.json"]
    done = run_python(script, "frustum", *options, cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert "factorised" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())["batch 1"]
    assert report["seconds_ratio"] > 0
    assert max(report["differences"].values()) < 1e-13


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_cuda_the_command_says_so(capsys):
    assert benchmark.main(["frustum", "--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def tiny_config(mode="nsmae_pretrain"):
    """The tiny configuration with one sweep and half the image."""
    changes = ["DATA_CONFIG.MAX_SWEEPS", "1", "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM"]
    config = load_config(TINY / f"{mode}.yaml", [*changes, "[64, 112]"])
    if "VTRANSFORM" in config.MODEL:
        config.MODEL.VTRANSFORM.update(IMAGE_SIZE=[64, 112], FEATURE_SIZE=[8, 14])
    return config


@pytest.mark.parametrize("mode", ["nsmae_pretrain", "nsmae_pretrain_camera"])
def test_the_materialised_model_trains_like_the_factorised_one(mode):
    """float32 sums in another order: 1e-4 of each gradient's norm, and of nothing tiny."""
    config = without_dropout(tiny_config(mode))
    gradients = []
    for variant in step.VARIANTS:
        model = step.build_model(config, variant)
        result, _, _ = model(host.to_device(made_up_batch(config, batch=2, cameras=3), CPU))
        result["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    whole = torch.cat([gradient.flatten() for gradient in gradients[0].values()]).norm()
    for name, expected in gradients[0].items():
        difference = (gradients[1][name] - expected).norm()
        assert difference < 1e-4 * expected.norm() + 1e-6 * whole, name


def test_made_up_batches_have_the_ratios_and_sizes_of_the_configuration():
    config = tiny_config()
    batch = made_up_batch(config, batch=2, cameras=4)
    assert batch["camera_imgs"].shape == (2, 4, 3, 64, 112)
    assert batch["image_patch_mask"].mean() == 0.5
    assert batch["depth_point_mask"].mean() == pytest.approx(0.9, abs=1e-4)
    visible, hidden = len(batch["voxels"]), len(batch["hidden_voxel_coords"])
    assert hidden / (visible + hidden) == pytest.approx(0.9, abs=1e-3)
    assert set(batch["points"][:, 0]) == {0.0, 1.0}
    assert (batch["voxel_coords"][:, 1:] < [40, 512, 512]).all()


def test_a_scan_has_about_the_returns_of_a_sweep_and_stays_in_range():
    extent = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
    cloud = scan(2, extent, np.random.default_rng(0))
    assert 2 * 20_000 < len(cloud) <= 2 * 34_688
    assert (cloud[:, :3] >= extent[:3]).all()
    assert (cloud[:, :3] < extent[3:]).all()


@pytest.mark.parametrize("mode", ["nsmae_pretrain", "nsmae_pretrain_lidar"])
def test_the_stages_beside_the_network_are_those_of_the_configuration(mode):
    config = tiny_config(mode)
    model = step.build_model(config)
    batch = host.to_device(made_up_batch(config, batch=1), CPU)
    stages = step.stage_seconds(model, batch, repeats=1)
    expected = {"masks", "targets"}
    if mode == "nsmae_pretrain":
        expected |= {"depth maps", "geometry"}
    assert set(stages) == expected
    assert all(seconds > 0 for seconds in stages.values())


def test_the_command_measures_a_whole_step(tmp_path, capsys):
    path = tmp_path / "report.json"
    arguments = ["step", "--cfg_file", str(TINY / "nsmae_pretrain_camera.yaml")]
    arguments += ["--rounds", "1", "--repeats", "1", "--json", str(path)]
    arguments += ["--set", "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM", "[64, 112]"]
    arguments += ["MODEL.VTRANSFORM.IMAGE_SIZE", "[64, 112]"]
    arguments += ["MODEL.VTRANSFORM.FEATURE_SIZE", "[8, 14]", "DATA_CONFIG.MAX_SWEEPS", "1"]
    assert benchmark.main(arguments) == 0
    report = json.loads(path.read_text())["batch 1"]
    assert report["parameters"] > 1e6
    assert report["seconds_ratio"] > 0
    assert report["modules"]["materialised"]["vtransform"]["backward"] > 0
    assert "% of the step" in capsys.readouterr().out


def test_own_data_are_the_first_training_frames_with_their_labels(synthetic_root):
    changes = ["DATA_CONFIG.DATA_PATH", str(synthetic_root)]
    config = load_config(TINY / "centerpoint_lidar.yaml", changes)
    batch = first_frames(config, 2)
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    assert [meta["token"] for meta in batch["metadata"]] == [
        info["token"] for info in dataset.infos[:2]
    ]
    assert batch["gt_boxes"].shape[0] == 2
    assert np.array_equal(first_frames(config, 2)["points"], batch["points"])
    options = {"config": config, "variant": "factorised", "batch": 2, "device": CPU, "repeats": 1}
    own, made_up = (step.measure_variant(**options, own_data=own) for own in (True, False))
    assert own["first_step"]["loss"] != made_up["first_step"]["loss"]
    with pytest.raises(MeasurementError, match="fewer than --batch 7"):
        first_frames(config, 7)


def test_the_command_compares_the_sparse_backbone_with_spconv(tmp_path, capsys):
    path = tmp_path / "report.json"
    arguments = ["sparse", "--cfg_file", str(TINY / "centerpoint_lidar.yaml"), "--repeats", "1"]
    arguments += ["--json", str(path), "--set", "DATA_CONFIG.MAX_SWEEPS", "1"]
    arguments += [
        "DATA_CONFIG.DATA_PROCESSOR.transform_points_to_voxels.MAX_NUMBER_OF_VOXELS.train",
        "500",
    ]
    assert benchmark.main(arguments) == 0
    report = json.loads(path.read_text())["batch 1"]
    assert list(report["variants"])[:2] == ["spconv", "ours"]
    assert report["variants"]["spconv"]["difference"] == 0
    assert 0 < report["variants"]["ours"]["difference"] <= commands.SPARSE_TOLERANCE
    assert report["gflop"] > 0.1
    assert f"{report['voxels']} voxels" in capsys.readouterr().out


def test_the_arithmetic_of_sparse_convolutions_is_counted():
    conv = spconv.SubMConv3d(2, 5, 3, indice_key="key")

    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, batch):
            cells = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 2, 2]]).int()
            tensor = spconv.SparseConvTensor(batch["rows"], cells, [3, 3, 3], 1)
            return {"encoded_spconv_tensor": self.conv(tensor)}

    # Three cells and a pair of neighbours: 5 pairs of 2 x 5 products and as many sums.
    forward = 5 * 2 * 2 * 5
    rows = torch.ones(3, 2)
    assert sparse._flop(Backbone(), {"rows": rows}) == 2 * forward
    assert sparse._flop(Backbone(), {"rows": rows.requires_grad_()}) == 3 * forward


def test_variants_that_start_differently_are_refused():
    details = {"factorised": {"first_step": {"loss": 3.0}}, "materialised": {"first_step": {}}}
    commands.check_first_steps(details, commands.STEP_TOLERANCE)
    details["materialised"]["first_step"]["loss"] = 3.1
    with pytest.raises(MeasurementError, match="loss of the first step"):
        commands.check_first_steps(details, commands.STEP_TOLERANCE)


def test_a_device_computes_what_the_cpu_computes(device):
    differences = parity.operation_differences(device, "tiny")
    assert max(differences.values()) <= parity.OPERATION_TOLERANCE, differences
    steps = parity.step_differences(tiny_config(), device)
    assert "vtransform gradient" in steps
    assert max(steps.values()) <= parity.STEP_TOLERANCE, steps


def test_parity_that_is_broken_is_named(capsys, monkeypatch):
    monkeypatch.setattr(parity, "step_differences", lambda *_: {"loss_rgb": float("nan")})
    arguments = ["parity", "--device", "cpu", "--size", "tiny"]
    config = ["--cfg_file", str(TINY / "nsmae_pretrain.yaml")]
    assert benchmark.main([*arguments, *config]) == 1
    assert "disagree on: loss_rgb" in capsys.readouterr().err
