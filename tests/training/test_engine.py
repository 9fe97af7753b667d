"""A step uses every sample once, large batches can be split, and nothing non-finite is learnt."""

import copy
import json
import logging
import math

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import NonFiniteError
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.runtime.distributed import World
from nsmae_plugin.runtime.random_state import seed_everything
from nsmae_plugin.training import checkpoint, engine, run_log, run_state
from nsmae_plugin.training.checkpoint_manager import CheckpointManager
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from nsmae_plugin.training.session import LoopOptions, Session
from tests.helpers.toys import CONFIG, ToyDetector, batch, train_step

BATCHES = [batch(2 * k, 2 * k + 1) for k in range(5)]


class Sampler:
    def __init__(self):
        self.calls = []

    def set_epoch(self, epoch, start):
        self.calls.append((epoch, start))


def new_session(folder, device="cpu", epochs=2, accumulate=1, model=None, dtype=None, **options):
    settings = RunSettings(0, 2, accumulate, 1, epochs, len(BATCHES))
    config = EasyDict(CONFIG["OPTIMIZATION"])
    seed_everything(0)
    model = (model or ToyDetector()).to(device)
    optimizer = build_optimizer(model, config)
    steps = settings.steps_per_epoch
    scaler = torch.amp.GradScaler(str(device), enabled=dtype is torch.float16, init_scale=2.0**10)
    return Session(
        run=Run(
            model,
            optimizer,
            build_scheduler(optimizer, config, settings.total_steps, steps),
            scaler,
            Progress(),
        ),
        settings=settings,
        options=LoopOptions(grad_norm_clip=35, amp_dtype=dtype, **options),
        world=World(0, 1, torch.device(device)),
        checkpoints=CheckpointManager(folder, 3),
        curves=run_log.Curves(folder),
        logger=logging.getLogger("engine"),
        facts={},
    )


def records(folder, split):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [one for one in map(json.loads, lines) if one["split"] == split]


def test_accumulated_gradients_equal_those_of_the_larger_batch(tmp_path, device):
    torch.manual_seed(0)
    model = ToyDetector(dropout=0.0)
    split = new_session(tmp_path, device, model=copy.deepcopy(model)).run
    joint = new_session(tmp_path, device, model=copy.deepcopy(model)).run
    parts = [batch(1, 2), batch(3, 4), batch(5, 6)]
    terms = train_step(split, parts, device, clip=0.01)  # low enough to clip
    expected = train_step(joint, [batch(1, 2, 3, 4, 5, 6)], device, clip=0.01)
    assert terms == pytest.approx(expected, rel=1e-5)
    for (name, mine), other in zip(
        split.model.named_parameters(), joint.model.parameters(), strict=True
    ):
        # Sums of float32 in another order, clipped to a norm of 0.01.
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7, msg=name)
    norm = torch.cat([one.grad.flatten() for one in split.model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-4)
    assert expected["grad_norm"] > 0.5
    assert int(split.model.global_step) == int(joint.model.global_step) == 1


def test_training_lowers_the_loss_and_leaves_a_checkpoint_per_epoch(tmp_path, device):
    session = new_session(tmp_path, device, epochs=30, model=ToyDetector(dropout=0.0))
    sampler = Sampler()
    engine.train(session, BATCHES, sampler)
    losses = [one["loss"] for one in records(tmp_path, "train")]
    assert losses[-1] < 0.1 * losses[0]
    assert session.run.progress == Progress(epoch=30, batch_in_epoch=0, step=150)
    assert sampler.calls == [(epoch, 0) for epoch in range(30)]
    assert int(session.run.model.global_step) == 150
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        f"checkpoint_epoch_{epoch}.pth" for epoch in (28, 29, 30)
    ]


