"""The optimiser trains every parameter; the schedules have the values of OpenPCDet's formulas."""

import math

import pytest
import torch
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler, set_batchnorm_momentum
from tests.helpers.toys import ToyDetector, batch

ONE_CYCLE = {
    "OPTIMIZER": "adam_onecycle",
    "LR": 1e-3,
    "WEIGHT_DECAY": 0.01,
    "MOMS": [0.95, 0.85],
    "PCT_START": 0.4,
    "DIV_FACTOR": 10,
}
COSINE = {
    "OPTIMIZER": "adam_cosineanneal",
    "LR": 1e-4,
    "WEIGHT_DECAY": 0.01,
    "BETAS": [0.9, 0.999],
    "MOMS": [0.9, 0.8052631],
    "PCT_START": 0.4,
    "WARMUP_ITER": 5,
}


def walk(config, total_steps, steps_per_epoch=1):
    """Rate and first beta that every step of a whole plan is taken with."""
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    scheduler = build_scheduler(optimizer, config, total_steps, steps_per_epoch)
    rates, betas = [], []
    for step in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if step + 1 < total_steps:
            scheduler.step()
    return rates, betas


def test_a_bare_parameter_beside_child_modules_trains():
    model = ToyDetector(dropout=0.0)
    optimizer = build_optimizer(model, ONE_CYCLE)
    data = {key: torch.from_numpy(batch(1, 2)[key]) for key in ("x", "y")}
    model(data)[0]["loss"].backward()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer.step()
    assert "token" in before
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_weight_decay_and_betas_come_from_the_configuration_and_frozen_parameters_stay_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, {**COSINE, "WEIGHT_DECAY": 0.3})
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["weight_decay"], group["betas"]) == (0.3, (0.9, 0.999))
    assert [id(one) for one in group["params"]] == [id(model.weight)]


def test_one_cycle_rises_from_lr_over_div_factor_peaks_and_ends_at_a_ten_thousandth_of_it():
    rates, betas = walk(ONE_CYCLE, 100)
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 39  # the 40th of 100 steps
    assert rates[-1] == pytest.approx(1e-8)
    assert (betas[0], min(betas), betas[-1]) == pytest.approx((0.95, 0.85, 0.95))
    # Half way up (39/2 is between steps 19 and 20) a cosine is at the mean of its ends.
    assert (rates[19] + rates[20]) / 2 == pytest.approx(5.5e-4, rel=1e-6)


class TwoSlots(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_backbone, self.map_head = nn.Linear(2, 2), nn.Linear(2, 1)


@pytest.mark.parametrize("config", [ONE_CYCLE, COSINE])
def test_a_scaled_section_keeps_its_factor_through_the_whole_schedule(config):
    model = TwoSlots()
    optimizer = build_optimizer(model, {**config, "LR_SCALE": {"IMAGE_BACKBONE": 0.25}})
    scheduler = build_scheduler(optimizer, config, 20, 5)
    head, backbone = optimizer.param_groups
    assert [id(one) for one in head["params"]] == [id(one) for one in model.map_head.parameters()]
    for _ in range(19):
        assert backbone["lr"] == pytest.approx(0.25 * head["lr"])
        assert backbone["betas"] == head["betas"]
        optimizer.step()
        scheduler.step()


def test_all_sections_may_be_scaled():
    scales = {"IMAGE_BACKBONE": 0.5, "MAP_HEAD": 0.5}
    (group,) = build_optimizer(TwoSlots(), {**ONE_CYCLE, "LR_SCALE": scales}).param_groups
    assert group["lr"] == pytest.approx(0.5e-3)


def test_parameters_named_by_a_part_of_their_name_do_not_decay():
    model = TwoSlots()
    config = {**ONE_CYCLE, "NO_DECAY": ["head.b"], "LR_SCALE": {"IMAGE_BACKBONE": 0.25}}
    decayed, free, backbone = build_optimizer(model, config).param_groups
    assert decayed["params"] == [model.map_head.weight]
    assert free["params"] == [model.map_head.bias]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert free["lr"] == decayed["lr"]
    assert len(backbone["params"]) == 2
    assert (backbone["weight_decay"], backbone["lr"]) == (0.01, 0.25 * decayed["lr"])
    with pytest.raises(ConfigError, match=r"NO_DECAY: the network trains no .* contains 'table'"):
        build_optimizer(model, {**ONE_CYCLE, "NO_DECAY": ["bias", "table"]})


def test_scales_that_cannot_be_are_named():
    with pytest.raises(ConfigError, match=r"LR_SCALE.NECK: the network trains nothing there"):
        build_optimizer(TwoSlots(), {**ONE_CYCLE, "LR_SCALE": {"NECK": 0.1}})


@pytest.mark.parametrize("total_steps", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.2, 0.4, 1.0])
def test_one_cycle_works_for_any_number_of_steps(total_steps, pct_start):
    # torch's own divides by zero when pct_start * total_steps is 1.
    rates, _ = walk({**ONE_CYCLE, "PCT_START": pct_start}, total_steps)
    assert rates[0] == pytest.approx(1e-4)
    assert all(1e-9 < rate <= 1e-3 * (1 + 1e-12) for rate in rates)


