"""Timing module by module: the cuts change no gradient, and costs go to who caused them."""

import weakref

import pytest
import torch
from torch import nn

from tools.benchmarks.modules import LOSS, ModuleTimer

CPU = torch.device("cpu")
CLOCK = [0.0]  # seconds; modules that take time advance it


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        CLOCK[0] += 5.0
        return gradient


class Sparse:
    """As spconv's tensors: features that can be exchanged."""

    def __init__(self, features):
        self.features = features

    def replace_feature(self, features):
        return Sparse(features)


class First(nn.Module):
    """Writes nested lists and something sparse; takes 3 seconds."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, batch):
        CLOCK[0] += 3.0
        features = self.layer(batch["x"])
        return {**batch, "maps": [features, (features + 1,)], "sparse": Sparse(2 * features)}


class Second(nn.Module):
    """Reads all of it, and takes 5 seconds in its backward pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, batch):
        one, (two,) = batch["maps"]
        mixed = self.layer(one) * two + batch["sparse"].features
        return {**batch, "y": SlowBackward.apply(mixed)}


class Third(nn.Module):
    """Reads what the first and the second module wrote."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, batch):
        return {**batch, "z": self.layer(batch["y"] * batch["maps"][0])}


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = First(), Second(), Third()
        self.module_list = [self.first, self.second, self.third]

    def forward(self, batch):
        for module in self.module_list:
            batch = module(batch)
        return {"loss": batch["z"].square().sum()}, {}, {}


@pytest.fixture
def batch():
    return {"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}


def test_cutting_the_graph_changes_no_gradient(batch):
    plain, timed = Detector(), Detector()
    plain(batch)[0]["loss"].backward()
    ModuleTimer(timed, CPU).step(batch)
    for (name, mine), other in zip(timed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, msg=name)


def test_the_detector_is_left_as_it_was(batch):
    model = Detector()
    ModuleTimer(model, CPU).step(batch)
    assert not model.first._forward_hooks
    assert not model.first._forward_pre_hooks
    assert set(batch) == {"x"}


def test_seconds_are_of_the_module_that_takes_them(batch, monkeypatch):
    monkeypatch.setattr("tools.benchmarks.modules.time.perf_counter", lambda: CLOCK[0])
    timer = ModuleTimer(Detector(), CPU)
    timer.step(batch)
    forward = {name: one.forward for name, one in timer.timings.items()}
    backward = {name: one.backward for name, one in timer.timings.items() if one.backward}
    assert forward == {"first": [3.0], "second": [0.0], "third": [0.0], LOSS: [0.0]}
    assert backward == {"first": [0.0], "second": [5.0], "third": [0.0]}


def test_memory_is_of_the_module_that_keeps_it(batch):
    """By hand: the third module keeps its linear input and both factors; (5, 3) floats each.

    One factor, ``maps[0]``, was kept before: by the second module's linear layer.
    """
    timer = ModuleTimer(Detector(), CPU)
    timer.step(batch)
    assert timer.timings["third"].mib[0] == pytest.approx(2 * 5 * 3 * 4 / 2**20)
    timer.step(batch)
    assert [len(one.forward) for one in timer.timings.values()] == [2, 2, 2, 2]


def test_results_that_the_loss_does_not_need_are_freed(batch):
    """An exponential keeps itself for its backward pass, which is never run here."""

    class Aside(Detector):
        def forward(self, batch):
            unused = batch["x"] * self.first.layer.weight.sum()
            kept.append(weakref.ref(unused.exp()))
            return super().forward(batch)

    kept = []
    timer = ModuleTimer(Aside(), CPU)
    timer.step(batch)
    assert [one() for one in kept] == [None]
