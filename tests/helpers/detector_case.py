"""Detectors of the tiny recipes on a range of 25.6 m, and a made-up batch with boxes for them."""

import copy

import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from tests.helpers.dataset_specification import DatasetSpecification
from tests.helpers.made_up_batch import CORNERS, EXTENT, HEIGHT, VOXEL, WIDTH, made_up_batch
from tests.helpers.paths import TINY

# recipe -> the mode of its batches
SENSORS = {
    "bevfusion_det": "both",
    "camera_det": "camera",
    "centerpoint_lidar": "lidar",
    "transfusion_lidar": "lidar",
}


def make_config(recipe):
    """MODEL of a tiny recipe, for the small range."""
    config = on_small_range(load_config(TINY / f"{recipe}.yaml").MODEL)
    if config.get("DENSE_HEAD", {}).get("NAME") == "CenterHead":
        # OpenPCDet's head needs no fewer cells than objects; here there are 256.
        config.DENSE_HEAD.POST_PROCESSING.MAX_OBJ_PER_SAMPLE = 100
    return config


def on_small_range(config):
    """MODEL with the view transform of the small range and images, if it has one."""
    if "VTRANSFORM" in config:
        config.VTRANSFORM.update(
            IMAGE_SIZE=[HEIGHT, WIDTH],
            FEATURE_SIZE=[HEIGHT // 8, WIDTH // 8],
            XBOUND=[-EXTENT, EXTENT, 0.8],
            YBOUND=[-EXTENT, EXTENT, 0.8],
            DBOUND=[1.0, 25.0, 1.0],
        )
    return config


def make_dataset(**data_config):
    """The dataset of the small range, with the classes of the recipes."""
    classes = load_config(TINY / "bevfusion_det.yaml").CLASS_NAMES
    return DatasetSpecification(CORNERS, [VOXEL] * 3, classes, dataset_cfg=data_config)


def build(recipe, name=None, on=host, config=None):
    """The seeded detector of a recipe, as ``name`` if given, on a host (default: the active)."""
    nsmae_plugin.register()
    config = config or make_config(recipe)
    config.NAME = name or config.NAME
    torch.manual_seed(0)
    return on.build_network(model_cfg=config, num_class=10, dataset=make_dataset())


def check_batch_left_alone(model, batch):
    """The forward pass changes neither the keys nor the tensors of the caller's batch."""
    before = copy.deepcopy(batch)
    model(batch)
    assert list(batch) == list(before)
    for key, value in before.items():
        if torch.is_tensor(value):
            assert torch.equal(batch[key], value), key


def check_every_parameter_learns(model, batch):
    """The loss is finite, and so is the gradient of every parameter."""
    result, _, _ = model(batch)
    result["loss"].backward()
    assert result["loss"].isfinite()
    assert {name for name, p in model.named_parameters() if p.grad is None} == set()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def labels(counts=(3, 2)):
    """(B, M, 10) boxes of a few classes within the range; rows of zeros fill up."""
    boxes = torch.tensor(
        [
            [4.0, 3.0, -1.0, 4.2, 1.9, 1.6, 0.5, 1.0, 0.0, 1],  # car
            [-6.0, 2.0, -1.0, 0.8, 0.7, 1.7, -2.0, 0.5, 0.5, 9],  # pedestrian
            [1.0, -7.0, -0.5, 8.0, 2.6, 3.0, 3.0, 0.0, 0.0, 4],  # bus
        ]
    )
    result = torch.zeros(len(counts), max(counts), 10)
    for sample, count in enumerate(counts):
        result[sample, :count] = boxes[:count]
    return result


def labelled_batch(recipe, counts=(3, 2), cameras=2, device="cpu"):
    batch = made_up_batch(SENSORS[recipe], samples=len(counts), cameras=cameras, device=device)
    for key in ("hidden_voxel_coords", "image_patch_mask", "depth_point_mask"):
        batch.pop(key, None)
    return {**batch, "gt_boxes": labels(counts).to(device)}
