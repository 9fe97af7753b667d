"""Every detector configuration takes all of its encoders from the pre-training it names."""

import logging

import pytest
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.training import checkpoint, weights
from nsmae_plugin.training.export import export
from nsmae_plugin.training.transfer import load_pretrained
from tests.helpers.paths import CFGS

LOGGER = logging.getLogger("recipes")
DATA = {
    "VERSION": "v1.0-mini",
    "MAX_SWEEPS": 3,
    "INFO_PATH.train": ["nuscenes_infos_3sweeps_train.pkl"],
    "INFO_PATH.test": ["nuscenes_infos_3sweeps_val.pkl"],
    # One needs a database of objects, the other cameras; neither matters to a network.
    "DATA_AUGMENTOR.DISABLE_AUG_LIST": ["gt_sampling", "imgaug"],
    "VALIDATION_FRACTION": 0.0,  # there are but two scenes for training
}
# Slot -> tensors of the tiny network. Backbone: 14 in each of 5 blocks, 4 of the patches, 3 x 3
# between stages, 3 x 2 of the norms behind them. Neck: 4 convolutions, each with the 5 tensors of a
# BatchNorm. View transform: the 2 of depthnet, and 3 convolutions with BatchNorm.
CAMERA_TENSORS = {"image_backbone": 89, "neck": 24, "vtransform": 20}
RECIPES = {
    "nsmae_pretrain": [
        "bevfusion_det",
        "transfusion_lidar",
        "centerpoint_lidar",
        "bevfusion_map",
        "bevfusion_map_voxel01",
        "bevfusion_multitask",
        "camera_det_depth",
        "camera_map_depth",
    ],
    "nsmae_pretrain_128x352": ["bevfusion_det_128x352"],
    "nsmae_pretrain_camera": ["camera_det", "camera_map"],
    "nsmae_pretrain_camera_depth": ["camera_det_depth", "camera_map_depth"],
    "nsmae_pretrain_lidar": ["transfusion_lidar", "centerpoint_lidar", "lidar_map"],
    "tiny/nsmae_pretrain": [
        "tiny/bevfusion_det",
        "tiny/transfusion_lidar",
        "tiny/centerpoint_lidar",
        "tiny/camera_det_depth",
        "tiny/camera_map_depth",
        "tiny/bevfusion_map",
        "tiny/bevfusion_map_coarse",
        "tiny/bevfusion_multitask",
    ],
    "tiny/nsmae_pretrain_camera": ["tiny/camera_det", "tiny/camera_map"],
    "tiny/nsmae_pretrain_camera_depth": ["tiny/camera_det_depth", "tiny/camera_map_depth"],
    "tiny/nsmae_pretrain_lidar": [
        "tiny/transfusion_lidar",
        "tiny/centerpoint_lidar",
        "tiny/lidar_map",
    ],
    "research/nsmae_pretrain": [
        "research/bevfusion_det",
        "research/centerpoint_lidar",
        "research/bevfusion_map",
        "research/bevfusion_multitask",
    ],
    "research/nsmae_pretrain_camera": ["research/camera_det", "research/camera_map"],
    "research/nsmae_pretrain_lidar": ["research/centerpoint_lidar"],
}

TWO_CLASSES = [
    *("CLASS_NAMES", "['car', 'pedestrian']"),
    *("MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.DATASET", "other"),
]


def build(name, root, changes=()):
    """The network of a configuration, on the active host and the tiny synthetic dataset."""
    nsmae_plugin.register()
    settings = {"DATA_CONFIG.DATA_PATH": root}
    settings |= {f"DATA_CONFIG.{key}": value for key, value in DATA.items()}
    overrides = [*(str(part) for setting in settings.items() for part in setting), *changes]
    config = load_config(CFGS / f"{name}.yaml", overrides)
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    return host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)


def test_every_detector_is_listed():
    detectors = {
        str(path.relative_to(CFGS).with_suffix(""))
        for folder in (CFGS, CFGS / "tiny", CFGS / "research")
        for path in folder.glob("*.yaml")
        if load_config(path).MODEL.NAME != "NSMAE"
    }
    # The keyframe is learnt by heart from scratch.
    assert detectors - {"tiny/bevfusion_det_keyframe"} == {
        n for one in RECIPES.values() for n in one
    }


