"""Sections of MODEL that a detector would leave unread are refused, on either host."""

from types import SimpleNamespace

import pytest
from easydict import EasyDict

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.build import refuse_unused_sections
from tests.helpers.detector_case import build, make_config

DETECTOR = SimpleNamespace(module_topology=["vfe", "map_to_bev_module", "dense_head"])
USED = EasyDict(
    NAME="Some",
    VFE={"NAME": "MeanVFE"},
    MAP_TO_BEV={"NAME": "HeightCompression"},
    DENSE_HEAD={"NAME": "CenterHead"},
    MAP_HEAD=None,
    LOSS_CONFIG={"WEIGHT": 1.0},
    POST_PROCESSING={"EVAL_METRIC": "kitti"},
)


def test_sections_with_a_slot_and_what_is_no_module_are_accepted():
    refuse_unused_sections(DETECTOR, USED)


def test_sections_without_a_slot_are_named_together():
    config = EasyDict(USED, MAP_HEAD={"NAME": "Any"}, NECK={"NAME": "Any"})
    with pytest.raises(ConfigError, match=r"Some has no place for MODEL\.MAP_HEAD, MODEL\.NECK: r"):
        refuse_unused_sections(DETECTOR, config)


def test_a_detector_without_slots_reads_what_it_likes():
    refuse_unused_sections(SimpleNamespace(), EasyDict(USED, MAP_HEAD={"NAME": "Any"}))


@pytest.mark.parametrize("recipe", ["bevfusion_det", "transfusion_lidar", "centerpoint_lidar"])
def test_a_stock_detector_refuses_a_map_head(recipe):
    config = make_config(recipe)
    config.MAP_HEAD = make_config("bevfusion_multitask").MAP_HEAD
    with pytest.raises(ConfigError, match=r"no place for MODEL\.MAP_HEAD: .*BEVFusionMap"):
        build(recipe, config=config)


def test_a_detector_refuses_the_heads_of_pre_training():
    config = make_config("camera_det")
    config.RENDER_HEADS = make_config("nsmae_pretrain").RENDER_HEADS
    with pytest.raises(ConfigError, match=r"has no place for MODEL\.RENDER_HEADS: .*NSMAE"):
        build("camera_det", config=config)


def test_pre_training_refuses_a_head_for_boxes():
    config = make_config("nsmae_pretrain")
    config.DENSE_HEAD = make_config("bevfusion_det").DENSE_HEAD
    with pytest.raises(ConfigError, match=r"NSMAE has no place for MODEL\.DENSE_HEAD"):
        build("nsmae_pretrain", config=config)
