"""Configurations of BEVDetector that cannot work are refused with the keys to change."""

import pytest
from detector_case import SENSORS, make_config, make_dataset

from nsmae_plugin.detectors.bev_config import check_sections, check_sizes
from nsmae_plugin.errors import ConfigError

BOXES = {"DENSE_HEAD": True}
PRETRAINING = {"NAME": "BEVRenderHead", "NUM_BINS": 41}


@pytest.mark.parametrize("recipe", SENSORS)
def test_the_recipes_are_accepted(recipe):
    config = make_config(recipe)
    check_sections(config, BOXES)
    check_sizes(config, make_dataset())


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("bevfusion_det", {"NECK": None}, "camera branch lacks MODEL.NECK"),
        ("bevfusion_det", {"VFE": None}, "LiDAR branch lacks MODEL.VFE"),
        ("camera_det", {"VTRANSFORM": None}, "camera branch lacks MODEL.VTRANSFORM"),
        ("centerpoint_lidar", dict.fromkeys(("VFE", "BACKBONE_3D", "MAP_TO_BEV")), "or both"),
        ("bevfusion_det", {"FUSER": None}, "needs MODEL.FUSER to join"),
        ("camera_det", {"FUSER": {"NAME": "ConvFuser"}}, "remove it, or add both"),
        ("centerpoint_lidar", {"FUSER": {"NAME": "ConvFuser"}}, "remove it, or add both"),
        ("camera_det", {"BACKBONE_2D": None}, "needs MODEL.BACKBONE_2D"),
        ("camera_det", {"DENSE_HEAD": None}, "needs MODEL.DENSE_HEAD"),
        ("camera_det", {"BEV_HEAD": PRETRAINING}, "MODEL.BEV_HEAD belong to pre-training"),
    ],
)
def test_sections_that_make_no_detector_are_named(recipe, changes, message):
    config = make_config(recipe)
    config.update(changes)
    with pytest.raises(ConfigError, match=message):
        check_sections(config, BOXES)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("FUSER", {"IN_CHANNEL": 336}, "IN_CHANNEL is 336.* 32 .* 256 make 288"),
        ("VTRANSFORM", {"DOWNSAMPLE": 1}, "BEV grids of camera and LiDAR differ"),
        ("VTRANSFORM", {"XBOUND": [-51.2, 51.2, 0.8]}, "XBOUND covers -51.2 to 51.2 m"),
        ("BACKBONE_2D", {"UPSAMPLE_STRIDES": [1, 2]}, "cells of 8 voxels .* is 4"),
        ("BACKBONE_2D", {"UPSAMPLE_STRIDES": [2, 2]}, "cells of 4, 8 voxels"),
        ("BACKBONE_2D", {"LAYER_STRIDES": [4, 8]}, "16 x 16 BEV cells do not divide by 32"),
    ],
)
def test_sizes_that_do_not_fit_are_named(section, changes, message):
    config = make_config("bevfusion_det")
    config.BACKBONE_2D.update(LAYER_STRIDES=[1, 2], UPSAMPLE_STRIDES=[2, 4])
    config.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE = 4
    check_sizes(config, make_dataset())
    config[section].update(changes)
    with pytest.raises(ConfigError, match=message):
        check_sizes(config, make_dataset())


def with_decoder(**changes):
    config = make_config("camera_det")
    config.BACKBONE_2D = {
        "NAME": "GeneralizedResNetLSSFPN",
        "LAYER_NUMS": [1, 1, 1],
        "LAYER_STRIDES": [2, 2, 1],
        "NUM_FILTERS": [4, 4, 4],
        "OUT_CHANNEL": 4,
        "UPSAMPLE_STRIDE": 2,
        **changes,
    }
    return config


@pytest.mark.parametrize("changes", [{}, {"LAYER_STRIDES": [4, 2, 2], "UPSAMPLE_STRIDE": 4}])
def test_a_decoder_that_comes_back_to_the_cells_of_the_head_is_accepted(changes):
    check_sizes(with_decoder(**changes), make_dataset())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"UPSAMPLE_STRIDE": 1}, r"cells of 16 voxels \(LAYER_STRIDES, UPSAMPLE_STRIDE\), .* is 8"),
        ({"LAYER_STRIDES": [1, 2, 2]}, "cells of 4 voxels .* is 8"),
        ({"LAYER_STRIDES": [2, 4, 4]}, "16 x 16 BEV cells do not divide by 32"),
    ],
)
def test_the_decoder_must_end_on_the_grid_of_the_head(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_sizes(with_decoder(**changes), make_dataset())


def test_a_map_head_takes_a_decoder_of_any_stride():
    config = with_decoder(UPSAMPLE_STRIDE=1)
    config.pop("DENSE_HEAD")
    check_sizes(config, make_dataset())


def test_a_backbone_of_another_kind_is_left_to_itself():
    config = make_config("bevfusion_det")
    config.BACKBONE_2D = {"NAME": "SomebodysBackbone"}
    check_sizes(config, make_dataset())
