"""The section DATA_CONFIG: what it admits, and what it refuses."""

import pytest

from nsmae_plugin.config.data_steps import GroundTruthSampling
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.formats.maps.map_classes import LAYERS_OF_CLASS
from tests.helpers.paths import TINY

DATA = "DATA_CONFIG"
AUG = f"{DATA}.DATA_AUGMENTOR.AUG_CONFIG_LIST"
STEP = f"{DATA}.DATA_PROCESSOR"
MAP = f"{DATA}.MAP_CONFIG"


def problem(*overrides: str, name: str = "bevfusion_map") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TINY / f"{name}.yaml", overrides)
    assert str(caught.value).isprintable()  # one line
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (DATA, "[]", "must be a section with a DATASET, not []"),
        (f"{DATA}.MAX_SWEEPS", "0", "must be a positive integer, not 0"),
        (f"{DATA}.POINT_CLOUD_RANGE", "[50, -50, -5, -50, 50, 3]", "must be a list of 6 numbers"),
        (f"{DATA}.CAMERA_CONFIG.IMAGE.FINAL_DIM", "[0, 224]", "must be a list of 2 positive int"),
        (f"{DATA}.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TRAIN", "[0.6, 0.5]", "the lower one first"),
        (f"{DATA}.LABEL_FRACTION", "0", "must be a number above 0, at most 1, not 0"),
        (f"{DATA}.LABEL_FRACTION_BY", "towns", "must be frames or scenes, not 'towns'"),
        (f"{DATA}.LIDAR_FILES.COLUMNS", "['x', 'y']", "must be a list that names x, y, z and the"),
        (f"{DATA}.LIDAR_FILES.DTYPE", "int8", "must be float32 or float64, not 'int8'"),
        (f"{DATA}.DATA_SPLIT", "{'train': 'train'}", "missing key DATA_CONFIG.DATA_SPLIT.test"),
        (f"{DATA}.POINT_FEATURE_ENCODING.used_feature_list", "['x', 'y']", "must begin with x, y"),
        (f"{DATA}.POINT_FEATURE_ENCODING.src_feature_list", "['x']", "which a point has"),
        (f"{STEP}.transform_points_to_voxels.VOXEL_SIZE", "[0.1, 0, 0.2]", "3 positive numbers"),
        (f"{STEP}.image_normalize.std", "[1, 1, 0]", "3 positive numbers"),
        (f"{AUG}.random_world_scaling.WORLD_SCALE_RANGE", "[1.1, 0.9]", "the lower one first"),
        (f"{AUG}.random_world_scaling.WORLD_SCALE_RANGE", "[-1.1, 0.9]", "2 positive numbers"),
        (f"{AUG}.random_world_rotation.WORLD_ROT_ANGLE", "[1, -1]", "the lower one first or a"),
        (f"{AUG}.random_world_translation.NOISE_TRANSLATE_STD", "[1, -1, 1]", "at least 0"),
        (f"{AUG}.random_world_flip.ALONG_AXIS_LIST", "['z']", "must be a list of x or y, not"),
        (f"{STEP}.mask_points_and_boxes_outside_range.min_num_corners", "0", "a positive integer"),
        (f"{MAP}.CLASSES", "['walkways']", "one or more of drivable_area, road_segment"),
        (f"{MAP}.CLASSES", "['walkway', 'walkway']", "each once, not ['walkway', 'walkway']"),
        (f"{MAP}.CLASSES", "[]", "must be a list that names one or more of"),
        (
            f"{MAP}.XBOUND",
            "[-50, 50, 0.3]",
            "a whole number of steps between the two, at most 100000, not [-50,",
        ),
        (
            f"{MAP}.YBOUND",
            "[5, -5, 0.5]",
            "a whole number of steps between the two, at most 100000, not [5,",
        ),
        (f"{MAP}.LINE_WIDTH", "0", "must be a positive number, not 0"),
        (f"{MAP}.RASTERISER", "fast", "must be devkit or exact, not 'fast'"),
        (f"{MAP}.CLASS", "[]", "unknown key DATA_CONFIG.MAP_CONFIG.CLASS (did you mean CLASSES?)"),
        ("CLASS_NAMES", "[]", "must be a list of names, at least one and each once, not []"),
    ],
)
def test_what_cannot_be_meant_is_refused(key, value, message):
    text = problem(key, value)
    assert message in text
    assert key.rpartition(".")[0] in text


@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("mask_voxels", "1"),  # some voxel must be left
        ("mask_voxels", "-0.1"),
        ("mask_image_patches", "1.5"),
        ("mask_depth_points", "1e400"),
        ("mask_depth_points", "None"),
    ],
)
def test_ratios_of_masks_lie_between_0_and_1(step, value):
    text = problem(f"{STEP}.{step}.RATIO", value, name="nsmae_pretrain")
    assert f"{STEP}.{step}.RATIO must be a number from 0 to " in text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("PREPARE", {"filter_by_size": [1]}, "unknown key PREPARE.filter_by_size"),
        ("PREPARE", {"filter_by_min_points": ["car=5"]}, "classes and numbers such as car:5, not"),
        ("SAMPLE_GROUPS", ["car"], "SAMPLE_GROUPS must be a list of classes and numbers such as"),
        ("SAMPLE_GROUPS", ["car:two"], "SAMPLE_GROUPS must be a list of classes and numbers such"),
    ],
)
def test_the_settings_of_object_sampling_are_read(key, value, message):
    section = {
        "NAME": "gt_sampling",
        "DB_INFO_PATH": ["objects.pkl"],
        "PREPARE": {"filter_by_min_points": ["car:5"], "filter_by_difficulty": [-1]},
        "SAMPLE_GROUPS": ["car:2", "bus: 3"],
        "NUM_POINT_FEATURES": 5,
        "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
    }
    GroundTruthSampling.of(section)
    with pytest.raises(ConfigError, match=message.replace(".", "[.]")):
        GroundTruthSampling.of({**section, key: value})


def test_a_class_of_the_map_is_a_layer_or_joins_layers():
    assert LAYERS_OF_CLASS["walkway"] == ("walkway",)
    assert LAYERS_OF_CLASS["divider"] == ("road_divider", "lane_divider")


def test_a_section_that_is_missing_is_named():
    assert "missing key DATA_CONFIG.MAP_CONFIG.XBOUND" in problem(
        MAP, "{'CLASSES': ['walkway'], 'YBOUND': [-1, 1, 1], 'LINE_WIDTH': 1}"
    )


@pytest.mark.parametrize(("key", "value"), [("LABEL_FRACTION", "0.1"), ("USE_LABELS", "False")])
def test_keys_that_the_dataset_of_openpcdet_would_ignore_are_refused(key, value):
    overrides = [f"{DATA}.DATASET", "NuScenesDataset", f"{DATA}.{key}", value]
    text = problem(*overrides, name="bevfusion_det")
    assert f"NuScenesDataset ignores {key}: set DATASET to MultiModalNuScenesDataset" in text
