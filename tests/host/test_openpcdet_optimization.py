"""OPTIMIZATION in OpenPCDet's training script: each key of ours is honoured or refused."""

import importlib
import logging
import sys

import pytest
import torch
from easydict import EasyDict
from torch import nn

from nsmae_plugin.config.optimization import Optimization
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import REPOSITORY

pytestmark = pytest.mark.openpcdet

LR = 0.01


@pytest.fixture
def stock(openpcdet_host, monkeypatch):
    """``train_utils.optimization`` as a script finds it."""
    monkeypatch.syspath_prepend(openpcdet_host / "tools")
    yield importlib.import_module("train_utils.optimization")
    for name in [name for name in sys.modules if name.partition(".")[0] == "train_utils"]:
        del sys.modules[name]


def optimization(**changes):
    values = {"OPTIMIZER": "adam_onecycle", "LR": LR, "WEIGHT_DECAY": 0.1, "MOMS": [0.9, 0.8]}
    values |= {"PCT_START": 0.4, "DIV_FACTOR": 10, "DECAY_STEP_LIST": [], "GRAD_NORM_CLIP": 35}
    return EasyDict(values | changes)


class Network(nn.Module):
    """A backbone with BatchNorm and a head, every weight 1 and with a gradient of 1."""

    def __init__(self):
        super().__init__()
        self.backbone_3d = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
        self.map_head = nn.Linear(1, 1, bias=False)
        for parameter in self.parameters():
            parameter.data.fill_(1.0)
            parameter.grad = torch.ones_like(parameter)


def test_lr_scale_holds_for_rate_and_decay_through_the_schedule(stock):
    """Adam's first step is the rate times the gradient's sign; the decay follows the rate."""
    model, config = Network(), optimization(LR_SCALE={"BACKBONE_3D": 0.3})
    optimizer = stock.build_optimizer(model, config)
    schedule, _ = stock.build_scheduler(optimizer, 10, 1, -1, config)
    schedule.step(2)
    rate = optimizer.lr  # what the script logs
    assert LR / 10 < rate < LR
    optimizer.step()
    after = {name: float(one.detach()) for name, one in model.named_parameters()}
    scaled = (1 - 0.1 * 0.3 * rate) - 0.3 * rate
    for name in ("backbone_3d.0.weight", "backbone_3d.1.weight", "backbone_3d.1.bias"):
        assert after[name] == pytest.approx(scaled, abs=1e-6), name
    assert after["map_head.weight"] == pytest.approx((1 - 0.1 * rate) - rate, abs=1e-6)


def test_layer_decay_is_that_of_our_tools(stock):
    """The backbone has two layers of one parameter each kind: rates of 0.25 and 0.5 of LR."""
    model, config = Network(), optimization(LAYER_DECAY=0.5, WEIGHT_DECAY=0.0)
    optimizer = stock.build_optimizer(model, config)
    schedule, _ = stock.build_scheduler(optimizer, 10, 1, -1, config)
    schedule.step(2)
    rate = optimizer.lr
    optimizer.step()
    after = {name: float(one.detach()) for name, one in model.named_parameters()}
    for name, factor in (("backbone_3d.0", 0.25), ("backbone_3d.1", 0.5), ("map_head", 1.0)):
        assert after[f"{name}.weight"] == pytest.approx(1 - factor * rate, abs=1e-6), name


def test_a_frozen_section_stays_and_its_batchnorm_does_not_follow(stock, caplog):
    model = Network()
    with caplog.at_level(logging.INFO):
        scales = {"BACKBONE_3D": 0.3}  # of no use, and no error
        optimizer = stock.build_optimizer(
            model, optimization(FREEZE=["BACKBONE_3D"], LR_SCALE=scales)
        )
    assert "frozen: BACKBONE_3D, 0.00 M parameters" in caplog.text
    model.train()
    model.map_head(model.backbone_3d(torch.tensor([[1.0], [3.0]]))).sum().backward()
    optimizer.lr = 0.1
    optimizer.step()
    assert all(float(one.detach()) == 1 for one in model.backbone_3d.parameters())
    assert float(model.backbone_3d[1].running_mean) == 0
    assert float(model.map_head.weight.detach()) != 1


