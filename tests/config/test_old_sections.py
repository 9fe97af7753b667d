"""Sections of earlier versions become those of today, or one line says what to change."""

import pytest

from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import TINY

OLD = """
    PERSPECTIVE_HEAD:
        NAME: PerspectiveRenderHead
        IN_CHANNELS: 32

    BEV_HEAD:
        NAME: BEVRenderHead
        NUM_BINS: 41
"""
HEADS = [{"NAME": "PerspectiveRenderHead"}, {"NAME": "BEVRenderHead", "BIN_HEIGHT": 0.2}]


def old_file(folder, **changes):
    """The shipped recipe as it was written before RENDER_HEADS."""
    text = (TINY / "nsmae_pretrain.yaml").read_text()
    start, end = text.index("    RENDER_HEADS:"), text.index("    LOSS_CONFIG:")
    old = OLD
    for key, value in changes.items():
        old = old.replace(f"{key}: {'32' if key == 'IN_CHANNELS' else '41'}", f"{key}: {value}")
    path = folder / "old.yaml"
    text = text[:start] + old.lstrip("\n") + "\n" + text[end:]
    path.write_text(text.replace("_BASE_CONFIG_: ", f"_BASE_CONFIG_: {TINY.parent}/"))
    return path


def test_sections_of_their_own_become_entries(tmp_path):
    config = load_config(old_file(tmp_path)).MODEL
    assert config == load_config(TINY / "nsmae_pretrain.yaml").MODEL
    assert config.RENDER_HEADS == HEADS


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ("nsmae_pretrain.yaml", "BEV_HEAD: {NUM_BINS: 41}", HEADS),
        ("nsmae_pretrain.yaml", "PERSPECTIVE_HEAD: null", HEADS[1:]),
        ("nsmae_pretrain_lidar.yaml", "PERSPECTIVE_HEAD: {}", HEADS),
    ],
)
def test_they_change_the_entries_of_a_base(tmp_path, base, change, expected):
    path = tmp_path / "changed.yaml"
    path.write_text(f"_BASE_CONFIG_: {TINY / base}\nMODEL:\n    {change}\n")
    assert expected == load_config(path).MODEL.RENDER_HEADS


def test_so_they_do_on_the_command_line():
    change = ["MODEL.BEV_HEAD.NUM_BINS", "41"]
    assert load_config(TINY / "nsmae_pretrain.yaml", change).MODEL.RENDER_HEADS == HEADS


def test_an_entry_is_reached_by_its_name_on_the_command_line():
    change = ["MODEL.RENDER_HEADS.BEVRenderHead.BIN_HEIGHT", "0.5"]
    assert load_config(TINY / "nsmae_pretrain.yaml", change).MODEL.RENDER_HEADS[1].BIN_HEIGHT == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"NUM_BINS": 40},
            r"NUM_BINS is 40, .* make 41: set MODEL\.RENDER_HEADS\.BEV",
        ),
        (
            {"IN_CHANNELS": 64},
            r"IN_CHANNELS is 64, but \S+OUT_CHANNEL 32: leave it out",
        ),
        ({"NUM_BINS": "many"}, r"MODEL\.BEV_HEAD\.NUM_BINS must be a positive integer"),
    ],
)
def test_keys_that_contradict_the_rest_are_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(old_file(tmp_path, **changes))


def test_a_step_of_another_name_is_renamed(tmp_path):
    path, step = tmp_path / "old.yaml", "DATA_CONFIG.DATA_PROCESSOR.mask_depth_hints.RATIO"
    text = (TINY / "nsmae_pretrain_camera_depth.yaml").read_text()
    text = text.replace("mask_depth_points", "mask_depth_hints")
    path.write_text(text.replace("_BASE_CONFIG_: ", f"_BASE_CONFIG_: {TINY}/"))
    steps = load_config(path, [step, "0.5"]).DATA_CONFIG.DATA_PROCESSOR
    assert steps[-1] == {"NAME": "mask_depth_points", "RATIO": 0.5}
    with pytest.raises(ConfigError, match=r"no such section \(did you mean mask_depth_points"):
        load_config(TINY / "nsmae_pretrain_camera_depth.yaml", [step, "0.5"])


def test_the_patches_of_the_token_are_those_of_the_mask():
    size = "DATA_CONFIG.DATA_PROCESSOR.mask_image_patches.PATCH_SIZE"
    path = TINY / "nsmae_pretrain.yaml"
    assert load_config(path).MODEL.MASK_TOKEN.PATCH_SIZE == 8
    assert load_config(path, [size, "16"]).MODEL.MASK_TOKEN.PATCH_SIZE == 16
    with pytest.raises(ConfigError, match=r"MASK_TOKEN\.PATCH_SIZE is 4, but \S+PATCH_SIZE is 8"):
        load_config(path, ["MODEL.MASK_TOKEN.PATCH_SIZE", "4"])
