"""Steps that only queue work: numbers are read later, together, and nothing bad is saved before."""

import pytest
import torch

from nsmae_plugin.errors import NonFiniteError
from nsmae_plugin.training import engine, update
from nsmae_plugin.training.update import Meter, read_records, update_weights
from tests.helpers.toys import ToyDetector, batch
from tests.training.test_engine import BATCHES, Sampler, new_session, records


class TensorTerms(ToyDetector):
    """As our detectors: one of the terms is a tensor of one element."""

    def forward(self, data):
        result, terms, extra = super().forward(data)
        return result, terms | {"loss_fit": result["loss"].view(1)}, extra


@pytest.fixture
def reads(monkeypatch):
    """The number of values in every transfer to the host."""
    counts = []
    original = update._fetch

    def counting(values):
        values = list(values)
        counts.append(len(values))
        return original(values)

    monkeypatch.setattr(update, "_fetch", counting)
    return counts


def test_a_step_without_check_reads_nothing_until_it_is_asked(reads, device):
    session = new_session(None, device, model=TensorTerms(dropout=0.0))
    steps = [
        update_weights(session.run, [one], device, clip=35, check=False) for one in BATCHES[:3]
    ]
    assert reads == []
    values = read_records(steps)
    assert reads == [3 * (3 + 1)]  # three terms and the gradients' norms, of three steps
    assert [one.step for one in steps] == [1, 2, 3]
    assert all(isinstance(number, float) for one in values for number in one.values())
    assert read_records(steps) == values
    assert len(reads) == 1  # what was read is kept


@pytest.mark.parametrize("check_steps", [2, 50])
def test_looking_less_often_changes_no_weight_and_no_curve(check_steps, tmp_path, reads):
    often = new_session(tmp_path / "often", epochs=1, log_steps=3)
    engine.train(often, BATCHES, Sampler())
    assert len(reads) == len(BATCHES)
    reads.clear()
    seldom = new_session(tmp_path / "seldom", epochs=1, log_steps=3, check_steps=check_steps)
    engine.train(seldom, BATCHES, Sampler())
    assert len(reads) == (4 if check_steps == 2 else 2)  # after 2, 3, 4, 5; after 3, 5
    assert records(tmp_path / "often", "train") == records(tmp_path / "seldom", "train")
    for name, value in often.run.model.state_dict().items():
        assert torch.equal(value, seldom.run.model.state_dict()[name]), name


def test_every_step_reaches_tensorboard_under_its_number(tmp_path, monkeypatch):
    session = new_session(tmp_path, epochs=1, check_steps=50)
    written = []
    monkeypatch.setattr(
        session.curves, "scalars", lambda prefix, values, step: written.append((step, len(values)))
    )
    engine.train(session, BATCHES, Sampler())
    assert written == [(step, 5) for step in range(1, 6)]  # loss, two terms, lr, grad_norm


def test_a_late_look_names_the_samples_and_nothing_bad_is_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_NAN_AT", "1")
    session = new_session(tmp_path, check_steps=50, save_steps=4)
    with pytest.raises(
        NonFiniteError,
        match="loss=nan, loss_fit=nan for the samples frame2, frame3; there is no checkpoint",
    ):
        engine.train(session, BATCHES, Sampler())
    assert session.run.progress.step == 4  # the look before the checkpoint
    assert not list(tmp_path.glob("*.pth"))


def test_gradients_are_clipped_to_the_norm_without_a_look(device):
    clipped = new_session(None, device, model=ToyDetector(dropout=0.0))
    record = update_weights(clipped.run, [batch(1, 2)], device, clip=0.01, check=False)
    norm = torch.cat([one.grad.flatten() for one in clipped.run.model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-4)
    assert read_records([record])[0]["grad_norm"] > 0.5


def test_a_meter_gives_means_and_starts_anew():
    meter = Meter()
    meter.add({"a": 1.0, "b": 4.0})
    meter.add({"a": 2.0})
    assert meter.take() == {"a": 1.5, "b": 4.0}
    assert meter.take() == {}
