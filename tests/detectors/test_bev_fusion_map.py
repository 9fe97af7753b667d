"""BEVFusionMap with cameras, LiDAR or both, alone and with boxes, on the active host."""

import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.detectors.bev_fusion_map import BEVFusionMap
from nsmae_plugin.errors import ConfigError
from tests.helpers.bfloat16_check import check_bfloat16_training
from tests.helpers.detector_case import build as build_detector
from tests.helpers.detector_case import (
    check_batch_left_alone,
    check_every_parameter_learns,
    make_config,
)
from tests.helpers.map_case import CLASSES, GRID, MAP_CONFIG, MAPS, SHAPE, build, mapped_batch

MULTITASK = "bevfusion_multitask"


def predict(model, batch):
    with torch.no_grad():
        return model.eval()(batch)


@pytest.mark.parametrize("recipe", MAPS)
def test_the_loss_falls_within_a_few_steps(recipe, device):
    model = build(recipe).to(device).train()
    batch, history = mapped_batch(recipe, device=device), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(4):
        result, _, _ = model(batch)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        history.append(result["loss"].item())
    assert history[-1] < 0.8 * history[0], history


@pytest.mark.parametrize("recipe", MAPS)
def test_training_returns_openpcdets_triple_with_a_term_per_class(recipe):
    result, terms, shown = build(recipe).train()(mapped_batch(recipe))
    assert set(result) == {"loss"}
    assert result["loss"].requires_grad
    assert shown == {}
    assert not any(torch.is_tensor(one) and one.requires_grad for one in terms.values())
    values = {name: float(value) for name, value in terms.items()}
    assert values["loss_map"] == pytest.approx(sum(values[f"loss_map_{one}"] for one in CLASSES))
    whole = values["loss_map"] + values.get("loss_trans", 0.0)
    assert result["loss"].item() == pytest.approx(whole)
    assert ("loss_trans" in terms) is (recipe == MULTITASK)


def test_the_weight_of_the_map_reaches_the_loss_and_not_its_term():
    config = make_config("lidar_map")
    config.MAP_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.map_weight = 0.25
    result, terms, _ = build("lidar_map", config).train()(mapped_batch("lidar_map"))
    plain, same, _ = build("lidar_map").train()(mapped_batch("lidar_map"))
    assert result["loss"].item() == pytest.approx(0.25 * plain["loss"].item())
    assert terms["loss_map"] == same["loss_map"]


@pytest.mark.parametrize("recipe", MAPS)
def test_evaluation_returns_a_probability_per_class_and_cell(recipe, device):
    model, batch = build(recipe).to(device), mapped_batch(recipe, device=device)
    predictions, recall = predict(model, batch)
    unlabelled = {k: v for k, v in batch.items() if not k.startswith("gt_")}
    again, none = predict(model, unlabelled)
    assert len(predictions) == 2
    boxes = {"pred_boxes", "pred_scores", "pred_labels"} if recipe == MULTITASK else set()
    for sample, same in zip(predictions, again, strict=True):
        assert set(sample) == {"masks_bev"} | boxes
        assert sample["masks_bev"].shape == SHAPE
        assert sample["masks_bev"].dtype == torch.float32
        assert ((sample["masks_bev"] > 0) & (sample["masks_bev"] < 1)).all()
        assert torch.equal(sample["masks_bev"], same["masks_bev"])
    assert recall.get("gt", 0) == (5 if recipe == MULTITASK else 0)
    assert none == {}


@pytest.mark.parametrize("place", [(8.0, -5.0), (-9.0, 7.0)])
def test_a_change_in_the_cloud_changes_the_map_at_its_place(place):
    model, batch = build("lidar_map"), mapped_batch("lidar_map", samples=1)
    before = predict(model, batch)[0][0]["masks_bev"]
    centre = (batch["voxel_coords"][:, [3, 2]] + 0.5) * 0.2 - 12.8
    near = (centre - torch.tensor(place)).norm(dim=1) < 1.5
    batch["voxels"][near] += 5.0
    change = (predict(model, batch)[0][0]["masks_bev"] - before).abs().sum(0)
    middle = (change[..., None] * torch.from_numpy(GRID.centres())).sum((0, 1)) / change.sum()
    # Within two of the cells of 1.6 m: the change spreads through strides and convolutions.
    assert (middle - torch.tensor(place)).norm() < 3.2, middle


def test_a_change_in_one_camera_changes_the_map_where_it_looks():
    model, batch = build("camera_map"), mapped_batch("camera_map", samples=1)
    before = predict(model, batch)[0][0]["masks_bev"]
    batch["camera_imgs"][:, 0] = batch["camera_imgs"][:, 0].flip(-1)  # looks along x
    change = (predict(model, batch)[0][0]["masks_bev"] - before).abs().sum((0, 1))
    ahead = torch.from_numpy(GRID.axes()[0]) > 0
    # Behind as well: the coarse level of the decoder has four cells of 6.4 m along the map.
    assert change[ahead].sum() > 2 * change[~ahead].sum()


