"""Sparse convolutions of older spconv load into today's; another architecture does not."""

import logging

import pytest
import spconv.pytorch as spconv
import torch
from torch import nn

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.training import checkpoint, layouts, transfer


def network(channels=5):
    model = nn.Module()
    model.backbone_3d = nn.ModuleList(
        [
            spconv.SubMConv3d(4, channels, 3, bias=False),
            spconv.SparseConv3d(channels, channels, (3, 1, 1), bias=False),
        ]
    )
    return model


def as_old(value, layout):
    """(C_out, kz, ky, kx, C_in), as today, in the axes of an older release."""
    if layout == "spconv 1":
        return value.permute(1, 2, 3, 4, 0).contiguous()
    return value.permute(1, 2, 3, 0, 4).contiguous()


@pytest.mark.parametrize("layout", ["spconv 1", "spconv 2.0"])
def test_an_older_layout_is_converted_and_named(layout, caplog):
    model = network()
    state = {name: as_old(value, layout) for name, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        found = layouts.current_spconv(model, state)
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name
    assert f"2 sparse convolutions converted from {layout}" in caplog.text


def test_todays_layout_is_left_alone(caplog):
    state = network().state_dict()
    assert layouts.current_spconv(network(), state) == state
    assert not caplog.text


def test_a_layout_that_explains_only_a_part_is_another_architecture():
    state = {k: as_old(v, "spconv 1") for k, v in network().state_dict().items()}
    state["backbone_3d.0.weight"] = state["backbone_3d.0.weight"][:1]
    assert layouts.current_spconv(network(), state) == state


def test_checkpoints_and_pretrained_weights_are_converted(tmp_path):
    source, logger = network(), logging.getLogger("layouts")
    state = {f"module.{k}": as_old(v, "spconv 1") for k, v in source.state_dict().items()}
    path = tmp_path / "old.pth"
    torch.save({"model_state": state}, path)
    loaded, started = network(), network()
    checkpoint.load_model_state(loaded, checkpoint.read(path)["model_state"], path)
    assert transfer.load_pretrained(started, path, logger)["backbone_3d"].complete
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
        assert torch.equal(started.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="another architecture"):
        transfer.load_pretrained(network(6), path, logger, partial=True)
