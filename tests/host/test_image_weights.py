"""From published image weights to a network of either host, by one key on the command line."""

import pytest
import torch

from nsmae_plugin.errors import CheckpointError
from tests.detectors.test_nsmae import build

KEY = "MODEL.IMAGE_BACKBONE.INIT_CFG.checkpoint"
#: microsoft/Swin-Transformer's names of what OpenPCDet, as mmdetection, calls otherwise.
ORIGINAL_NAMES = (
    ("stages.", "layers."),
    ("patch_embed.projection", "patch_embed.proj"),
    ("attn.w_msa", "attn"),
    ("ffn.layers.0.0", "mlp.fc1"),
    ("ffn.layers.1", "mlp.fc2"),
)


def original_name(name):
    for new, old in ORIGINAL_NAMES:
        name = name.replace(new, old)
    return name


def imagenet(state):
    """A classifier of the original repository: no norms of the outputs, but a head."""
    content = {original_name(name): value for name, value in state.items()}
    content = {name: value for name, value in content.items() if not name.startswith("norm")}
    return {"model": {**content, "norm.weight": torch.ones(3), "head.weight": torch.ones(3, 3)}}


def nuimages(state):
    """A detector of mmdetection."""
    content = {f"backbone.{name}": value for name, value in state.items()}
    return {"state_dict": {**content, "rpn_head.rpn_conv.weight": torch.ones(3)}, "meta": {}}


def image_weights():
    """Random weights under the names of the network."""
    torch.manual_seed(1)
    state = build("camera").image_backbone.state_dict()
    floats = {name: one for name, one in state.items() if one.is_floating_point()}
    return {name: torch.randn(one.shape) for name, one in floats.items()}


@pytest.mark.parametrize("layout", [imagenet, nuimages])
def test_one_key_starts_the_image_backbone_from_published_weights(layout, tmp_path):
    weights, path = image_weights(), tmp_path / "swin.pth"
    torch.save(layout(weights), path)
    found = build("camera", [KEY, str(path)]).image_backbone.state_dict()
    for name, value in weights.items():
        if "downsample" in name and layout is imagenet:
            # Their channels are listed in another order, see test_builtin_swin_checkpoint.py.
            value, found[name] = value.sort(-1).values, found[name].sort(-1).values
        absent = layout is imagenet and name.startswith("norm")
        assert torch.equal(found[name], value) is not absent, name


def test_weights_that_are_not_there_or_of_another_network_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"names the checkpoint '.*none\.pth', which does"):
        build("camera", [KEY, str(tmp_path / "none.pth")])
    torch.save({"state_dict": {"layer1.0.conv1.weight": torch.ones(1)}}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"resnet\.pth does not hold this image backbone"):
        build("camera", [KEY, str(tmp_path / "resnet.pth")])