def test_a_detector_that_schedules_by_epochs_is_told_their_steps(tmp_path):
    class Scheduled(ToyDetector):
        def set_steps_per_epoch(self, steps):
            self.told = steps

    session = new_session(tmp_path, accumulate=2, epochs=1, model=Scheduled())
    engine.train(session, BATCHES, Sampler())
    assert session.run.model.told == 3  # 2 + 2 + 1 batches


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left(tmp_path):
    session = new_session(tmp_path, accumulate=2, log_steps=1)
    engine.train(session, BATCHES, Sampler())
    assert session.run.progress.step == 6  # 2 + 2 + 1 batches, twice
    assert [one["step"] for one in records(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]


def test_records_are_means_since_the_record_before(tmp_path):
    every = new_session(tmp_path / "every", log_steps=1, epochs=1)
    engine.train(every, BATCHES, Sampler())
    session = new_session(tmp_path / "some", log_steps=3, epochs=1)
    engine.train(session, BATCHES, Sampler())
    single = [one["loss"] for one in records(tmp_path / "every", "train")]
    first, second = records(tmp_path / "some", "train")
    assert (first["step"], second["step"]) == (3, 5)
    assert first["loss"] == pytest.approx(sum(single[:3]) / 3)
    assert second["loss"] == pytest.approx(sum(single[3:]) / 2)
    assert {"loss_fit", "loss_other", "lr", "grad_norm", "epoch"} <= first.keys()


def test_max_steps_stops_within_an_epoch_and_the_next_run_goes_on_there(tmp_path):
    stopped = new_session(tmp_path, max_steps=7)
    engine.train(stopped, BATCHES, Sampler())
    assert stopped.run.progress == Progress(epoch=1, batch_in_epoch=2, step=7)
    path = checkpoint.latest(tmp_path)
    assert path.name == "latest_model.pth"

    whole = new_session(tmp_path / "whole")
    engine.train(whole, BATCHES, Sampler())
    resumed = new_session(tmp_path)
    run_state.restore(resumed.run, resumed.settings, checkpoint.read(path), path)
    sampler = Sampler()
    engine.train(resumed, BATCHES[2:], sampler)  # what the sampler would leave of epoch 1
    assert sampler.calls == [(1, 4)]
    for name, value in whole.run.model.state_dict().items():
        assert torch.equal(value, resumed.run.model.state_dict()[name]), name


def test_checkpoints_between_epochs_follow_steps_and_time(tmp_path, monkeypatch):
    session = new_session(tmp_path, epochs=1, save_seconds=None, save_steps=2)
    kept = []
    monkeypatch.setattr(session.checkpoints, "save_latest", lambda one: kept.append(one["it"]))
    engine.train(session, BATCHES, Sampler())
    assert kept == [2, 4]

    session = new_session(tmp_path, epochs=1, save_seconds=0)
    monkeypatch.setattr(session.checkpoints, "save_latest", lambda one: kept.append(one["it"]))
    kept.clear()
    engine.train(session, BATCHES, Sampler())
    assert kept == [1, 2, 3, 4]  # the fifth ends the epoch, which has a file of its own


def test_evaluation_runs_at_its_interval_and_changes_nothing(tmp_path):
    def evaluate(model):
        model.eval()
        torch.rand(100)  # draws that training must not notice
        return {"score": float(model.global_step)}

    plain = new_session(tmp_path / "plain", epochs=5)
    engine.train(plain, BATCHES, Sampler())
    session = new_session(tmp_path / "evaluated", epochs=5, eval_epochs=2)
    session.evaluate = evaluate
    engine.train(session, BATCHES, Sampler())
    scores = [
        (one["epoch"], one["step"], one["score"]) for one in records(tmp_path / "evaluated", "test")
    ]
    assert scores == [(2, 10, 10.0), (4, 20, 20.0), (5, 25, 25.0)]
    for name, value in plain.run.model.state_dict().items():
        assert torch.equal(value, session.run.model.state_dict()[name]), name


def test_a_non_finite_loss_names_samples_and_term_and_changes_nothing(
    tmp_path, device, monkeypatch
):
    monkeypatch.setenv("TOY_NAN_AT", "7")
    session = new_session(tmp_path, device)
    with pytest.raises(
        NonFiniteError,
        match=r"loss=nan, loss_fit=nan for the samples frame4, frame5; the last good checkpoint is "
        r".*checkpoint_epoch_1\.pth",
    ):
        engine.train(session, BATCHES, Sampler())
    for value in session.run.model.state_dict().values():
        assert value.isfinite().all()
    assert session.run.progress.step == 7
    assert [path.name for path in tmp_path.glob("*.pth")] == ["checkpoint_epoch_1.pth"]


def test_a_non_finite_gradient_names_the_parameter_before_it_is_learnt(tmp_path, device):
    class Poisoned(ToyDetector):
        def forward(self, data):
            result, terms, extra = super().forward(data)
            # The root of zero is finite and its derivative is not.
            result["loss"] = result["loss"] + (self.token - self.token).abs().sum().sqrt()
            return result, terms, extra

    session = new_session(tmp_path, device, model=Poisoned())
    before = copy.deepcopy(session.run.model.state_dict())
    with pytest.raises(
        NonFiniteError,
        match=r"not finite in 1 parameters \(token\) for the samples frame0, .*there is no check",
    ):
        engine.train(session, BATCHES, Sampler())
    for name, value in session.run.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_in_the_type_asked_for(tmp_path, device, dtype):
    seen = []
    session = new_session(tmp_path, device, epochs=30, model=ToyDetector(dropout=0.0), dtype=dtype)
    session.run.model.head.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    engine.train(session, BATCHES, Sampler())
    losses = [one["loss"] for one in records(tmp_path, "train")]
    assert set(seen) == {dtype}
    assert losses[-1] < 0.1 * losses[0]
    assert session.run.model.token.dtype == torch.float32


def test_a_float16_overflow_skips_the_step_and_lowers_the_scale(tmp_path, device):
    model = ToyDetector(dropout=0.0)
    session = new_session(tmp_path, device, model=model, dtype=torch.float16)
    run = session.run
    run.scaler = torch.amp.GradScaler(str(device), init_scale=2.0**40)
    before = copy.deepcopy(model.token)
    terms = train_step(run, [BATCHES[0]], device, amp_dtype=torch.float16)
    assert torch.equal(model.token, before)
    assert run.scaler.get_scale() == 2.0**39
    assert run.scheduler.last_epoch == 0  # the schedule counts updates
    assert "grad_norm" not in terms
    assert all(math.isfinite(value) for value in terms.values())
    content = run_state.capture(run, session.settings, {})
    assert content["scaler_state"]["scale"] == 2.0**39


def test_float16_does_not_hide_gradients_that_no_scale_makes_finite(tmp_path):
    session = new_session(tmp_path, dtype=torch.float16)
    session.run.model.token.register_hook(lambda gradient: gradient * float("nan"))
    steps = (
        train_step(session.run, [BATCHES[0]], amp_dtype=torch.float16)
        for _ in range(60)  # each skipped one halves the scale
    )
    with pytest.raises(NonFiniteError, match=r"in 1 parameters \(token\)"):
        list(steps)
