"""Transfer is a match by slot and name that says what matched; an encoder that did not fails."""

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


def branch(width=4, bias=True):
    return nn.Sequential(
        nn.Linear(3, width, bias), nn.BatchNorm1d(width), nn.Linear(width, 3, bias)
    )


class View(nn.Module):
    """A view transform that keeps its grid as OpenPCDet's does: as parameters."""

    def __init__(self, cell):
        super().__init__()
        self.depthnet = nn.Linear(2, 2)
        self.dx = nn.Parameter(torch.tensor([cell, cell]), requires_grad=False)
        self.nx = nn.Parameter(torch.tensor([int(8 / cell)] * 2), requires_grad=False)


def save(path, model):
    torch.save({"model_state": model.state_dict()}, path)
    return path


@pytest.fixture
def pretraining(tmp_path):
    model = network(vfe=branch(), mask_token=nn.Linear(1, 1), bev_head=nn.Linear(2, 2))
    model.global_step += 7
    model.vfe[1].running_mean.fill_(0.5)
    return model, save(tmp_path / "pretrained.pth", model)


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


def test_the_table_counts_every_slot(tmp_path):
    state = network(vfe=branch(bias=False), neck=branch(5), dense_head=nn.Linear(2, 3)).state_dict()
    del state["vfe.1.running_mean"]
    state["neck.3.weight"] = torch.ones(2)
    model = network(vfe=branch(), neck=branch(4), dense_head=nn.Linear(2, 3))
    rows = transfer.format_table(transfer.match(model, state)).splitlines()
    assert rows[0].split() == ["slot", "loaded", "zeroed", "missing", "mismatched", "unexpected"]
    # neck: the counter of its BatchNorm and the last bias do not depend on the width
    expected = ["vfe 6 2 1 0 0", "neck 2 0 0 7 1", "dense_head 2 0 0 0 0"]
    assert [" ".join(row.split()) for row in rows[1:]] == expected


def test_another_width_is_refused_although_a_bias_and_the_counters_match(pretraining):
    _, path = pretraining
    with pytest.raises(
        CheckpointError,
        match=r"slot vfe .* 3 of 48 parameters match.*0.weight has shape \(4, 3\), .*\(5, 3\)",
    ):
        transfer.load_pretrained(network(vfe=branch(5)), path, LOGGER)


def test_one_wrong_encoder_stops_the_transfer_before_anything_is_loaded(tmp_path):
    path = save(tmp_path / "a.pth", network(vfe=branch(), neck=nn.Linear(2, 2)))
    model = network(vfe=branch(), neck=nn.Linear(5, 5))
    before = model.vfe[0].weight.clone()
    with pytest.raises(CheckpointError, match=r"slot neck .* 0 of 30 parameters match"):
        transfer.load_pretrained(model, path, LOGGER)
    assert torch.equal(model.vfe[0].weight, before)


def test_a_network_of_another_task_takes_the_encoders_and_what_fits_behind_them(tmp_path, caplog):
    """From a detector to a map network with another BEV backbone."""
    source = network(vfe=branch(), fuser=branch(6), backbone_2d=branch(), dense_head=branch())
    path = save(tmp_path / "detector.pth", source)
    model = network(vfe=branch(), fuser=branch(6), backbone_2d=branch(9), map_head=branch())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        taken = transfer.load_pretrained(model, path, LOGGER)
    assert taken.keys() == {"vfe", "fuser"}
    for name, value in model.state_dict().items():
        slot = name.split(".")[0]
        expected = source.state_dict()[name] if slot in taken else before[name]
        assert torch.equal(value, expected), name
    assert "backbone_2d is of another architecture, 3 of 84 parameters match: " in caplog.text
    assert "left behind: dense_head" in caplog.text
    assert "as initialised: backbone_2d, map_head" in caplog.text


def test_nothing_that_fits_is_refused(tmp_path):
    path = save(tmp_path / "a.pth", network(dense_head=nn.Linear(2, 2)))
    model = network(vfe=branch(), dense_head=nn.Linear(5, 5))
    with pytest.raises(CheckpointError, match=r"slot dense_head belongs to another architecture"):
        transfer.load_pretrained(model, path, LOGGER)


def test_nothing_in_common_is_refused_and_both_sides_are_named(pretraining):
    _, path = pretraining
    with pytest.raises(
        CheckpointError, match=r"slots vfe, mask_token, bev_head, the model has neck, fuser"
    ):
        transfer.load_pretrained(network(neck=branch(), fuser=branch()), path, LOGGER)


