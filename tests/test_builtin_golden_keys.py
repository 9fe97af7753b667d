"""The parameter names and shapes of the built-in host, pinned to OpenPCDet's at full size.

``golden/pcdet_keys.json`` was recorded by ``tools/record_golden_keys.py`` from OpenPCDet.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.config import load_config
from nsmae_plugin.host import builtin
from nsmae_plugin.models.view_transform import STOCK_GRID_KEYS

TESTS = Path(__file__).parent
GOLDEN = json.loads((TESTS / "golden" / "pcdet_keys.json").read_text(encoding="utf-8"))

# The transfer slots, which the pre-training configuration lacks; values of OpenPCDet's file.
FUSER = {"NAME": "ConvFuser", "IN_CHANNEL": 336, "OUT_CHANNEL": 256}
BACKBONE_2D = {
    "NAME": "BaseBEVBackbone",
    "LAYER_NUMS": [5, 5],
    "LAYER_STRIDES": [1, 2],
    "NUM_FILTERS": [128, 256],
    "UPSAMPLE_STRIDES": [1, 2],
    "NUM_UPSAMPLE_FILTERS": [256, 256],
    "USE_CONV_FOR_NO_STRIDE": True,
}


class Encoder(builtin.Detector3DTemplate):
    def __init__(self, model_cfg, dataset):
        super().__init__(model_cfg, num_class=10, dataset=dataset)
        self.module_list = self.build_networks()


@pytest.fixture(scope="module")
def state() -> dict[str, list[int]]:
    """Names and shapes of the network that the shipped configuration describes."""
    config = load_config(TESTS.parent / "cfgs" / "nsmae_pretrain.yaml")
    dataset = SimpleNamespace(
        class_names=config.CLASS_NAMES,
        point_feature_encoder=SimpleNamespace(num_point_features=5),
        grid_size=[1440, 1440, 40],
        point_cloud_range=config.DATA_CONFIG.POINT_CLOUD_RANGE,
        voxel_size=[0.075, 0.075, 0.2],
        depth_downsample_factor=None,
    )
    model_cfg = EasyDict(config.MODEL, FUSER=FUSER, BACKBONE_2D=BACKBONE_2D)
    with torch.device("meta"):
        encoder = Encoder(model_cfg, dataset)
    return {name: list(value.shape) for name, value in encoder.state_dict().items()}


def test_names_shapes_and_their_order_are_openpcdets(state):
    grid = [f"vtransform.{name}" for name in STOCK_GRID_KEYS]
    expected = {name: shape for name, shape in GOLDEN["state"].items() if name not in grid}
    assert len(expected) == len(GOLDEN["state"]) - 4
    assert list(state.items()) == list(expected.items())


def test_every_slot_is_pinned(state):
    assert {name.split(".")[0] for name in state} == {
        "global_step",
        "backbone_3d",
        "image_backbone",
        "neck",
        "vtransform",
        "fuser",
        "backbone_2d",
    }


def test_sparse_weights_are_in_the_layout_of_spconv_2(state):
    assert state["backbone_3d.conv2.0.0.weight"] == [32, 3, 3, 3, 16]  # out, z, y, x, in
