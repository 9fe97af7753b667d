"""Configurations that cannot work are refused with the keys to change."""

import copy

import pytest
from easydict import EasyDict

from nsmae_plugin.detectors.branches import bev_grid
from nsmae_plugin.detectors.render_heads import check_branches, check_heads
from nsmae_plugin.errors import ConfigError
from tests.helpers.dataset_specification import DatasetSpecification
from tests.helpers.heads import bev_head, perspective_head

CAMERA = {
    "MASK_TOKEN": {"NAME": "ImageMaskToken", "PATCH_SIZE": 8},
    "IMAGE_BACKBONE": {"NAME": "SwinTransformer"},
    "NECK": {"NAME": "GeneralizedLSSFPN"},
    "VTRANSFORM": {
        "NAME": "FactorizedDepthLSSTransform",
        "IMAGE_SIZE": [256, 704],
        "FEATURE_SIZE": [32, 88],
        "OUT_CHANNEL": 80,
        "XBOUND": [-54.0, 54.0, 0.3],
        "YBOUND": [-54.0, 54.0, 0.3],
        "DBOUND": [1.0, 60.0, 0.5],
        "DOWNSAMPLE": 2,
    },
}
LIDAR = {
    "VFE": {"NAME": "MeanVFE"},
    "BACKBONE_3D": {"NAME": "VoxelResBackBone8x"},
    "MAP_TO_BEV": {"NAME": "HeightCompression", "NUM_BEV_FEATURES": 256},
}
COMMON = {
    "RENDER_HEADS": [{"NAME": "PerspectiveRenderHead"}, {"NAME": "BEVRenderHead"}],
    "LOSS_CONFIG": {
        "LOSS_WEIGHTS": {"rgb_weight": 1e4, "depth_weight": 1e-2, "bev_depth_weight": 5e-2},
        "DEPTH_STOP_EPOCH": None,
    },
}


def model(*parts, **vtransform):
    parts = copy.deepcopy((*parts, COMMON))
    config = EasyDict({key: value for part in parts for key, value in part.items()})
    if vtransform:
        config.VTRANSFORM.update(vtransform)
    return config


def paper_dataset(extent=54.0, voxel=0.075):
    corners = (-extent, -extent, -5, extent, extent, 3)
    return DatasetSpecification(corners, voxel_size=[voxel, voxel, 0.2])


@pytest.mark.parametrize("parts", [(CAMERA, LIDAR), (CAMERA,), (LIDAR,)])
def test_the_papers_configuration_is_accepted_with_either_branch_or_both(parts):
    config = model(*parts)
    check_branches(config)
    grid = bev_grid(config, paper_dataset())
    assert grid.stride == 8
    assert grid.shape == (180, 180)
    assert grid.size == (1440, 1440, 40)
    assert (grid.lower, grid.step) == ((-54.0, -54.0, -5.0), (0.075, 0.075, 0.2))


@pytest.mark.parametrize("section", ["MASK_TOKEN", "IMAGE_BACKBONE", "NECK", "VTRANSFORM"])
def test_half_a_camera_branch_is_named(section):
    config = model({key: value for key, value in CAMERA.items() if key != section}, LIDAR)
    with pytest.raises(ConfigError, match=f"camera branch lacks MODEL.{section}"):
        check_branches(config)


@pytest.mark.parametrize("section", ["VFE", "BACKBONE_3D", "MAP_TO_BEV"])
def test_half_a_lidar_branch_is_named(section):
    config = model(CAMERA, {key: value for key, value in LIDAR.items() if key != section})
    with pytest.raises(ConfigError, match=f"LiDAR branch lacks MODEL.{section}"):
        check_branches(config)


def test_no_branch_is_refused():
    with pytest.raises(ConfigError, match="or both"):
        check_branches(EasyDict(model(), NAME="NSMAE"))


def test_no_head_is_refused():
    config = model(CAMERA, LIDAR)
    config.RENDER_HEADS = []
    with pytest.raises(ConfigError, match=r"needs MODEL\.RENDER_HEADS"):
        check_branches(config)