@pytest.mark.parametrize("pretraining", RECIPES)
def test_detectors_start_from_all_encoders_of_their_pretraining(
    pretraining, synthetic_root, tmp_path
):
    torch.manual_seed(0)
    (tmp_path / "ckpt").mkdir()
    content = {"model_state": build(pretraining, synthetic_root).state_dict()}
    torch.save(content, tmp_path / "ckpt/checkpoint_epoch_1.pth")
    export(tmp_path / "ckpt", tmp_path / "w.pth")
    exported = weights.read(tmp_path / "w.pth")["model_state"]
    for detector in RECIPES[pretraining]:
        model = build(detector, synthetic_root)
        found = load_pretrained(model, tmp_path / "w.pth", LOGGER)
        state = model.state_dict()
        assert found.keys() == set(weights.slots_of(state)) & set(weights.ENCODERS), detector
        for slot, one in found.items():
            assert one.complete, (detector, slot)
            # OpenPCDet's CenterPoint has biases that the pre-trained encoder does without.
            biased = detector == "centerpoint_lidar" and slot == "backbone_3d"
            assert bool(one.zeroed) is biased, (detector, slot)
            assert not any(state[name].any() for name in one.zeroed)
            assert all(torch.equal(state[name], exported[name]) for name in one.loaded)


@pytest.mark.parametrize(
    ("pretraining", "detector", "name"),
    [
        ("tiny/nsmae_pretrain", "tiny/camera_det", "FactorizedDepthLSSTransform"),
        ("tiny/nsmae_pretrain_camera", "tiny/camera_map_depth", "FactorizedLSSTransform"),
    ],
)
def test_the_other_view_transform_is_named(pretraining, detector, name, synthetic_root, tmp_path):
    source = build(pretraining, synthetic_root).state_dict()
    torch.save({"model_state": source}, tmp_path / "w.pth")
    model = build(detector, synthetic_root)
    remedy = rf"Set MODEL\.VTRANSFORM\.NAME to {name}, as where the weights come from"
    with pytest.raises(CheckpointError, match=remedy):
        load_pretrained(model, tmp_path / "w.pth", LOGGER)
    with pytest.raises(CheckpointError, match=remedy):
        checkpoint.load_model_state(model, source, tmp_path / "w.pth")


@pytest.mark.parametrize("detector", ["tiny/camera_det", "tiny/bevfusion_det"])
def test_masked_images_give_image_backbone_and_neck(detector, synthetic_root, tmp_path):
    torch.manual_seed(0)
    source = build("tiny/masked_image", synthetic_root).state_dict()
    torch.save({"model_state": source}, tmp_path / "w.pth")
    export(tmp_path / "w.pth", tmp_path / "exported/w.pth")
    model = build(detector, synthetic_root)
    found = load_pretrained(model, tmp_path / "exported/w.pth", LOGGER)
    assert found.keys() == {"image_backbone", "neck"}
    assert all(one.complete for one in found.values())


@pytest.mark.parametrize(
    ("detector", "other", "changes"),
    [
        ("tiny/bevfusion_det", "tiny/bevfusion_map", []),
        ("tiny/camera_det", "tiny/camera_map", []),
        ("tiny/centerpoint_lidar", "tiny/transfusion_lidar", []),
        ("tiny/bevfusion_det", "tiny/bevfusion_det", TWO_CLASSES),
    ],
)
def test_a_detector_gives_its_encoders_to_another_task(
    detector, other, changes, synthetic_root, tmp_path
):
    """By its checkpoint and by an export, which holds the encoders alone."""
    torch.manual_seed(0)
    source = build(detector, synthetic_root).state_dict()
    torch.save({"model_state": source}, tmp_path / "w.pth")
    export(tmp_path / "w.pth", tmp_path / "exported/w.pth")
    model = build(other, synthetic_root, changes)
    encoders = set(weights.slots_of(source)) & set(weights.ENCODERS)
    for name in ("w.pth", "exported/w.pth"):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        taken = load_pretrained(model, tmp_path / name, LOGGER)
        assert encoders <= taken.keys() <= encoders | {"fuser", "backbone_2d", "dense_head"}
        assert all(taken[slot].complete for slot in encoders)
        loaded = {key for one in taken.values() for key in one.loaded}
        for key, value in model.state_dict().items():
            assert torch.equal(value, source[key] if key in loaded else before[key]), key
    assert taken.keys() == encoders


@pytest.mark.parametrize("detector", ["tiny/camera_map", "tiny/camera_det"])
def test_cameras_alone_take_over_every_tensor_of_their_branch(detector, synthetic_root, tmp_path):
    torch.manual_seed(0)
    source = build("tiny/nsmae_pretrain_camera", synthetic_root).state_dict()
    torch.save({"model_state": source}, tmp_path / "w.pth")
    model = build(detector, synthetic_root)
    load_pretrained(model, tmp_path / "w.pth", LOGGER)
    state = model.state_dict()
    taken = {slot: [n for n in state if n.startswith(f"{slot}.")] for slot in CAMERA_TENSORS}
    assert {slot: len(names) for slot, names in taken.items()} == CAMERA_TENSORS
    for name in (name for names in taken.values() for name in names):
        assert torch.equal(state[name], source[name]), name
