"""Transfer is a match by slot and name that says what matched, and fails when too little does."""

import logging

import pytest
import torch
from torch import nn

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.training import transfer

LOGGER = logging.getLogger("transfer")


def network(**slots):
    model = nn.Module()
    model.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
    for name, module in slots.items():
        model.add_module(name, module)
    return model


def branch(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


@pytest.fixture
def pretraining(tmp_path):
    model = network(vfe=branch(), mask_token=nn.Linear(1, 1), bev_head=nn.Linear(2, 2))
    model.global_step += 7
    model.vfe[1].running_mean.fill_(0.5)
    path = tmp_path / "pretrained.pth"
    torch.save({"model_state": model.state_dict()}, path)
    return model, path


def test_common_slots_are_loaded_with_buffers_and_the_rest_is_left_alone(pretraining, caplog):
    source, path = pretraining
    model = network(vfe=branch(), dense_head=nn.Linear(2, 2))
    head = model.dense_head.weight.clone()
    with caplog.at_level(logging.INFO):
        slots = transfer.load_pretrained(model, path, LOGGER)
    for name, value in source.vfe.state_dict().items():
        assert torch.equal(model.vfe.state_dict()[name], value), name
    assert torch.equal(model.dense_head.weight, head)
    assert int(model.global_step) == 0  # a schedule starts anew
    assert slots.keys() == {"vfe"}
    assert len(slots["vfe"].loaded) == 9
    assert "left behind: mask_token, bev_head" in caplog.text
    assert "as initialised: dense_head" in caplog.text


def test_another_width_is_refused_although_batchnorm_counters_match(pretraining):
    _, path = pretraining
    with pytest.raises(
        CheckpointError,
        match=r"slot vfe .* 1 of 6 parameters match.*0.weight has shape \(4, 3\), .*\(5, 3\)",
    ):
        transfer.load_pretrained(network(vfe=branch(5)), path, LOGGER)


def test_one_wrong_slot_stops_the_transfer_before_anything_is_loaded(pretraining):
    _, path = pretraining
    model = network(vfe=branch(), bev_head=nn.Linear(5, 5))
    before = model.vfe[0].weight.clone()
    with pytest.raises(CheckpointError, match=r"slot bev_head .* 0 of 2 parameters match"):
        transfer.load_pretrained(model, path, LOGGER)
    assert torch.equal(model.vfe[0].weight, before)


def test_nothing_in_common_is_refused_and_both_sides_are_named(pretraining):
    _, path = pretraining
    with pytest.raises(
        CheckpointError, match=r"slots vfe, mask_token, bev_head, the model has neck, fuser"
    ):
        transfer.load_pretrained(network(neck=branch(), fuser=branch()), path, LOGGER)


def test_partly_fitting_slots_are_loaded_and_the_rest_is_named(pretraining, caplog):
    _, path = pretraining
    model = network(vfe=branch())
    model.vfe[2] = nn.Linear(4, 5)  # another number of outputs
    slots = transfer.load_pretrained(model, path, LOGGER)
    assert list(slots["vfe"].mismatched) == ["vfe.2.weight", "vfe.2.bias"]
    assert "vfe.2.weight has shape (3, 4), the model (5, 4)" in caplog.text
