"""The settings of a training travel with its weights and are compared where they are used."""

import copy
import logging
from pathlib import Path

import pytest
import torch

from nsmae_plugin.config.load import load_config, plain
from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.training import config_changes
from tests.helpers.paths import TINY

LOGGER = logging.getLogger("settings")
SOURCE = Path("run/ckpt/checkpoint_epoch_1.pth")
VOXELS = "DATA_CONFIG.DATA_PROCESSOR.transform_points_to_voxels"
FEATURES = "DATA_CONFIG.POINT_FEATURE_ENCODING.used_feature_list"
CLASSES = "['truck','car','construction_vehicle','bus','trailer','barrier','motorcycle','bicycle'"
OTHER_MEANING = [
    ("CLASS_NAMES", f"{CLASSES},'pedestrian','traffic_cone']"),
    (f"{VOXELS}.VOXEL_SIZE", "[0.4, 0.4, 0.2]"),
    (f"{VOXELS}.MAX_POINTS_PER_VOXEL", "3"),
    ("DATA_CONFIG.POINT_CLOUD_RANGE", "[-25.6, -51.2, -5, 76.8, 51.2, 3]"),
    (FEATURES, "['x', 'y', 'z', 'timestamp', 'intensity']"),
    ("DATA_CONFIG.MAX_SWEEPS", "1"),
    ("DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM", "[128, 352]"),
    ("DATA_CONFIG.DATA_PROCESSOR.image_normalize.mean", "[0.5, 0.5, 0.5]"),
    ("MODEL.VTRANSFORM.DBOUND", "[1.0, 30.0, 0.5]"),
    ("MODEL.IMAGE_BACKBONE.WINDOW_SIZE", "4"),
    ("MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.MIN_RADIUS", "4"),
]
OTHER_COURSE = [
    ("OPTIMIZATION.LR", "0.5"),
    ("OPTIMIZATION.WEIGHT_DECAY", "0.5"),
    ("OPTIMIZATION.GRAD_NORM_CLIP", "1"),
    ("MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.cls_weight", "2.0"),
    ("MODEL.DENSE_HEAD.POST_PROCESSING.SCORE_THRESH", "0.5"),
    ("MODEL.IMAGE_BACKBONE.WITH_CP", "True"),
    ("DATA_CONFIG.DATA_PATH", "elsewhere"),
    (f"{VOXELS}.MAX_NUMBER_OF_VOXELS.test", "5"),
]


def load(*overrides):
    return load_config(TINY / "bevfusion_det.yaml", overrides)


@pytest.fixture(scope="module")
def content():
    return {"model_state": {}, "config": plain(load()), "precision": "float32"}


def messages(caplog):
    return [one.getMessage() for one in caplog.records]


@pytest.mark.parametrize(("key", "value"), OTHER_MEANING)
def test_what_changes_the_meaning_of_weights_is_refused_with_both_values(content, key, value):
    changed = load(key, value)
    for check in (
        lambda: config_changes.check_use(content, SOURCE, changed, LOGGER),
        lambda: config_changes.check_resume(content, SOURCE, changed, "float32", LOGGER),
    ):
        with pytest.raises(CheckpointError) as caught:
            check()
        message = str(caught.value)
        assert f"checkpoint_epoch_1.pth was trained with other settings ({key} " in message
        assert " -> " in message
        assert "own run" in message or "another --extra_tag" in message
        assert "\n" not in message


@pytest.mark.parametrize(("key", "value"), OTHER_COURSE)
def test_what_changes_the_course_alone_is_logged_at_a_resume(content, caplog, key, value):
    changed = load(key, value)
    config_changes.check_use(content, SOURCE, changed, LOGGER)
    assert messages(caplog) == []
    config_changes.check_resume(content, SOURCE, changed, "float32", LOGGER)
    (message,) = messages(caplog)
    assert message.startswith(f"changed since checkpoint_epoch_1.pth: {key} ")
    assert message.endswith(f" -> {value}")


def test_precision_is_logged_and_nothing_else(content, caplog):
    config_changes.check_resume(content, SOURCE, load(), "float32", LOGGER)
    assert messages(caplog) == []
    config_changes.check_resume(content, SOURCE, load(), "bfloat16", LOGGER)
    assert messages(caplog) == [
        "changed since checkpoint_epoch_1.pth: precision float32 -> bfloat16"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OPTIMIZATION.OPTIMIZER", "adam_cosineanneal"),
        ("OPTIMIZATION.LR_SCALE", "{'NECK': 0.1}"),
        ("OPTIMIZATION.NO_DECAY", "['bias']"),
    ],
)
def test_another_optimiser_is_refused_at_a_resume_only(content, key, value):
    changed = load("OPTIMIZATION.WARMUP_ITER", "5", key, value)
    config_changes.check_use(content, SOURCE, changed, LOGGER)
    with pytest.raises(CheckpointError, match=key):
        config_changes.check_resume(content, SOURCE, changed, "float32", LOGGER)


def test_an_old_checkpoint_is_taken_with_one_line(caplog):
    caplog.set_level(logging.INFO)
    config_changes.check_use({"model_state": {}}, SOURCE, load(), LOGGER)
    config_changes.check_resume({"model_state": {}}, SOURCE, load(), "float32", LOGGER)
    assert (
        messages(caplog)
        == [f"{SOURCE} holds no configuration: today's cannot be compared with it"] * 2
    )


def test_sections_are_told_apart_by_name_and_their_order_counts():
    before = {"DATA_CONFIG": {"STEPS": [{"NAME": "a", "X": 1}, {"NAME": "b", "X": 2}], "N": None}}
    now = copy.deepcopy(before)
    assert config_changes.changes(before, now) == []
    now["DATA_CONFIG"]["STEPS"][1]["X"] = 3
    now["DATA_CONFIG"]["STEPS"].reverse()
    now["OPTIMIZATION"] = {"LR": 1}  # a section that is not known from before
    del now["DATA_CONFIG"]["N"]
    assert config_changes.changes(before, now) == [
        ("DATA_CONFIG.STEPS.NAMES", ["a", "b"], ["b", "a"]),
        ("DATA_CONFIG.STEPS.b.X", 2, 3),
    ]


def test_a_key_that_an_older_version_did_not_know_has_its_default():
    before, now = {"DATA_CONFIG": {}}, {"DATA_CONFIG": {"USE_LIDAR": True}}
    assert config_changes.changes(before, now) == []
    now["DATA_CONFIG"]["USE_LIDAR"] = False
    (change,) = config_changes.changes(before, now)
    assert change.of_meaning
    assert str(change) == "DATA_CONFIG.USE_LIDAR True -> False"


def test_the_configuration_is_read_back_without_unpickling_objects(tmp_path):
    torch.save({"config": plain(load())}, tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert config_changes.changes(content["config"], load()) == []
