"""Batches arrive whole from loader processes, whatever there is of shared memory."""

import pickle

import numpy as np
import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.data import shared_memory
from nsmae_plugin.data.loader import build_dataloader
from tests.helpers import toys

BATCH = {
    "images": torch.arange(12.0).reshape(3, 4).t(),
    "parts": [torch.tensor([True, False]), "name"],
    "counts": np.arange(3),
    "batch_size": 2,
}


@pytest.fixture(autouse=True)
def no_warning_yet(monkeypatch):
    monkeypatch.setattr(shared_memory, "_warned", [])


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert torch.equal(one["images"], other["images"])
    assert torch.equal(one["parts"][0], other["parts"][0])
    assert one["parts"][0].dtype == torch.bool
    assert one["parts"][1] == "name"
    assert isinstance(one["counts"], np.ndarray)
    assert one["batch_size"] == 2


def test_tensors_are_shared_where_they_fit():
    found = shared_memory.share(dict(BATCH))
    assert found["images"].is_shared()
    assert found["parts"][0].is_shared()
    assert_equal(found, BATCH)


@pytest.mark.parametrize("reason", ["no space left", "a faster process"])
def test_what_does_not_fit_is_sent_by_value_and_said_once(monkeypatch, caplog, reason):
    if reason == "no space left":
        monkeypatch.setattr(shared_memory, "_free", lambda: 0)
    else:

        def fails(_tensor):
            raise RuntimeError("unable to allocate shared memory(shm): No space left on device")

        monkeypatch.setattr(torch.Tensor, "share_memory_", fails)
    sent = [pickle.dumps(shared_memory.share(dict(BATCH))) for _ in range(2)]
    for one in sent:
        found = pickle.loads(one)
        assert_equal(found, BATCH)
        assert not found["images"].is_shared()
    (message,) = [one.getMessage() for one in caplog.records]
    assert "does not fit into /dev/shm" in message
    assert "--shm-size" in message


def test_a_loader_gives_the_same_batches_without_shared_memory(monkeypatch):
    def batches(workers):
        toys.register()
        config = EasyDict(DATASET="ToyDataset", DATA_PATH=".", LENGTH=4)
        _, loader, _ = build_dataloader(config, ["car"], 2, workers, seed=3)
        return list(loader)

    monkeypatch.setattr(shared_memory, "_free", lambda: 0)
    # Larger than any array of the toys otherwise: here all are tensors.
    monkeypatch.setattr("nsmae_plugin.host.batch.SHARED_BYTES", 0)
    for one, other in zip(batches(0), batches(1), strict=True):
        assert isinstance(other["x"], torch.Tensor)
        assert torch.equal(one["x"], other["x"])
    assert len(shared_memory._warned) == 1
