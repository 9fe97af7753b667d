"""Values of MODEL that follow from others are filled in where they are absent."""

import copy

import pytest

import nsmae_plugin
from nsmae_plugin.config.derived import complete, described_data
from nsmae_plugin.config.load import load_config, read
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import TINY

# What OpenPCDet's own bevfusion.yaml says where our recipes are silent.
SILENT = {
    "NECK": ("IN_CHANNELS", "START_LEVEL", "END_LEVEL", "NUM_OUTS"),
    "VTRANSFORM": ("IMAGE_SIZE", "IN_CHANNEL", "FEATURE_SIZE", "XBOUND", "YBOUND"),
    "MAP_TO_BEV": ("NUM_BEV_FEATURES",),
    "FUSER": ("IN_CHANNEL",),
}


@pytest.fixture(autouse=True)
def registered():
    nsmae_plugin.register()


def without_derived(model):
    """A copy that leaves out all that it can."""
    model = copy.deepcopy(model)
    for section, keys in SILENT.items():
        for key in keys:
            del model[section][key]
    del model.DENSE_HEAD.TARGET_ASSIGNER_CONFIG["FEATURE_MAP_STRIDE"]
    return model


@pytest.mark.openpcdet
def test_openpcdets_bevfusion_follows_from_what_it_does_not_repeat(openpcdet_root):
    config = load_config(openpcdet_root / "tools/cfgs/nuscenes_models/bevfusion.yaml")
    data = described_data(config)
    assert complete(without_derived(config.MODEL), data) == config.MODEL


def test_a_recipe_is_completed_when_it_is_read():
    """128 x 224 images, voxels of 0.2 m on 51.2 m, cells of 8 voxels before DOWNSAMPLE 2."""
    path = TINY / "bevfusion_det.yaml"
    model, written = load_config(path).MODEL, read(path)["MODEL"]
    for section, keys in SILENT.items():
        assert not set(keys) & set(written[section])
    assert model.NECK.IN_CHANNELS == [64, 128, 256]
    assert model.VTRANSFORM.IN_CHANNEL == 64
    assert model.VTRANSFORM.IMAGE_SIZE == [128, 224]
    assert model.VTRANSFORM.FEATURE_SIZE == [16, 28]
    assert model.VTRANSFORM.XBOUND == model.VTRANSFORM.YBOUND == [-51.2, 51.2, 0.8]
    assert model.MAP_TO_BEV.NUM_BEV_FEATURES == 2 * 128
    assert model.FUSER.IN_CHANNEL == 32 + 256
    assert model.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE == 8


def test_values_follow_what_is_set_on_the_command_line():
    words = "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM [64,96] MODEL.NECK.OUT_CHANNELS 48"
    words += " MODEL.BACKBONE_2D.UPSAMPLE_STRIDES [2,4] MODEL.VTRANSFORM.DOWNSAMPLE 1"
    model = load_config(TINY / "bevfusion_det.yaml", words.split()).MODEL
    assert model.VTRANSFORM.FEATURE_SIZE == [8, 12]
    assert model.VTRANSFORM.IN_CHANNEL == 48
    assert model.VTRANSFORM.XBOUND == [-51.2, 51.2, 1.6]
    assert model.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NECK.IN_CHANNELS", "[64,128]", r"IN_CHANNELS is \[64, 128\], but .*\[64, 128, 256\]"),
        ("VTRANSFORM.IN_CHANNEL", "32", "IN_CHANNEL is 32, but MODEL.NECK.OUT_CHANNELS is 64"),
        ("VTRANSFORM.IMAGE_SIZE", "[64,96]", r"FINAL_DIM is \[128, 224\]: set it to \[128, 224\]"),
        ("VTRANSFORM.FEATURE_SIZE", "[8,14]", r"one feature for 8 pixels: set it to \[16, 28\]"),
        ("MAP_TO_BEV.NUM_BEV_FEATURES", "128", "40 voxels along z .* set it to 256, or leave"),
        ("FUSER.IN_CHANNEL", "256", "OUT_CHANNEL 32 and .* 256 make 288: set it to 288"),
    ],
)
def test_what_contradicts_the_rest_is_refused_when_the_file_is_read(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TINY / "bevfusion_det.yaml", [f"MODEL.{key}", value])


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("IMAGE_BACKBONE", "NECK.IN_CHANNELS"),
        ("NECK", "VTRANSFORM.IN_CHANNEL"),
        ("BACKBONE_3D", "VTRANSFORM.XBOUND"),
        ("BACKBONE_2D", "DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE"),
    ],
)
def test_behind_a_module_of_another_name_the_key_is_asked_for(section, key):
    config = load_config(TINY / "bevfusion_det.yaml")
    model = without_derived(config.MODEL)
    model[section].NAME = "SomebodysOwn"
    with pytest.raises(ConfigError, match=rf"missing key MODEL\.{key}"):
        complete(model, described_data(config))


def test_the_configuration_that_is_completed_stays_as_it_is():
    config = load_config(TINY / "bevfusion_det.yaml")
    model = without_derived(config.MODEL)
    before = copy.deepcopy(model)
    complete(model, described_data(config))
    assert model == before


@pytest.mark.parametrize("groups", [[["car", "bus"]], [["car"], ["bus", "truck", "car"]]])
def test_the_groups_of_a_center_head_hold_each_class_once(groups):
    config = load_config(TINY / "centerpoint_lidar.yaml")
    data = described_data(config)
    data.class_names = ["car", "bus", "truck"]
    config.MODEL.DENSE_HEAD.CLASS_NAMES_EACH_HEAD = groups
    with pytest.raises(ConfigError, match=r"CLASS_NAMES_EACH_HEAD .* must hold each of CLASS_NAM"):
        complete(config.MODEL, data)
    config.MODEL.DENSE_HEAD.CLASS_NAMES_EACH_HEAD = [["car", "tram"], ["bus", "truck"]]
    complete(config.MODEL, data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("POINT_CLOUD_RANGE", f"[-51.2, -51.2, -5, 51.2, 51.2, {2**40}]"),
        ("POINT_CLOUD_RANGE", "[-1e308, -51.2, -5, 1e308, 51.2, 3]"),
        ("DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE", "[1e-9, 0.2, 0.2]"),
        ("DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE", "[0.2, 0.2, 99.0]"),
    ],
)
def test_a_grid_without_cells_or_with_too_many_is_refused_when_it_is_read(key, value):
    message = "VOXEL_SIZE and DATA_CONFIG.POINT_CLOUD_RANGE make a grid of .* 1e\\+09 altogether"
    with pytest.raises(ConfigError, match=message):
        load_config(TINY / "bevfusion_det.yaml", [f"DATA_CONFIG.{key}", value])
