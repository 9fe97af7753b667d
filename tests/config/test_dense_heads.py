"""The sections of the detection heads: what they admit and what they refuse."""

import pytest

from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import CFGS

HEAD = "MODEL.DENSE_HEAD"


def load(name: str, *overrides: str):
    return load_config(CFGS / f"{name}.yaml", overrides)


@pytest.mark.openpcdet
def test_openpcdets_own_configurations_are_admitted(openpcdet_root):
    paths = sorted((openpcdet_root / "tools/cfgs/nuscenes_models").glob("*.yaml"))
    heads = {load_config(path).MODEL.DENSE_HEAD.NAME for path in paths}
    assert {"CenterHead", "TransFusionHead", "AnchorHeadMulti", "VoxelNeXtHead"} <= heads


@pytest.mark.openpcdet
@pytest.mark.parametrize(
    "path",
    [
        "kitti_models/pv_rcnn_plusplus_reproduced_by_community.yaml",
        "once_models/centerpoint.yaml",
        "waymo_models/dsvt_voxel.yaml",  # IoU branch, thresholds by class
    ],
)
def test_its_heads_for_other_data_are_admitted(openpcdet_root, path):
    assert load_config(openpcdet_root / "tools/cfgs" / path).MODEL.DENSE_HEAD.NAME == "CenterHead"


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("bevfusion_det", "NUM_PROPOSAL", "200", "did you mean NUM_PROPOSALS"),
        ("bevfusion_det", "LOSS_CONFIG.LOSS_CLS.alfa", "0.25", "did you mean alpha"),
        ("bevfusion_det", "TARGET_ASSIGNER_CONFIG.NUM_MAX_OBJS", "5", "unknown key"),
        ("bevfusion_det", "POST_PROCESSING.POST_CENTER_RANGE", "[1, 2]", "a list of 6"),
        ("bevfusion_det", "SEPARATE_HEAD_CFG.HEAD_DICT.rot.num_conv", "two", "an integer from 1"),
        ("bevfusion_det", "TARGET_ASSIGNER_CONFIG.HUNGARIAN_ASSIGNER.giou", "1", "unknown key"),
        ("bevfusion_det", "ACTIVATION", "glu", "ACTIVATION must be relu or gelu, not 'glu'"),
        ("bevfusion_det", "NUM_HEADS", "3", "NUM_HEADS 3 must divide HIDDEN_CHANNEL 128"),
        ("bevfusion_det", "NMS_KERNEL_SIZE", "4", "NMS_KERNEL_SIZE must be odd, not 4"),
        ("bevfusion_det", "DROPOUT", "1.5", "DROPOUT must be a number from 0 to 1, not 1.5"),
        ("bevfusion_det", "POST_PROCESSING.SCORE_THRESH", "nan", "SCORE_THRESH must be a number"),
        ("bevfusion_det", "SEPARATE_HEAD_CFG.HEAD_ORDER", "['speed']", "HEAD_DICT has no speed"),
        ("bevfusion_det", "LOSS_CONFIG.LOSS_WEIGHTS.code_weights", "[1]", "1 values, but .* of 10"),
        ("centerpoint_lidar", "LOSS_CONFIG.LOSS_WEIGHTS.code_weights", "[1]", "codes of 10"),
        ("centerpoint_lidar", "LOSS_CONFIG.LOSS_WEIGHTS.loc_weight", "-1", "at least 0, not -1"),
        ("centerpoint_lidar", "POST_PROCESSING.NMS_CONFIG.NMS_TRESH", "0.2", "did you mean"),
        ("centerpoint_lidar", "CLASS_NAMES_EACH_HEAD", "[car]", "a list of lists of strings"),
        ("centerpoint_lidar", "LOSS_CONFIG.LOSS_WEIGHTS.bbox_weight", "1.0", "unknown key"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(name, key, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(name, f"{HEAD}.{key}", value)
    assert HEAD in str(error.value)


@pytest.mark.parametrize("name", ["bevfusion_det", "centerpoint_lidar"])
def test_a_missing_section_is_named(name):
    with pytest.raises(ConfigError, match=rf"missing key {HEAD}\.SEPARATE_HEAD_CFG\.HEAD_ORDER"):
        load(name, f"{HEAD}.SEPARATE_HEAD_CFG", "{}")


def test_a_head_of_a_package_of_the_users_own_stays_unchecked():
    config = load("bevfusion_det", f"{HEAD}.NAME", "MyHead", f"{HEAD}.MY_KEY", "1")
    assert config.MODEL.DENSE_HEAD.MY_KEY == 1
