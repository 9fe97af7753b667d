"""A run that version 0.1.0 began goes on as if it had never been interrupted."""

import gzip
import json

import pytest
import torch

from nsmae_plugin.training import checkpoint
from tests.helpers import golden_run
from tools import export_weights

# Convolutions round differently on another processor.
ROUNDING = 1e-4


def read_records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Folder of the interrupted run in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / golden_run.RUN / "old"
    path = folder / "ckpt/latest_model.pth"
    path.parent.mkdir(parents=True)
    packed = (golden_run.FILES / "latest_model.pth.gz").read_bytes()
    path.write_bytes(gzip.decompress(packed))
    return folder


def test_it_ends_with_the_losses_and_metrics_of_the_uninterrupted_run(interrupted, synthetic_root):
    assert golden_run.train(synthetic_root, "old") == 0
    content = checkpoint.read(checkpoint.find(interrupted / "ckpt"))
    assert (content["epoch"], content["it"]) == (2, 6)
    expected = read_records(golden_run.FILES / "metrics.jsonl")
    ours = read_records(interrupted / "metrics.jsonl")
    assert len(ours) == len(expected) == 4
    # Of the first epoch's training the second part saw the last step only.
    for record, old in zip(ours[1:], expected[1:], strict=True):
        assert record.keys() >= old.keys()
        assert record.pop("split") == old.pop("split")
        assert {key: record[key] for key in old} == pytest.approx(old, rel=ROUNDING)


def test_its_export_is_as_it_was(interrupted, tmp_path):
    configuration = ["--cfg_file", str(golden_run.FILES / "configuration.yaml")]
    command = ["--ckpt", str(interrupted / "ckpt"), "--out", str(tmp_path / "weights.pth")]
    assert export_weights.main([*command, *configuration]) == 0
    manifest = json.loads((tmp_path / "weights.json").read_text(encoding="utf-8"))
    expected = json.loads((golden_run.FILES / "weights.json").read_text(encoding="utf-8"))
    assert {**manifest, "plugin": None} == {**expected, "plugin": None}
    weights = checkpoint.read(interrupted / "ckpt/latest_model.pth")["model_state"]
    exported = torch.load(tmp_path / "weights.pth", weights_only=True)["model_state"]
    names = [name for slot in expected["slots"].values() for name in slot]
    assert list(exported) == names
    assert all(torch.equal(exported[name], weights[name]) for name in names)
