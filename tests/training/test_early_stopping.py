"""The best evaluation has its checkpoint, and training stops when nothing better comes."""

import logging
import math

import pytest
import torch

from nsmae_plugin.detectors.outputs import BOXES, MAP, RENDERINGS
from nsmae_plugin.errors import CheckpointError, ConfigError
from nsmae_plugin.training import checkpoint, early_stopping, engine, run_log, run_state
from nsmae_plugin.training.checkpoint_manager import CheckpointManager
from nsmae_plugin.training.early_stopping import EarlyStopping
from nsmae_plugin.training.run_state import Progress
from tests.helpers.kill_runs import same
from tests.training.test_engine import BATCHES, new_session, records

SCORES = [0.2, 0.5, 0.4, 0.5, 0.3, 0.9]  # of six epochs
PATIENCE = 3  # exhausted by epochs 3, 4 and 5, of which none is better than 0.5


def session_of(folder, patience=PATIENCE, scores=SCORES, epochs=6, **options):
    """A training of toys, five steps an epoch, whose evaluations give ``scores`` one by one."""
    session = new_session(folder, epochs=epochs, **options)
    session.held_out = "validation"
    session.early_stopping = EarlyStopping("score", patience=patience)
    session.evaluate = lambda model: {"score": scores[int(model.global_step) // len(BATCHES) - 1]}
    return session


def resumed(folder, source, **options):
    """A new session of the same training, at the checkpoint ``source``."""
    session = session_of(folder / "unused", **options)
    content = checkpoint.read(folder / source)
    run_state.restore(session.run, session.settings, content, folder / source)
    assert session.early_stopping.restore(content["early_stopping"], folder / source)
    session.curves.close()
    session.curves = run_log.Curves(folder, session.run.progress.step)
    session.checkpoints = CheckpointManager(folder, 3, folder / source)
    return session


class Loader:
    """Loader and sampler in one: gives what is left of an epoch."""

    def set_epoch(self, epoch, start):
        self.start = start // 2  # samples of a batch

    def __iter__(self):
        return iter(BATCHES[self.start :])


def train(session):
    loader = Loader()
    engine.train(session, loader, loader)
    session.curves.close()
    return session


def test_training_stops_after_the_patience_and_keeps_the_best(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        session = train(session_of(tmp_path))
    assert session.run.progress == Progress(epoch=5, step=25)
    assert "the last 3 evaluations were not better than score 0.5 after epoch 2" in caplog.text
    assert f"best: score 0.5 after epoch 2 (step 10), in {tmp_path / 'checkpoint_best.pth'}" in (
        caplog.text
    )
    assert [one["score"] for one in records(tmp_path, "validation")] == SCORES[:5]
    best = checkpoint.read(tmp_path / "checkpoint_best.pth")
    assert (best["epoch"], best["it"]) == (2, 10)
    # Three epochs are kept beside it, and the weights are those of their epoch.
    kept = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert kept == ["checkpoint_best.pth", *(f"checkpoint_epoch_{n}.pth" for n in (3, 4, 5))]
    untouched = train(new_session(tmp_path / "two", epochs=6, max_steps=10))
    for name, value in untouched.run.model.state_dict().items():
        assert torch.equal(value, best["model_state"][name]), name


def test_without_patience_the_training_ends_as_planned(tmp_path):
    session = train(session_of(tmp_path, patience=None))
    assert session.run.progress.epoch == 6
    assert checkpoint.read(tmp_path / "checkpoint_best.pth")["epoch"] == 6


def test_a_run_that_stops_between_saved_epochs_saves_its_last(tmp_path):
    train(session_of(tmp_path, save_epochs=4))
    assert [path.name for path in sorted(tmp_path.glob("checkpoint_epoch_*"))] == [
        "checkpoint_epoch_4.pth",
        "checkpoint_epoch_5.pth",
    ]


@pytest.mark.parametrize("steps", [7, 10, 13, 25])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, steps):
    """Stopped before the best evaluation, at it, after it, and when the patience is exhausted."""
    whole = train(session_of(tmp_path / "whole"))
    folder = tmp_path / "parts"
    train(session_of(folder, max_steps=steps))
    session = train(resumed(folder, checkpoint.latest(folder).name))
    assert session.run.progress == whole.run.progress
    assert session.early_stopping.state() == whole.early_stopping.state()
    assert records(folder, "validation") == records(tmp_path / "whole", "validation")
    for name in ("checkpoint_best.pth", "checkpoint_epoch_5.pth"):
        expected = checkpoint.read(tmp_path / "whole" / name)
        assert same(checkpoint.read(folder / name), expected), name


@pytest.mark.parametrize("source", ["checkpoint_epoch_2.pth", "checkpoint_best.pth"])
def test_an_evaluation_that_is_not_recorded_is_repeated_and_counts_once(tmp_path, source):
    """A run may be killed between the best checkpoint and the record of its evaluation."""
    train(session_of(tmp_path, max_steps=10))
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    session = train(resumed(tmp_path, source))
    assert [one["score"] for one in records(tmp_path, "validation")] == SCORES[:5]
    assert (session.early_stopping.best.step, session.run.progress.epoch) == (10, 5)


def test_a_state_of_the_resume_is_used_with_the_same_metric_only(tmp_path):
    followed = EarlyStopping("mAP")
    followed.update({"mAP": 0.5}, epoch=1, step=5)
    state = followed.state()
    for other in (EarlyStopping("NDS"), EarlyStopping("mAP", mode="min")):
        assert not other.restore(state, tmp_path)
        assert other.best.value is None
    for damage in ({"value": "x"}, {"step": None}, {"epoch": True}, {"metric": 3}):
        with pytest.raises(CheckpointError, match=r"is damaged: .* of its 'early_stopping' is"):
            EarlyStopping("mAP").restore({**state, **damage}, tmp_path)


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.2, 0.1, 0.2], 1),  # an equal value is not better
        ("min", [0.2, 0.3, 0.1], 3),
        ("max", [math.nan, 0.1, math.nan], 2),
    ],
)
def test_the_mode_says_what_is_better(mode, values, best):
    followed = EarlyStopping("error", mode)
    for step, value in enumerate(values, 1):
        followed.update({"error": value}, step, step)
    assert followed.best.step == best


def test_the_metric_is_that_of_the_task_or_must_be_named():
    assert early_stopping.usual_metric(frozenset({BOXES})) == "mAP"
    assert early_stopping.usual_metric(frozenset({MAP})) == "mIoU"
    with pytest.raises(ConfigError, match="METRIC must name the metric: mAP or mIoU"):
        early_stopping.usual_metric(frozenset({BOXES, MAP}))
    with pytest.raises(ConfigError, match="METRIC must name the metric: such as depth_mae"):
        early_stopping.usual_metric(frozenset({RENDERINGS}))
    with pytest.raises(ConfigError, match="METRIC mAp is not evaluated; known: NDS, mAP"):
        EarlyStopping("mAp").update({"mAP": 1.0, "NDS": 1.0}, 1, 1)


def test_the_test_split_and_no_evaluation_at_all_are_refused():
    config = {"OPTIMIZATION": {"EARLY_STOPPING": {}}, "DATA_CONFIG": {}}
    with pytest.raises(ConfigError, match=r"set DATA_CONFIG.VALIDATION_FRACTION, such as 0.1"):
        early_stopping.check(config, eval_epochs=1)
    config["DATA_CONFIG"]["VALIDATION_FRACTION"] = 0.1
    early_stopping.check(config, eval_epochs=1)
    with pytest.raises(ConfigError, match="--eval_interval 0 makes none"):
        early_stopping.check(config, eval_epochs=0)
