"""Pre-training by masked images alone, and beside the heads of the paper."""

import logging

import numpy as np
import pytest
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.detectors.test_nsmae import train
from tests.helpers.bfloat16_check import check_bfloat16_training
from tests.helpers.dataset_specification import DatasetSpecification
from tests.helpers.detector_case import check_batch_left_alone, on_small_range
from tests.helpers.made_up_batch import CORNERS, VOXEL, made_up_batch
from tests.helpers.paths import TINY

ALONE = ["MODEL.RENDER_HEADS", "[{'NAME': 'MaskedImageHead'}]"]
WEIGHTS = (
    "{'masked_image_weight': 1.0, 'rgb_weight': 100, 'depth_weight': 1, 'bev_depth_weight': 1}"
)
WEIGHTS = ["MODEL.LOSS_CONFIG.LOSS_WEIGHTS", WEIGHTS]


def build(recipe="masked_image", overrides=()):
    """The tiny network of a recipe on a range of 25.6 m, seeded."""
    nsmae_plugin.register()
    config = load_config(TINY / f"{recipe}.yaml", overrides)
    vtransform = config.MODEL.get("VTRANSFORM")
    model = on_small_range(config.MODEL) if vtransform is not None else config.MODEL
    torch.manual_seed(0)
    return host.build_network(model, 1, DatasetSpecification(CORNERS, [VOXEL] * 3))


def made_up_images(device="cpu"):
    """What a dataset without LiDAR delivers."""
    batch = made_up_batch("camera", device=device)
    return {key: value for key, value in batch.items() if "point" not in key}


def test_the_network_is_image_backbone_and_neck():
    model = build()
    slots = {name.split(".")[0] for name in model.state_dict()}
    assert slots == {"global_step", "mask_token", "image_backbone", "neck", "masked_image_head"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.find_unused_parameters


def test_training_lowers_the_loss_and_reaches_every_parameter(device):
    model = build().to(device).train()
    history = train(model, made_up_images(device), steps=12)
    assert list(history[0]) == ["loss_masked_image", "weighted_masked_image"]
    assert history[-1]["loss_masked_image"] < 0.9 * history[0]["loss_masked_image"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    slots = ("mask_token", "image_backbone", "neck", "masked_image_head")
    for slot in slots:
        assert any(p.grad.any() for p in getattr(model, slot).parameters()), slot


def test_a_dataset_without_lidar_feeds_it_and_the_loss_falls(synthetic_root):
    nsmae_plugin.register()
    config = load_config(TINY / "masked_image.yaml", ["DATA_CONFIG.DATA_PATH", str(synthetic_root)])
    image = {"FINAL_DIM": [64, 96], "RESIZE_LIM_TRAIN": [0.7, 0.8], "RESIZE_LIM_TEST": [0.7, 0.7]}
    config.DATA_CONFIG.CAMERA_CONFIG.IMAGE.update(image)
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    torch.manual_seed(0)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).train()
    np.random.seed(0)  # noqa: NPY002 (the dataset draws from the global state)
    batch = host.to_device(dataset.collate_batch([dataset[0], dataset[1]]), "cpu")
    assert not {"points", "voxels"} & batch.keys()
    history = [terms["loss_masked_image"] for terms in train(model, batch, steps=15)]
    assert history[-1] < 0.8 * history[0]


def test_bfloat16_autocast_trains_with_float32_predictions(device):
    check_bfloat16_training(build().to(device), made_up_images(device))


def test_hidden_pixels_do_not_reach_the_prediction_and_visible_ones_do():
    model, batch = build().eval(), made_up_images()
    hidden = batch["image_patch_mask"].repeat_interleave(8, -1).repeat_interleave(8, -2)
    clean = batch["camera_imgs"]
    with torch.no_grad():
        (first, _), _ = model(batch)
        batch["camera_imgs"] = torch.where(hidden[:, :, None], 0.7, clean)
        (second, _), _ = model(batch)
        batch["camera_imgs"] = torch.where(hidden[:, :, None], clean, 0.7)
        (third, _), _ = model(batch)
    assert torch.equal(first["rendered_image"], second["rendered_image"])
    assert not torch.equal(first["target_image"], second["target_image"])
    assert not torch.equal(first["rendered_image"], third["rendered_image"])


def test_what_is_visible_is_no_target():
    model, batch = build().eval(), made_up_images()
    with torch.no_grad():
        (sample, _), _ = model(batch)
        shown = ~sample["image_patch_mask"].repeat_interleave(8, -1).repeat_interleave(8, -2)
        changed = sample | {"target_image": sample["target_image"] + 3.0 * shown[:, None]}
        losses = [model.masked_image_head.losses(one)["masked_image"] for one in (sample, changed)]
    assert losses[0] == losses[1] == pytest.approx(sample["loss_terms"]["loss_masked_image"])


def test_the_callers_batch_is_left_alone():
    check_batch_left_alone(build().train(), made_up_images())


def test_it_stands_beside_the_heads_of_the_paper():
    names = ("MaskedImageHead", "PerspectiveRenderHead", "BEVRenderHead")
    heads = str([{"NAME": name} for name in names])
    model = build("nsmae_pretrain", ["MODEL.RENDER_HEADS", heads, *WEIGHTS]).train()
    result, terms, _ = model(made_up_batch())
    result["loss"].backward()
    assert [name for name in terms if name.startswith("loss_")] == [
        "loss_masked_image",
        "loss_rgb",
        "loss_depth",
        "loss_bev_depth",
    ]
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("recipe", ["nsmae_pretrain", "nsmae_pretrain_camera"])
def test_alone_in_a_larger_network_it_trains_image_backbone_and_neck(recipe, caplog):
    with caplog.at_level(logging.WARNING):
        model = build(recipe, [*ALONE, *WEIGHTS]).train()
    assert "['MaskedImageHead'] reads nothing of it: " in caplog.text
    mode = "both" if recipe == "nsmae_pretrain" else "camera"
    result, _, _ = model(made_up_batch(mode))
    result["loss"].backward()
    # DistributedDataParallel wants a gradient of all that requires one.
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"mask_token", "image_backbone", "neck", "masked_image_head"}
    assert all((p.grad is not None) is p.requires_grad for p in model.parameters())


def test_a_head_that_needs_the_view_transform_is_refused_without_it():
    heads = "[{'NAME': 'MaskedImageHead'}, {'NAME': 'PerspectiveRenderHead'}]"
    with pytest.raises(ConfigError, match=r"without a view transform: set MODEL\.VTRANSFORM\.NAME"):
        build(overrides=["MODEL.RENDER_HEADS", heads, *WEIGHTS])


def test_a_lidar_branch_beside_it_still_needs_a_head():
    heads = "[{'NAME': 'MaskedImageHead'}, {'NAME': 'PerspectiveRenderHead'}]"
    with pytest.raises(ConfigError, match="reads spatial_features"):
        build("nsmae_pretrain", ["MODEL.RENDER_HEADS", heads, *WEIGHTS])
