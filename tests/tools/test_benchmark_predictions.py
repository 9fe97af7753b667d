"""Growth, prediction and made-up labels of the benchmark."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.depth_map import image_returns
from tests.helpers.paths import TINY
from tests.tools.test_benchmark import tiny_config
from tools import benchmark
from tools.benchmarks import frustum, growth, inference, step
from tools.benchmarks.inputs import made_up_batch
from tools.benchmarks.measure import MeasurementError

CPU = torch.device("cpu")


def test_made_up_labels_are_those_that_the_configuration_asks_for():
    both = load_config(TINY / "bevfusion_multitask.yaml")
    batch = made_up_batch(both, batch=2)
    data = both.DATA_CONFIG
    assert batch["gt_boxes"].shape[::2] == (2, 10)
    assert set(batch["gt_boxes"][..., -1].flatten()) <= set(range(1, 11))
    assert batch["gt_masks_bev"].dtype == bool
    assert batch["gt_masks_bev"].shape[:2] == (2, len(data.MAP_CONFIG.CLASSES))
    assert 0 < batch["gt_masks_bev"].mean() < 0.5
    assert "image_patch_mask" not in batch
    for absent in (made_up_batch(both, 1, mode="test"), made_up_batch(tiny_config(), 1)):
        assert not {"gt_boxes", "gt_masks_bev"} & set(absent)


def test_a_step_of_detection_and_maps_is_measured_by_module():
    config = load_config(TINY / "camera_map.yaml")
    result = step.measure_variant(config, "factorised", 1, CPU, repeats=1)
    assert {"image_backbone", "vtransform", "map_head"} <= set(result["modules"])
    assert all(row["forward"] > 0 for row in result["modules"].values())
    assert set(result["stages"]) == {"geometry"}
    assert result["first_step"]["loss_map"] > 0


def test_without_a_frustum_there_is_nothing_to_materialise():
    config = load_config(TINY / "centerpoint_lidar.yaml")
    with pytest.raises(ConfigError, match="no frustum"):
        step.build_model(config, "materialised")


@pytest.mark.parametrize(("axis", "value"), [("cameras", 3), ("depth bins", 40), ("batch", 2)])
def test_each_axis_changes_one_dimension(axis, value):
    case = growth.vary(growth.Case(frustum.SIZES["tiny"]), axis, value)
    found = {"cameras": case.size.cameras, "depth bins": case.size.bins, "batch": case.batch}
    usual = {"cameras": 2, "depth bins": 20, "batch": 1}
    assert found == usual | {axis: value}


def test_the_grid_keeps_its_range_and_gets_as_many_cells():
    case = growth.vary(growth.Case(frustum.SIZES["tiny"]), "BEV cells", 64**2)
    assert case.size.bev == (-16.0, 16.0, 0.5)


def test_growth_is_the_power_between_the_first_and_the_last_value():
    """By hand: eight times the time and twice the memory for four times the value."""
    rows = [
        {"value": 2, "seconds": [1.0, 3.0], "mib": [10.0]},
        {"value": 8, "seconds": [9.0, 8.0], "mib": [20.0]},
    ]
    assert growth.exponents(rows) == {"seconds": pytest.approx(1.5), "mib": pytest.approx(0.5)}
    rows[1]["mib"] = []
    assert growth.exponents(rows)["mib"] is None


def test_the_command_draws_growth(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "AXES", {"tiny": {"batch": (1, 2), "points": (1000, 4000)}})
    plot = tmp_path / "growth.png"
    options = ["growth", "--size", "tiny", "--repeats", "1", "--plot", str(plot)]
    assert benchmark.main(options) == 0
    assert plot.stat().st_size > 1000
    assert "time as batch^" in capsys.readouterr().out


def test_what_predicts_nothing_is_refused():
    with pytest.raises(ConfigError, match="neither boxes nor a map"):
        inference.prepare(tiny_config())


def test_no_two_points_are_left_in_a_pixel():
    batch = host.to_device(made_up_batch(load_config(TINY / "camera_det.yaml"), 2), CPU)
    thinned = inference.without_collisions(batch)
    assert 0.3 * len(batch["points"]) < len(thinned["points"]) < len(batch["points"])
    keys = ("lidar2image", "img_aug_matrix", "lidar_aug_matrix")
    size = tuple(batch["camera_imgs"].shape[-2:])
    returns = image_returns(thinned["points"], *(batch[key] for key in keys), size)
    pixels = torch.cat((returns.image[:, None], returns.pixel.long()), dim=1)
    assert len(pixels.unique(dim=0)) == len(pixels) > 1000


def test_features_that_agree_but_for_a_few_cells_are_told_from_others(tmp_path):
    features = torch.linspace(1, 2, 1000).view(1, 10, 10, 10)
    torch.save({"features": features}, tmp_path / "factorised.pth")
    other = features.clone()
    other[0, 0, :5] += 1.0  # 50 of 1000, as beside a point that falls into another cell
    torch.save({"features": other}, tmp_path / "openpcdet.pth")
    result = inference.agreement(tmp_path, inference.VARIANTS)
    assert result == {"features": {"median": 0.0, "share": pytest.approx(0.95)}}
    inference.check(result)


@pytest.mark.parametrize(
    "result",
    [
        {"median": 1e-3, "share": 1.0},  # a little everywhere
        {"median": 0.0, "share": 0.8},
        {"median": float("nan"), "share": 0.0},
    ],
)
def test_features_of_another_network_are_refused(result):
    with pytest.raises(MeasurementError, match=r"the masks differ"):
        inference.check({"masks": result})


def test_settled_features_do_not_fade():
    config = inference.prepare(load_config(TINY / "camera_map.yaml"))
    model = step.build_model(config).eval()
    batch = host.to_device(made_up_batch(config, 1, cameras=2, mode="test"), CPU)
    seen = {}
    model.map_head.register_forward_pre_hook(
        lambda _, inputs: seen.update(features=inputs[0]["spatial_features_2d"])
    )
    with torch.no_grad():
        model(dict(batch))
        untrained = seen["features"].std()
        inference.settle(model, batch)
        model(dict(batch))
    assert seen["features"].std() > 10 * untrained
    assert not any(module.training for module in model.modules())


def test_the_command_measures_prediction(tmp_path):
    path = tmp_path / "report.json"
    options = ["inference", "--cfg_file", str(TINY / "camera_map.yaml"), "--only_factorised"]
    options += ["--rounds", "1", "--repeats", "1", "--json", str(path)]
    assert benchmark.main(options) == 0
    report = json.loads(path.read_text())["batch 1"]
    assert report["factorised"]["seconds"]["median"] > 0
    assert report["agreement"] == {}


@pytest.mark.openpcdet
def test_openpcdets_modules_compute_the_same(openpcdet_root, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    options = ["inference", "--cfg_file", str(TINY / "bevfusion_det.yaml")]
    options += ["--rounds", "1", "--repeats", "1", "--json", str(path)]
    options += ["--set", "DATA_CONFIG.MAX_SWEEPS", "1"]
    monkeypatch.setenv("NSMAE_HOST", "builtin")
    assert benchmark.main(options) == 0
    report = json.loads(Path(path).read_text())["batch 1"]
    assert report["agreement"]["features"]["share"] > inference.AGREEING
    assert np.isfinite(report["openpcdet"]["seconds"]["median"])
