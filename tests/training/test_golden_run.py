"""A run that version 0.1.0 began goes on as if it had never been interrupted."""

import gzip
import json

import pytest

from nsmae_plugin.training import checkpoint
from tests.helpers import golden_run

# Convolutions round differently on another processor.
ROUNDING = 1e-4


def read_records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def resumed(tmp_path, monkeypatch, synthetic_root):
    """Folder of the interrupted run, after today's training has ended it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / golden_run.RUN / "old"
    path = folder / "ckpt/latest_model.pth"
    path.parent.mkdir(parents=True)
    packed = (golden_run.FILES / "latest_model.pth.gz").read_bytes()
    path.write_bytes(gzip.decompress(packed))
    assert golden_run.train(synthetic_root, "old") == 0
    return folder


def test_it_ends_with_the_losses_and_metrics_of_the_uninterrupted_run(resumed):
    content = checkpoint.read(checkpoint.find(resumed / "ckpt"))
    assert (content["epoch"], content["it"]) == (2, 6)
    expected = read_records(golden_run.FILES / "metrics.jsonl")
    ours = read_records(resumed / "metrics.jsonl")
    # Of the first epoch's training the second part saw the last step only.
    assert len(ours) == len(expected) == 4
    for record, old in zip(ours[1:], expected[1:], strict=True):
        assert record.keys() >= old.keys()
        assert record.pop("split") == old.pop("split")
        assert {key: record[key] for key in old} == pytest.approx(old, rel=ROUNDING)