def test_an_optimiser_with_lr_scale_is_saved_and_resumed(stock):
    config = optimization(LR_SCALE={"BACKBONE_3D": 0.3, "MAP_HEAD": 1.0})
    models = [Network(), Network()]
    first, second = (stock.build_optimizer(model, config) for model in models)
    first.step()
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        optimizer.step()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_early_stopping_is_refused(stock):
    with pytest.raises(ConfigError, match="evaluates nothing between epochs"):
        stock.build_optimizer(Network(), optimization(EARLY_STOPPING={"PATIENCE": None}))


def test_only_what_openpcdets_optimiser_leaves_out_can_be_spared_the_decay(stock):
    model = Network()
    model.backbone_3d.register_parameter("table", nn.Parameter(torch.ones(1)))
    stock.build_optimizer(model, optimization(NO_DECAY=["table"])).step()
    assert torch.equal(model.backbone_3d.table, torch.ones(1))
    for part, message in (
        ("head", "decays all that it trains, also 'head'"),
        ("x", "no parameter"),
    ):
        with pytest.raises(ConfigError, match=f"NO_DECAY: .*{message}"):
            stock.build_optimizer(model, optimization(NO_DECAY=[part]))


def test_batchnorm_takes_the_momentum_of_the_configuration(stock):
    model = Network()
    stock.build_optimizer(model, optimization(BN_MOMENTUM=0.25))
    assert model.backbone_3d[1].momentum == 0.25


def test_gradients_are_clipped_by_branch_and_not_together(stock):
    """As the loop does it: clip to GRAD_NORM_CLIP, then step. Three ones in the LiDAR's branch."""
    model, config = Network(), optimization(CLIP_BY_BRANCH=True, GRAD_NORM_CLIP=0.5)
    optimizer = stock.build_optimizer(model, config)
    model.map_head.weight.grad.fill_(0.25)
    nn.utils.clip_grad_norm_(model.parameters(), config.GRAD_NORM_CLIP)
    optimizer.step()
    for parameter in model.backbone_3d.parameters():
        assert float(parameter.grad) == pytest.approx(0.5 / 3**0.5)
    assert float(model.map_head.weight.grad) == 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ACCUMULATE_STEPS": 2}, "ACCUMULATE_STEPS 2: .* updates the weights after every batch"),
        ({"LR_SCALE": {"NECK": 0.5}}, "LR_SCALE.NECK: the network trains nothing there"),
        ({"LR_SCALE": {"MAP_HEAD": 0.5}, "OPTIMIZER": "adam"}, "LR_SCALE needs OPTIMIZER adam_one"),
    ],
)
def test_what_the_loop_cannot_do_is_refused(stock, changes, message):
    with pytest.raises(ConfigError, match=message):
        stock.build_optimizer(Network(), optimization(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device can do it")
def test_batchnorm_is_not_synchronised_without_a_device(stock):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Network())
    with pytest.raises(ConfigError, match=r"--sync_bn: .* on CUDA only; drop the flag"):
        stock.build_optimizer(model, optimization())


def test_a_schedule_too_short_to_rise_is_refused(stock):
    optimizer = stock.build_optimizer(Network(), optimization())
    with pytest.raises(ConfigError, match=r"2 optimiser steps are too few .* the first 40%"):
        stock.build_scheduler(optimizer, 2, 1, -1, optimization())
    stock.build_scheduler(optimizer, 3, 1, -1, optimization())


def test_what_openpcdets_optimiser_leaves_out_is_said(stock, caplog, monkeypatch):
    model = Network()
    model.backbone_3d.register_parameter("table", nn.Parameter(torch.ones(5)))
    monkeypatch.setattr(logging.getLogger("pcdet.utils.common_utils"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        stock.build_optimizer(model, optimization())
    assert "leaves out 1 parameters (5 values) of modules that have children (table)" in caplog.text
    caplog.clear()
    stock.build_optimizer(Network(), optimization())
    assert not caplog.text


def test_the_page_on_hosts_says_what_becomes_of_every_key():
    page = (REPOSITORY / "docs" / "HOSTS.md").read_text()
    missing = [key for key in Optimization.model_fields if f"`{key}`" not in page]
    assert not missing