def first_layer(model):
    """Another number of point features."""
    model.vfe[0] = nn.Linear(5, 4)


def deeper_model(model):
    model.vfe.append(nn.Linear(3, 3))


def shallower_model(model):
    """All its names are in the file, which holds another, deeper architecture."""
    del model.vfe[2]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (first_layer, r"vfe.0.weight has shape \(4, 3\), the model \(4, 5\)"),
        (deeper_model, r"vfe.3.weight is missing"),
        (shallower_model, r"vfe.2.weight is not in the model"),
    ],
)
def test_an_encoder_matches_completely_or_by_consent(pretraining, caplog, change, difference):
    source, path = pretraining
    model = network(vfe=branch())
    change(model)
    with pytest.raises(CheckpointError, match=f"encoder vfe .*{difference}.*--partial_weights"):
        transfer.load_pretrained(model, path, LOGGER)
    assert not torch.equal(model.vfe[1].running_mean, source.vfe[1].running_mean)
    transfer.load_pretrained(model, path, LOGGER, partial=True)
    assert torch.equal(model.vfe[1].running_mean, source.vfe[1].running_mean)
    assert "vfe not loaded" in caplog.text


def test_an_encoder_is_measured_by_its_numbers_not_by_its_tensors(tmp_path):
    """The norms and biases of a convolutional network are many tensors and few numbers."""
    path = save(tmp_path / "a.pth", network(vfe=nn.Sequential(nn.Linear(99, 4), *norms())))
    with pytest.raises(CheckpointError, match="36 of 428 parameters match"):
        transfer.load_pretrained(
            network(vfe=nn.Sequential(nn.Linear(98, 4), *norms())), path, LOGGER, partial=True
        )


def norms():
    return [nn.BatchNorm1d(4) for _ in range(4)]


def test_consent_does_not_cover_a_slot_that_hardly_matches(pretraining):
    _, path = pretraining
    with pytest.raises(CheckpointError, match="another architecture"):
        transfer.load_pretrained(network(vfe=branch(5)), path, LOGGER, partial=True)


def test_heads_may_match_in_part_and_what_did_not_is_named(tmp_path, caplog):
    path = save(tmp_path / "detector.pth", network(vfe=branch(), dense_head=branch(9)))
    model = network(vfe=branch(), dense_head=branch(9))
    model.dense_head[2] = nn.Linear(9, 2)  # another number of classes
    slots = transfer.load_pretrained(model, path, LOGGER)
    assert list(slots["dense_head"].mismatched) == ["dense_head.2.weight", "dense_head.2.bias"]
    assert "dense_head.2.weight has shape (3, 9), the model (2, 9)" in caplog.text


def test_an_encoder_that_was_trained_without_biases_computes_the_same_in_one_that_has_them(
    tmp_path,
):
    source = network(vfe=branch(bias=False)).eval()
    model = network(vfe=branch()).eval()
    x = torch.randn(6, 3)
    assert not torch.equal(model.vfe(x), source.vfe(x))
    slots = transfer.load_pretrained(model, save(tmp_path / "a.pth", source), LOGGER)
    assert slots["vfe"].zeroed == ["vfe.0.bias", "vfe.2.bias"]
    assert torch.equal(model.vfe(x), source.vfe(x))


def test_the_grid_of_the_view_transform_is_never_taken_over(tmp_path):
    path = save(tmp_path / "a.pth", network(vtransform=View(0.5)))
    model = network(vtransform=View(0.25))  # same shapes, other cells
    slots = transfer.load_pretrained(model, path, LOGGER)
    assert model.vtransform.dx.tolist() == [0.25, 0.25]
    assert model.vtransform.nx.tolist() == [32, 32]
    assert slots["vtransform"].loaded == ["vtransform.depthnet.weight", "vtransform.depthnet.bias"]
    assert slots["vtransform"].complete


def test_counters_and_index_tables_follow_from_the_architecture(tmp_path):
    """Other versions of a library have other integer buffers; they are not what was learnt."""
    source = network(vfe=branch())
    state = {**source.state_dict(), "vfe.index": torch.arange(3)}
    del state["vfe.1.num_batches_tracked"]
    torch.save({"model_state": state}, tmp_path / "a.pth")
    slots = transfer.load_pretrained(network(vfe=branch()), tmp_path / "a.pth", LOGGER)
    assert slots["vfe"].complete
    assert len(slots["vfe"].loaded) == 8