BRANCHES = ("spatial_features_img", "spatial_features")


def heads():
    return [perspective_head(), bev_head(dict.fromkeys(BRANCHES, 4))]


def test_heads_that_leave_a_branch_without_a_loss_are_refused():
    check_heads(heads(), model(CAMERA, LIDAR), BRANCHES)
    with pytest.raises(ConfigError, match=r"reads spatial_features_img, .* add {NAME: BEVRender"):
        check_heads(heads()[:1], model(CAMERA), BRANCHES[:1])


def test_two_heads_in_one_place_are_refused():
    with pytest.raises(ConfigError, match="have the slot 'bev_head'"):
        check_heads([*heads(), bev_head()], model(CAMERA, LIDAR), BRANCHES)


def test_a_term_without_a_weight_is_refused():
    config = model(CAMERA, LIDAR)
    del config.LOSS_CONFIG.LOSS_WEIGHTS["depth_weight"]
    with pytest.raises(ConfigError, match=r"missing key MODEL\.LOSS_CONFIG\.\S+\.depth_weight"):
        check_heads(heads(), config, BRANCHES)


def test_a_weight_without_its_term_is_refused():
    config = model(LIDAR)  # which has the weights of the cameras' terms
    check_heads([bev_head()], config, BRANCHES[1:])
    config.LOSS_CONFIG.LOSS_WEIGHTS["bev_dept_weight"] = 1.0
    with pytest.raises(ConfigError, match=r"bev_dept_weight weighs a .* mean bev_depth_weight"):
        check_heads([bev_head()], config, BRANCHES[1:])


@pytest.mark.parametrize("epoch", ["ten", -3, [1, 2], True, float("nan")])
def test_a_stop_is_a_number(epoch):
    config = model(CAMERA, LIDAR)
    config.LOSS_CONFIG["RGB_STOP_EPOCH"] = epoch
    with pytest.raises(ConfigError, match=r"\.RGB_STOP_EPOCH must be a number of at least 0"):
        check_heads(heads(), config, BRANCHES)


@pytest.mark.parametrize(("height", "bins"), [(100.0, 0), (1e-6, 2_000_000)])
def test_bins_that_are_too_high_or_too_thin_are_refused(height, bins):
    with pytest.raises(ConfigError, match=rf"BIN_HEIGHT \S+ divides the 2 m .* into {bins} bins"):
        bev_head(height=height)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("BEV_DEPTH_STOP_EPOCH", r"nothing is left to learn after .*\.BEV_DEPTH_STOP_EPOCH: set"),
        ("DEPTH_STOP_EPOCH", r"\.DEPTH_STOP_EPOCH ends a term that none of .* has; set it to null"),
    ],
)
def test_lidar_alone_may_not_stop_its_only_loss(key, message):
    config = model(LIDAR)
    config.LOSS_CONFIG[key] = 10
    with pytest.raises(ConfigError, match=message):
        check_heads([bev_head()], config, BRANCHES[1:])


@pytest.mark.parametrize(
    ("vtransform", "message"),
    [
        ({"XBOUND": [-51.2, 51.2, 0.4]}, r"XBOUND covers -51.2 to 51.2 m"),
        ({"YBOUND": [-54.0, 54.0, 0.6]}, "squares of whole voxels"),
        ({"XBOUND": [-54.0, 54.0, 0.32], "YBOUND": [-54.0, 54.0, 0.32]}, "whole voxels"),
        ({"DOWNSAMPLE": 1}, r"MODEL.BACKBONE_3D: 0.6 m, MODEL.VTRANSFORM: 0.3 m"),
    ],
)
def test_bev_grids_that_do_not_match_are_refused(vtransform, message):
    with pytest.raises(ConfigError, match=message):
        bev_grid(model(CAMERA, LIDAR, **vtransform), paper_dataset())


def test_a_grid_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="1444 x 1444 voxels do not divide"):
        bev_grid(model(LIDAR), paper_dataset(extent=54.15))


def test_an_image_that_the_features_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"IMAGE_SIZE \[32, 44\] must be one multiple of FEA"):
        perspective_head(image=(32, 44))
