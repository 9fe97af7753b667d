"""A damaged file of ``torch.save`` is noticed, and an unsafe torch is named."""

import logging
import random

import pytest
import torch

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.runtime import torch_files

CONTENT = {"weight": torch.arange(2000.0), "step": 7, "name": "a"}


@pytest.fixture
def path(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_a_whole_file_gives_what_was_saved(path):
    content = torch_files.load(path)
    assert torch.equal(content.pop("weight"), CONTENT["weight"])
    assert content == {"step": 7, "name": "a"}


def test_no_flipped_bit_changes_what_is_read(path):
    """torch alone reads most flipped weights without a word."""
    whole = path.read_bytes()
    noticed = 0
    for position in random.Random(0).sample(range(8 * len(whole)), 200):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            content = torch_files.load(path)
        except CheckpointError:
            noticed += 1
        else:  # in the padding between the parts of the archive
            assert torch.equal(content["weight"], CONTENT["weight"])
            assert (content["step"], content["name"]) == (7, "a")
    assert noticed > 150


def test_a_flipped_weight_is_called_damage(path):
    whole = path.read_bytes()
    where = whole.index(CONTENT["weight"].numpy().tobytes()) + 4001
    path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    assert not torch.equal(torch.load(path)["weight"], CONTENT["weight"])
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged: its checksums do not match"):
        torch_files.load(path)


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("2.4.1", False),
        ("2.6.0+cu124", False),
        ("2.9.1", False),
        ("2.10.0", True),
        ("2.13.0+cpu", True),
        ("3.0.0a0", True),
    ],
)
def test_torch_that_runs_code_from_files_is_told_by_its_version(version, safe):
    warning = torch_files.unsafe_torch(version)
    assert (warning is None) == safe
    if not safe:
        assert ".safetensors" in warning
        assert "torch>=2.10" in warning


def test_every_load_under_an_unsafe_torch_warns_and_names_the_file(path, monkeypatch, caplog):
    monkeypatch.setattr(torch_files, "unsafe_torch", lambda: "torch 2.5.0 can run code")
    with caplog.at_level(logging.WARNING):
        torch_files.load(path)
        torch_files.load(path)
    assert caplog.text.count(f"{path}: torch 2.5.0 can run code") == 2
