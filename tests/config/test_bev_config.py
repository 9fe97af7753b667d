"""Configurations of BEVDetector that cannot work are refused with the keys to change."""

import pytest

from nsmae_plugin.detectors.bev_network import BEVDetector
from nsmae_plugin.errors import ConfigError
from tests.helpers.detector_case import SENSORS, make_config


@pytest.mark.parametrize("recipe", SENSORS)
def test_the_recipes_are_accepted(recipe):
    BEVDetector.check_sections(make_config(recipe))


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("bevfusion_det", {"NECK": None}, "camera branch lacks MODEL.NECK"),
        ("bevfusion_det", {"VFE": None}, "LiDAR branch lacks MODEL.VFE"),
        ("camera_det", {"VTRANSFORM": None}, "camera branch lacks MODEL.VTRANSFORM"),
        ("centerpoint_lidar", dict.fromkeys(("VFE", "BACKBONE_3D", "MAP_TO_BEV")), "or both"),
        ("bevfusion_det", {"FUSER": None}, "needs MODEL.FUSER"),
        ("camera_det", {"FUSER": {"NAME": "ConvFuser"}}, "remove it, or add both"),
        ("centerpoint_lidar", {"FUSER": {"NAME": "ConvFuser"}}, "remove it, or add both"),
        ("camera_det", {"BACKBONE_2D": None}, "needs MODEL.BACKBONE_2D"),
        ("camera_det", {"DENSE_HEAD": None}, "needs MODEL.DENSE_HEAD"),
    ],
)
def test_sections_that_make_no_detector_are_named(recipe, changes, message):
    config = make_config(recipe)
    config.update(changes)
    with pytest.raises(ConfigError, match=message):
        BEVDetector.check_sections(config)
