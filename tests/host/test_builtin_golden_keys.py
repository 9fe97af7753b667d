"""The parameter names and shapes of the built-in host, pinned to OpenPCDet's at full size.

The files in ``golden`` were recorded by ``tests/golden/record_keys.py`` from OpenPCDet.
"""

import json

import pytest
import torch

from nsmae_plugin.config.load import load_config
from nsmae_plugin.host import builtin
from nsmae_plugin.models.lift_splat import STOCK_GRID_KEYS
from tests.helpers.dataset_specification import specification_of
from tests.helpers.paths import CFGS, GOLDEN

ENCODERS = ("backbone_3d", "image_backbone", "neck", "vtransform")

# our configuration -> what was recorded from OpenPCDet's, and where the two files differ
DETECTORS = {
    "bevfusion_det": ("pcdet_keys", {}),
    "transfusion_lidar": ("pcdet_keys", {}),
    "centerpoint_lidar": (
        "pcdet_centerpoint_keys",
        {"BACKBONE_3D.USE_BIAS": True, "BACKBONE_2D.USE_CONV_FOR_NO_STRIDE": False},
    ),
}
ABSENT = {"transfusion_lidar": {"image_backbone", "neck", "vtransform", "fuser"}}


class Detector(builtin.Detector3DTemplate):
    def __init__(self, model_cfg, dataset):
        super().__init__(model_cfg, num_class=10, dataset=dataset)
        self.module_list = self.build_networks()


def golden_state(name: str) -> dict[str, list[int]]:
    """Recorded names and shapes, without the geometry that OpenPCDet stores as parameters."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["state"]
    return {name: golden[name] for name in golden if name.split(".")[-1] not in STOCK_GRID_KEYS}


def build_state(name: str, changes: dict[str, bool] | None = None) -> dict[str, list[int]]:
    """Names and shapes of the network that a shipped configuration describes."""
    overrides = [text for key in changes or {} for text in (f"MODEL.{key}", str(changes[key]))]
    config = load_config(CFGS / f"{name}.yaml", overrides)
    with torch.device("meta"):
        detector = Detector(config.MODEL, specification_of(config))
    return {name: list(value.shape) for name, value in detector.state_dict().items()}


def slots(state: dict[str, list[int]], *names: str) -> list[tuple[str, list[int]]]:
    return [item for item in state.items() if item[0].split(".")[0] in names]


@pytest.mark.parametrize("name", DETECTORS)
def test_names_shapes_and_their_order_are_openpcdets(name):
    recorded, changes = DETECTORS[name]
    state, golden = build_state(name, changes), golden_state(recorded)
    present = {key.split(".")[0] for key in state}
    assert present == {key.split(".")[0] for key in golden} - ABSENT.get(name, set())
    assert list(state.items()) == slots(golden, *present)


def test_the_encoders_that_are_pre_trained_are_openpcdets():
    expected = slots(golden_state("pcdet_keys"), *ENCODERS)
    assert slots(build_state("nsmae_pretrain"), *ENCODERS) == expected


def test_sparse_weights_are_in_the_layout_of_spconv_2():
    state = build_state("nsmae_pretrain_lidar")
    assert state["backbone_3d.conv2.0.0.weight"] == [32, 3, 3, 3, 16]  # out, z, y, x, in