def test_cosine_warms_up_by_step_and_falls_by_epoch():
    rates, betas = walk(COSINE, total_steps=40, steps_per_epoch=10)
    assert rates[0] == pytest.approx(1e-4 / 3)
    assert rates[3] == pytest.approx(1e-4 * (1 - (1 - 3 / 5) * (1 - 1 / 3)))
    assert rates[5:10] == [pytest.approx(1e-4)] * 5
    for epoch in (1, 2, 3):
        expected = 1e-7 + (1e-4 - 1e-7) / 2 * (1 + math.cos(math.pi * epoch / 4))
        assert rates[10 * epoch : 10 * epoch + 10] == [pytest.approx(expected)] * 10
    assert betas[0] == pytest.approx(0.9)
    assert betas[16] == pytest.approx(0.8052631)  # the end of the first 40 %
    assert betas[28] == pytest.approx((0.9 + 0.8052631) / 2)  # half way back


@pytest.mark.parametrize("config", [ONE_CYCLE, COSINE])
def test_a_schedule_restored_in_the_middle_goes_on_as_if_never_stopped(config):
    def build():
        optimizer = build_optimizer(nn.Linear(2, 2), config)
        return optimizer, build_scheduler(optimizer, config, 20, 5)

    optimizer, scheduler = build()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    other_optimizer, other_scheduler = build()
    other_optimizer.load_state_dict(optimizer.state_dict())
    other_scheduler.load_state_dict(scheduler.state_dict())
    for _ in range(12):
        for one, schedule in ((optimizer, scheduler), (other_optimizer, other_scheduler)):
            one.step()
            schedule.step()
        group, other = optimizer.param_groups[0], other_optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == (other["lr"], other["betas"])


def test_unknown_optimizers_and_frozen_models_are_named():
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"OPTIMIZER 'sgdd'; known: adam_onecycle"):
        build_optimizer(model, {**ONE_CYCLE, "OPTIMIZER": "sgdd"})
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(nn.ReLU(), ONE_CYCLE)


def test_batchnorm_follows_with_the_momentum_of_the_configuration():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=0.01), nn.BatchNorm1d(2))
    set_batchnorm_momentum(model, {})
    assert [model[1].momentum, model[2].momentum] == [0.01, 0.1]
    set_batchnorm_momentum(model, {"BN_MOMENTUM": 0.5})
    assert [model[1].momentum, model[2].momentum] == [0.5, 0.5]
    # One batch of constant 4 moves the running mean from 0 half of the way.
    model[1].train()(torch.full((2, 2, 1, 1), 4.0))
    assert model[1].running_mean.tolist() == [2.0, 2.0]


def test_betas_may_be_integers_beside_other_numbers():
    config = {**COSINE, "BETAS": [0, 0.99]}
    assert build_optimizer(nn.Linear(2, 2), config).param_groups[0]["betas"] == (0.0, 0.99)
