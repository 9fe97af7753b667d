"""The sections of encoders and BEV backbones: values that cannot be meant, and their places."""

import pytest

from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import CFGS


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("IMAGE_BACKBONE.FROZEN_STAGES", "1", r"unknown key MODEL\.IMAGE_BACKBONE\.FROZEN_STAGES"),
        ("IMAGE_BACKBONE.NUM_HEADS", "[3, 6, 12]", "NUM_HEADS must be a list of 4 positive"),
        (
            "IMAGE_BACKBONE.NUM_HEADS",
            "[3, 6, 12, 5]",
            r"must divide the \[96, 192, 384, 768\] ",
        ),
        ("IMAGE_BACKBONE.OUT_INDICES", "[1, 4]", "OUT_INDICES must be a list of numbers of stages"),
        ("IMAGE_BACKBONE.OUT_INDICES", "[]", "OUT_INDICES must be a list of numbers of stages"),
        ("IMAGE_BACKBONE.DROP_PATH_RATE", "1", "DROP_PATH_RATE must be a number from 0 to below 1"),
        ("IMAGE_BACKBONE.EMBED_DIMS", "0", "EMBED_DIMS must be a positive integer, not 0"),
        ("NECK.IN_CHANNELS", "[256]", "IN_CHANNELS must be a list of 2 or more positive integers"),
        ("NECK.START_LEVEL", "1", "START_LEVEL must be 0, since every level is used, not 1"),
        ("POST_PROCESSING", "[0.5]", "POST_PROCESSING must be a section or null, not"),
        ("POST_PROCESSING.SCORE_THRESH", "nan", "SCORE_THRESH must be a number"),
        ("POST_PROCESSING.EVAL_METRIC", "3", "EVAL_METRIC must be a string"),
        ("POST_PROCESSING.RECALL_THRESH_LIST", "[2]", "RECALL_THRESH_LIST must be a list of num"),
        ("VTRANSFORM.OUT_CHANNEL", "-80", "OUT_CHANNEL must be a positive integer, not -80"),
        ("VTRANSFORM.XBOUND", "[54, -54, 0.3]", "XBOUND must be a list of 3 numbers, min, max"),
        ("VTRANSFORM.DBOUND", "[1, 60, 0]", "DBOUND must be a list of 3 numbers, min, max"),
        ("VTRANSFORM.DBOUND", "[0, 60, 0.5]", "begins at or behind the camera"),
        ("VTRANSFORM.DBOUND", "[1, 60, 0.01]", "makes more than 1000 bins"),
        ("VTRANSFORM.DBOUND", "[1, 60, 0.7]", "with a whole number of steps"),
        ("VTRANSFORM.DOWNSAMPLE", "4", "DOWNSAMPLE must be 1 or 2, not 4"),
        ("VTRANSFORM.DOWNSAMPLE", "True", "DOWNSAMPLE must be 1 or 2, not True"),
        ("BACKBONE_3D.last_pad", "-1", "last_pad must be an integer of at least 0, not -1"),
        ("FUSER.OUT_CHANNEL", "'wide'", "OUT_CHANNEL must be a positive integer, not 'wide'"),
        ("BACKBONE_2D.LAYER_NUMS", "[5]", r"one entry per level, not LAYER_NUMS \[5\], LAYER_STR"),
        ("BACKBONE_2D.UPSAMPLE_STRIDES", "[0, 2]", "UPSAMPLE_STRIDES must be a list of positive"),
        ("MAP_HEAD.LOSS_CONFIG.LOSS", "dice", "LOSS must be focal or cross_entropy, not 'dice'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(key, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(CFGS / "bevfusion_map.yaml", [f"MODEL.{key}", value])
    assert f"MODEL.{key.partition('.')[0]}" in str(error.value)


def test_the_last_level_of_the_neck_is_the_last_of_the_backbone():
    """Three maps: END_LEVEL 2 is the same as -1, and 1 would leave one out."""
    path = CFGS / "bevfusion_map.yaml"
    assert load_config(path, ["MODEL.NECK.END_LEVEL", "2"]).MODEL.NECK.END_LEVEL == 2
    overrides = ["MODEL.NECK.END_LEVEL", "1", "MODEL.NECK.IN_CHANNELS", "[192, 384, 768]"]
    with pytest.raises(ConfigError, match=r"MODEL\.NECK: END_LEVEL must be -1 or 2"):
        load_config(path, overrides)
