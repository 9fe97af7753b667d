"""LAYER_DECAY: the rates of layers, by hand and as SimMIM numbers the layers of Swin."""

import re

import pytest
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.optimization import rates
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from tests.helpers import detector_case

LR = 0.01
CONFIG = {
    "OPTIMIZER": "adam_onecycle",
    "LR": LR,
    "WEIGHT_DECAY": 0.1,
    "MOMS": [0.9, 0.8],
    "PCT_START": 0.4,
    "DIV_FACTOR": 10,
}
DEPTHS = [1, 1, 2, 1]  # blocks in the stages of the tiny Swin


@pytest.fixture(scope="module")
def network():
    return detector_case.build("bevfusion_det")


@pytest.fixture(scope="module")
def camera_network():
    return detector_case.build("camera_det")


def by_beginning(factors, *beginnings):
    """The one factor of all parameters whose names begin so."""
    found = []
    for beginning in beginnings:
        values = {factor for name, factor in factors.items() if name.startswith(beginning)}
        assert len(values) == 1, (beginning, values)
        found += values
    return found


def test_the_rates_of_the_tiny_encoders(network):
    factors = rates.parameter_factors(network, {"LAYER_DECAY": 0.5})
    swin = ("patch_embed", "stages.0.", "stages.1.", "stages.2.blocks.0.", "stages.2.blocks.1.")
    found = by_beginning(factors, *(f"image_backbone.{one}" for one in (*swin, "stages.3.")))
    assert found == [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert by_beginning(factors, "image_backbone.stages.2.downsample") == [1 / 4]
    sparse = ("conv_input", "conv1", "conv2", "conv3", "conv4", "conv_out")
    found = by_beginning(factors, *(f"backbone_3d.{one}." for one in sparse))
    assert found == [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    rest = ("image_backbone.norm", "neck", "vtransform", "fuser", "backbone_2d", "dense_head")
    assert by_beginning(factors, *rest) == [1.0] * 6


def simmim_layer(name):
    """Layer of a parameter of Swin in SimMIM's get_swin_layer: 0, blocks from 1 on, the rest."""
    if name.startswith("patch_embed"):
        return 0
    block = re.match(r"stages\.(\d+)\.blocks\.(\d+)", name)
    if block:
        return sum(DEPTHS[: int(block[1])]) + int(block[2]) + 1
    merging = re.match(r"stages\.(\d+)\.downsample", name)
    if merging:
        return sum(DEPTHS[: int(merging[1]) + 1])
    return sum(DEPTHS) + 1


def test_swin_decays_as_in_simmim(network):
    factors = rates.parameter_factors(network, {"LAYER_DECAY": {"IMAGE_BACKBONE": 0.75}})
    names = [name for name, _ in network.image_backbone.named_parameters()]
    assert len(names) > 80
    for name in names:
        expected = 0.75 ** (sum(DEPTHS) + 1 - simmim_layer(name))
        assert factors[f"image_backbone.{name}"] == pytest.approx(expected), name
    assert by_beginning(factors, "backbone_3d.") == [1.0]


def test_bev_backbones_decay_by_level(network, camera_network):
    config = {"LAYER_DECAY": {"BACKBONE_2D": 0.5}}
    factors = rates.parameter_factors(network, config)
    names = ("backbone_2d.blocks.0.", "backbone_2d.blocks.1.", "backbone_2d.deblocks")
    assert by_beginning(factors, *names) == [1 / 4, 1 / 2, 1.0]
    factors = rates.parameter_factors(camera_network, config)
    names = [f"backbone_2d.{one}" for one in ("backbone.0.", "backbone.1.", "backbone.2.", "neck")]
    assert by_beginning(factors, *names) == [1 / 16, 1 / 8, 1 / 4, 1 / 2]


def test_decay_scale_and_no_decay_apply_together_through_the_schedule(network):
    config = {
        **CONFIG,
        "LAYER_DECAY": {"IMAGE_BACKBONE": 0.5},
        "LR_SCALE": {"IMAGE_BACKBONE": 0.3, "NECK": 0.3},
        "NO_DECAY": ["relative_position_bias_table"],
    }
    optimizer = build_optimizer(network, config)
    schedule = build_scheduler(optimizer, config, 10, 5)
    names = {id(one): name for name, one in network.named_parameters()}
    for _ in range(4):
        optimizer.step()
        schedule.step()
    present = optimizer.param_groups[0]["lr"]
    found = {
        names[id(one)]: (group["lr"] / present, group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
    }
    assert found.keys() == {name for name, one in network.named_parameters() if one.requires_grad}
    for name, expected in (
        ("dense_head.shared_conv.weight", (1.0, 0.1)),
        ("neck.lateral_convs.0.conv.weight", (0.3, 0.1)),
        ("image_backbone.norm1.weight", (0.3, 0.1)),
        ("image_backbone.patch_embed.projection.weight", (0.3 / 64, 0.1)),
        (
            "image_backbone.stages.1.blocks.0.attn.w_msa.relative_position_bias_table",
            (0.3 / 16, 0.0),
        ),
    ):
        assert found[name] == pytest.approx(expected), name
    text = rates.describe(rates.parameter_factors(network, config))
    assert text == "IMAGE_BACKBONE 0.00469 to 0.3, NECK 0.3"


def test_a_position_embedding_belongs_to_the_first_layer():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.activation, self.last = nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
            self.absolute_pos_embed = nn.Parameter(self.first.weight.detach())

    first = ["first.weight", "first.bias", "absolute_pos_embed"]
    assert rates.layers_of(Embedded()) == [first, ["last.weight", "last.bias"]]


def test_sections_that_the_network_lacks_are_named():
    model = nn.ModuleDict({"map_head": nn.Linear(1, 1)})
    with pytest.raises(ConfigError, match=r"LAYER_DECAY\.NECK: the network trains nothing there"):
        rates.parameter_factors(model, {"LAYER_DECAY": {"NECK": 0.5}})
    with pytest.raises(ConfigError, match=r"LAYER_DECAY 0.5: the network has neither IMAGE_B"):
        rates.parameter_factors(model, {"LAYER_DECAY": 0.5})
    assert rates.parameter_factors(model, {}) == {"map_head.weight": 1.0, "map_head.bias": 1.0}