@pytest.mark.parametrize("recipe", MAPS)
def test_every_parameter_learns_also_from_an_empty_map(recipe):
    model, batch = build(recipe).train(), mapped_batch(recipe)
    batch["gt_masks_bev"] = torch.zeros_like(batch["gt_masks_bev"])
    check_every_parameter_learns(model, batch)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", MAPS)
def test_the_callers_batch_is_left_alone(recipe, training):
    check_batch_left_alone(build(recipe).train(training), mapped_batch(recipe))


def test_the_slots_are_those_of_a_detector_and_the_map_head():
    names = {name.partition(".")[0] for name in build_detector("bevfusion_det").state_dict()}
    found = {name.partition(".")[0] for name in build(MULTITASK).state_dict()}
    assert found == names | {"map_head"}
    without = {name.partition(".")[0] for name in build("bevfusion_map").state_dict()}
    assert without == found - {"dense_head"}
    assert build("bevfusion_map").dense_head is None


def test_boxes_beside_a_map_are_those_of_the_detector_alone():
    both = build(MULTITASK)
    config = make_config(MULTITASK)
    config.MAP_HEAD = None
    alone = build_detector(MULTITASK, "BEVDetector", config=config)
    state = {k: v for k, v in both.state_dict().items() if not k.startswith("map_head.")}
    alone.load_state_dict(state)
    batch = mapped_batch(MULTITASK)
    (mine, recall), (theirs, expected) = predict(both, batch), predict(alone, batch)
    assert recall == expected
    for sample, reference in zip(mine, theirs, strict=True):
        assert all(torch.equal(sample[key], value) for key, value in reference.items())
    _, terms, _ = both.train()(batch)
    _, box_terms, _ = alone.train()(batch)
    assert {key: terms[key] for key in box_terms} == box_terms


@pytest.mark.parametrize("cameras", [1, 5])
@pytest.mark.parametrize("recipe", ["bevfusion_map", "camera_map"])
def test_any_number_of_cameras(recipe, cameras):
    result, _, _ = build(recipe).train()(mapped_batch(recipe, cameras=cameras))
    assert result["loss"].isfinite()


@pytest.mark.parametrize("recipe", MAPS)
def test_bfloat16_trains_with_a_loss_in_float32(recipe, device):
    check_bfloat16_training(build(recipe).to(device), mapped_batch(recipe, device=device))


def test_data_without_labels_or_with_another_grid_is_named():
    model, batch = build(MULTITASK).train(), mapped_batch(MULTITASK)
    for key, message in (
        ("gt_masks_bev", r"no gt_masks_bev: set DATA_CONFIG\.MAP_CONFIG"),
        ("gt_boxes", r"no gt_boxes: set DATA_CONFIG\.USE_LABELS"),
    ):
        with pytest.raises(ConfigError, match=message):
            model({k: v for k, v in batch.items() if k != key})
    for masks in (batch["gt_masks_bev"][:, :1], batch["gt_masks_bev"].mT):
        with pytest.raises(ConfigError, match=r"built for \(3, 38, 48\): use one DATA_CONFIG"):
            model({**batch, "gt_masks_bev": masks})


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({}, {"MAP_CONFIG": None}, r"MAP_HEAD needs DATA_CONFIG\.MAP_CONFIG"),
        ({"MAP_HEAD": None}, {}, r"BEVFusionMap needs MODEL\.MAP_HEAD"),
        ({"BACKBONE_2D": None}, {}, r"BEVFusionMap needs MODEL\.BACKBONE_2D"),
        ({"NAME": "BEVDetector"}, {}, r"no place for MODEL\.MAP_HEAD.*\(BEVFusionMap has a MAP"),
        ({}, {"XBOUND": [-50.0, 50.0, 0.5]}, r"XBOUND reaches from -50 to 50 m"),
        (
            {},
            {"CLASSES": ["road"]},
            "CLASSES must be a list that names one or more of",
        ),
    ],
)
def test_configurations_that_make_no_map_network_are_named(model, data, message):
    config = make_config(MULTITASK)
    config.update(model)
    map_config = data.get("MAP_CONFIG", {**MAP_CONFIG, **data})
    with pytest.raises(ConfigError, match=message):
        build(MULTITASK, config, MAP_CONFIG=map_config)


def test_levels_of_the_backbone_that_do_not_meet_are_named():
    config = make_config("lidar_map")
    config.BACKBONE_2D.UPSAMPLE_STRIDES = [1, 1]
    with pytest.raises(ConfigError, match=r"levels of MODEL\.BACKBONE_2D end with cells of 8, 16"):
        build("lidar_map", config)


def test_it_is_registered_under_its_name():
    build("camera_map")
    assert host.lookup("detector", "BEVFusionMap") is BEVFusionMap
