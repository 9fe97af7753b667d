"""Losses of map segmentation: by hand, against a loop, at extremes, and with invalid input."""

import math

import pytest
import torch
import torch.nn.functional as F

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.map_head import cross_entropy, focal_loss, map_loss
from nsmae_plugin.models.module_config import MapLoss

LOSSES = {
    "cross_entropy": cross_entropy,
    "focal": focal_loss,
    "balanced": lambda logits, target: focal_loss(logits, target, gamma=1.5, alpha=0.25),
}


def example(dtype=torch.float64, scale=3.0):
    """Logits and truth of 2 samples, 3 classes, 4 x 5 cells."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.rand(2, 3, 4, 5, generator=generator) < 0.3


def logit(probability):
    return math.log(probability / (1 - probability))


def test_cross_entropy_by_hand():
    # one class, two cells: 0.8 where the class is, 0.4 where it is not
    logits = torch.tensor([logit(0.8), logit(0.4)]).view(1, 1, 1, 2)
    target = torch.tensor([True, False]).view(1, 1, 1, 2)
    assert cross_entropy(logits, target).tolist() == pytest.approx(
        [(-math.log(0.8) - math.log(0.6)) / 2]
    )


def test_focal_loss_by_hand():
    logits = torch.tensor([logit(0.8), logit(0.4)]).view(1, 1, 1, 2)
    target = torch.tensor([True, False]).view(1, 1, 1, 2)
    right, wrong = -math.log(0.8) * 0.2**2, -math.log(0.6) * 0.4**2
    assert focal_loss(logits, target).tolist() == pytest.approx([(right + wrong) / 2])
    balanced = focal_loss(logits, target, alpha=0.25)
    assert balanced.tolist() == pytest.approx([(0.25 * right + 0.75 * wrong) / 2])


def slow_focal(logits, target, gamma, alpha):
    """As published: with probabilities, cell by cell."""
    samples, classes, rows, columns = logits.shape
    result = []
    for c in range(classes):
        total = 0.0
        for b in range(samples):
            for y in range(rows):
                for x in range(columns):
                    p = 1 / (1 + math.exp(-logits[b, c, y, x].item()))
                    truth = bool(target[b, c, y, x])
                    p = p if truth else 1 - p
                    weight = (alpha if truth else 1 - alpha) if alpha >= 0 else 1
                    total -= weight * (1 - p) ** gamma * math.log(p)
        result.append(total / (samples * rows * columns))
    return result


@pytest.mark.parametrize(("gamma", "alpha"), [(2, -1), (0, -1), (1.5, 0.25), (0.5, 1), (2, 0)])
def test_focal_loss_is_that_of_the_formula_for_each_class(gamma, alpha):
    logits, target = example()
    assert focal_loss(logits, target, gamma, alpha).tolist() == pytest.approx(
        slow_focal(logits, target, gamma, alpha), rel=1e-12
    )


def test_without_focus_it_is_torchs_cross_entropy():
    logits, target = example()
    expected = F.binary_cross_entropy_with_logits(logits, target.double(), reduction="none")
    expected = expected.mean(dim=(0, 2, 3))
    torch.testing.assert_close(cross_entropy(logits, target), expected)
    torch.testing.assert_close(focal_loss(logits, target, gamma=0), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    logits, target = example()
    assert torch.autograd.gradcheck(LOSSES[name], (logits.requires_grad_(), target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("value", [-1e4, -90.0, 0.0, 90.0, 1e4])
def test_extreme_logits_have_finite_losses_and_gradients(value, gamma, device):
    logits = torch.full((1, 1, 1, 2), value, device=device, requires_grad=True)
    target = torch.tensor([True, False], device=device).view(1, 1, 1, 2)
    loss = focal_loss(logits, target, gamma)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    # one of the two cells is wrong by |value|, the other right
    assert loss.item() == pytest.approx(max(abs(value), 2 * math.log(2) * 0.5**gamma) / 2, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_logits_are_compared_in_float32(name, device):
    logits, target = (one.to(device) for one in example(torch.bfloat16))
    with torch.autocast(device.type, torch.bfloat16):
        loss = LOSSES[name](logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](logits.float(), target))


def section(**loss):
    return MapLoss.of({**loss, "LOSS_WEIGHTS": {"map_weight": 1}}, "MODEL.MAP_HEAD.LOSS_CONFIG")


def test_the_configuration_chooses():
    logits, target = example()
    chosen = {
        "cross_entropy": map_loss(section(LOSS="cross_entropy")),
        "focal": map_loss(section(LOSS="focal")),  # GAMMA 2, no ALPHA
        "balanced": map_loss(section(LOSS="focal", GAMMA=1.5, ALPHA=0.25)),
    }
    for name, loss in chosen.items():
        assert torch.equal(loss(logits, target), LOSSES[name](logits, target)), name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"LOSS": "dice"}, "must be focal or cross_entropy, not 'dice'"),
        (
            {"LOSS": "cross_entropy", "GAMMA": 2.0},
            "LOSS_CONFIG: cross_entropy has no GAMMA: rem",
        ),
        ({"LOSS": "focal", "GAMMA": -1}, "GAMMA must be a number of at least 0, not -1"),
        ({"LOSS": "focal", "ALPHA": 1.5}, "ALPHA must be a number of at most 1, not 1.5"),
    ],
)
def test_a_loss_that_means_nothing_is_named(config, message):
    with pytest.raises(ConfigError, match=message):
        section(**config)
