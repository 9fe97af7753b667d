"""Configurations that cannot work are refused with the keys to change."""

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.detectors.branches import bev_grid
from nsmae_plugin.detectors.nsmae_config import (
    camera_grid,
    check_heads,
    check_sections,
    depth_edges,
)
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.targets import CameraGrid
from tests.helpers.dataset_specification import DatasetSpecification

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
    "PERSPECTIVE_HEAD": {"NAME": "PerspectiveRenderHead", "IN_CHANNELS": 80},
}
LIDAR = {
    "VFE": {"NAME": "MeanVFE"},
    "BACKBONE_3D": {"NAME": "VoxelResBackBone8x"},
    "MAP_TO_BEV": {"NAME": "HeightCompression", "NUM_BEV_FEATURES": 256},
}
COMMON = {
    "BEV_HEAD": {"NAME": "BEVRenderHead", "NUM_BINS": 41},
    "LOSS_CONFIG": {"DEPTH_STOP_EPOCH": None},
}


def model(*parts, **vtransform):
    config = EasyDict({key: value for part in (*parts, COMMON) for key, value in part.items()})
    if vtransform:
        config.VTRANSFORM.update(vtransform)
    return config


def paper_dataset(extent=54.0, voxel=0.075):
    corners = (-extent, -extent, -5, extent, extent, 3)
    return DatasetSpecification(corners, voxel_size=[voxel, voxel, 0.2])


@pytest.mark.parametrize("parts", [(CAMERA, LIDAR), (CAMERA,), (LIDAR,)])
def test_the_papers_configuration_is_accepted_with_either_branch_or_both(parts):
    config = model(*parts)
    check_sections(config)
    grid = bev_grid(config, paper_dataset())
    check_heads(config, grid)
    assert grid.stride == 8
    assert grid.shape == (180, 180)
    assert grid.size == (1440, 1440, 40)
    assert (grid.lower, grid.step) == ((-54.0, -54.0, -5.0), (0.075, 0.075, 0.2))


def test_the_grid_of_the_cameras_follows_from_the_view_transform():
    assert camera_grid(model(CAMERA)) == CameraGrid(stride=8, near=0.75, far=59.75)
    assert camera_grid(model(LIDAR)) is None


def test_depth_bins_sit_where_the_lift_places_them():
    edges = depth_edges([1.0, 60.0, 0.5])
    centres = (edges[1:] + edges[:-1]) / 2
    torch.testing.assert_close(centres, torch.arange(1.0, 60.0, 0.5))


@pytest.mark.parametrize("section", ["MASK_TOKEN", "IMAGE_BACKBONE", "NECK", "VTRANSFORM"])
def test_half_a_camera_branch_is_named(section):
    config = model({key: value for key, value in CAMERA.items() if key != section}, LIDAR)
    with pytest.raises(ConfigError, match=f"camera branch lacks MODEL.{section}"):
        check_sections(config)


@pytest.mark.parametrize("section", ["VFE", "BACKBONE_3D", "MAP_TO_BEV"])
def test_half_a_lidar_branch_is_named(section):
    config = model(CAMERA, {key: value for key, value in LIDAR.items() if key != section})
    with pytest.raises(ConfigError, match=f"LiDAR branch lacks MODEL.{section}"):
        check_sections(config)


def test_no_branch_is_refused():
    with pytest.raises(ConfigError, match="or both"):
        check_sections(model())


def test_no_bev_head_is_refused():
    config = model(CAMERA, LIDAR)
    config.BEV_HEAD = None
    with pytest.raises(ConfigError, match=r"MODEL\.BEV_HEAD"):
        check_sections(config)


def test_a_perspective_head_without_cameras_is_refused():
    config = model(LIDAR, {"PERSPECTIVE_HEAD": CAMERA["PERSPECTIVE_HEAD"]})
    with pytest.raises(ConfigError, match=r"PERSPECTIVE_HEAD needs the camera"):
        check_sections(config)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("BEV_DEPTH_STOP_EPOCH", r"nothing is left to learn after .*\.BEV_DEPTH_STOP_EPOCH: set"),
        ("DEPTH_STOP_EPOCH", r"\.DEPTH_STOP_EPOCH ends a term that is not there; set it to null"),
    ],
)
def test_lidar_alone_may_not_stop_its_only_loss(key, message):
    config = model(LIDAR)
    config.LOSS_CONFIG[key] = 10
    with pytest.raises(ConfigError, match=message):
        check_sections(config)


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
    with pytest.raises(ConfigError, match=r"IMAGE_SIZE \[256, 700\]"):
        camera_grid(model(CAMERA, IMAGE_SIZE=[256, 700]))


def test_channels_and_bins_must_fit():
    config = model(CAMERA, LIDAR)
    grid = bev_grid(config, paper_dataset())
    config.BEV_HEAD.NUM_BINS = 40
    with pytest.raises(ConfigError, match="set it to 41"):
        check_heads(config, grid)
    config.PERSPECTIVE_HEAD.IN_CHANNELS = 64
    with pytest.raises(ConfigError, match="OUT_CHANNEL is 80"):
        check_heads(config, grid)
