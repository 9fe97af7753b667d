"""The map recipes: one grid for all sensors, from samples to maps, from another grid's weights."""

import logging
from functools import cache

import pytest
import torch
from torch import nn

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.detectors.branches import bev_grid
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.optimization.optim import build_optimizer
from nsmae_plugin.training.transfer import load_pretrained
from tests.helpers.dataset_specification import specification_of
from tests.helpers.paths import CFGS

LOGGER = logging.getLogger("recipes")
RECIPES = ["bevfusion_map", "camera_map", "lidar_map", "bevfusion_multitask"]
CLASSES = ["drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "divider"]


def read(name, root):
    """A tiny configuration for the tiny synthetic dataset."""
    return load_config(CFGS / f"tiny/{name}.yaml", ["DATA_CONFIG.DATA_PATH", str(root)])


@cache
def load(name, root, training=True):
    """The dataset of a recipe, and a batch of two samples."""
    nsmae_plugin.register()
    config = read(name, root)
    dataset, loader, _ = build_dataloader(
        config.DATA_CONFIG,
        config.CLASS_NAMES,
        2,
        0,
        training=training,
        seed=0,
        rank=0,
        world_size=1,
        logger=LOGGER,
    )
    return dataset, next(iter(loader))


def build(name, root):
    config = read(name, root)
    dataset, _ = load(name, root)
    torch.manual_seed(0)
    return host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)


SMALLER = [
    *(("tiny", name) for name in RECIPES),
    *(("research", name) for name in RECIPES if name != "lidar_map"),
]


@pytest.mark.parametrize(("folder", "name"), SMALLER)
def test_a_smaller_recipe_is_the_full_one_with_smaller_parts(folder, name):
    full, smaller = (load_config(CFGS / f"{place}/{name}.yaml") for place in (".", folder))
    assert list(full.MODEL) == list(smaller.MODEL)
    assert full.DATA_CONFIG.MAP_CONFIG == smaller.DATA_CONFIG.MAP_CONFIG
    for config in (full, smaller):
        steps = [step.NAME for step in config.DATA_CONFIG.DATA_PROCESSOR]
        assert not any(step.startswith("mask_") for step in steps[1:])  # nothing is hidden
        assert config.DATA_CONFIG.MAP_CONFIG.CLASSES == CLASSES
        assert map_grid(config.DATA_CONFIG.MAP_CONFIG).shape == (200, 200)


def full_grid(name):
    """The grid of a full-size recipe; its voxels come from the configuration alone."""
    config = load_config(CFGS / f"{name}.yaml")
    return bev_grid(config.MODEL, specification_of(config))


@pytest.mark.parametrize("name", RECIPES)
def test_the_full_recipe_is_on_the_grid_of_the_pretraining(name):
    assert full_grid(name) == full_grid("nsmae_pretrain")
    assert full_grid(name).shape == (180, 180)
    published = full_grid("bevfusion_map_voxel01")
    assert published.shape == (128, 128)
    assert published.stride * published.step[0] == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["bevfusion_map", "camera_map"])
def test_position_biases_of_the_full_recipe_do_not_decay(name):
    config = load_config(CFGS / f"{name}.yaml")
    section = config.MODEL.IMAGE_BACKBONE
    backbone = host.lookup("image_backbone", section.NAME)(section)
    model = nn.ModuleDict({"image_backbone": backbone})
    decayed, free = build_optimizer(model, config.OPTIMIZATION).param_groups
    names = {one: name for name, one in model.named_parameters()}
    assert len(free["params"]) == sum(section.DEPTHS)  # one a block
    assert all("relative_position_bias_table" in names[one] for one in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_all_sensors_meet_in_cells_of_80_centimetres(name, synthetic_root):
    dataset, _ = load(name, synthetic_root)
    grid = bev_grid(read(name, synthetic_root).MODEL, dataset)
    assert grid.shape == (128, 128)
    assert grid.stride * grid.step[0] == pytest.approx(0.8)


@pytest.mark.parametrize("name", RECIPES)
def test_samples_give_a_loss_with_gradients_for_every_parameter(name, synthetic_root):
    model = build(name, synthetic_root).train()
    _, batch = load(name, synthetic_root)
    result, terms, _ = model(host.to_device(batch, "cpu"))
    result["loss"].backward()
    assert result["loss"].isfinite()
    assert {f"loss_map_{one}" for one in CLASSES} <= set(terms)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_maps_are_predicted_on_the_grid_of_their_labels(name, synthetic_root):
    model = build(name, synthetic_root).eval()
    _, batch = load(name, synthetic_root, training=False)
    with torch.no_grad():
        predictions, _ = model(host.to_device(batch, "cpu"))
    assert len(predictions) == len(batch["gt_masks_bev"])
    for sample, truth in zip(predictions, batch["gt_masks_bev"], strict=True):
        assert sample["masks_bev"].shape == truth.shape == (6, 200, 200)


@pytest.mark.parametrize(
    ("pretraining", "name"),
    [("nsmae_pretrain", "bevfusion_map"), ("nsmae_pretrain_camera", "camera_map")],
)
def test_weights_of_another_grid_leave_the_grid_alone(pretraining, name, synthetic_root, tmp_path):
    """Pre-trained on cells of 1.6 m, by the checkpoint's own word; here they are 0.8 m."""
    source = build(pretraining, synthetic_root)
    state = source.state_dict()
    # OpenPCDet keeps the grid among its parameters.
    state["vtransform.dx"] = torch.tensor([0.8, 0.8, 20.0])
    state["vtransform.nx"] = torch.tensor([128, 128, 1])
    torch.save({"model_state": state}, tmp_path / "w.pth")
    model, fresh = build(name, synthetic_root), build(name, synthetic_root)
    load_pretrained(model, tmp_path / "w.pth", LOGGER)
    own = fresh.state_dict()
    fresh.load_state_dict({**own, **{k: v for k, v in state.items() if k in own}})
    batch = host.to_device(load(name, synthetic_root, training=False)[1], "cpu")
    found, expected, before = (camera_bev(one, batch) for one in (model, fresh, source))
    assert source.vtransform.grid.size[:2] == (128, 128)
    assert model.vtransform.grid.size[:2] == (256, 256)
    assert found.shape[2:] == (128, 128)
    assert before.shape[2:] == (64, 64)
    assert torch.equal(found, expected)
    assert found.abs().sum() > 0


def camera_bev(model, batch):
    """``spatial_features_img`` of a network in evaluation mode."""
    batch = dict(batch)
    model.eval()
    with torch.no_grad():
        for slot in ("image_backbone", "neck", "vtransform"):
            batch = model.get_submodule(slot)(batch)
    return batch["spatial_features_img"]
