"""Gradients by branch: names, norms, and clipping that leaves a weak branch to itself."""

import math

import pytest
import torch
from torch import nn

from nsmae_plugin.config.load import load_config
from nsmae_plugin.optimization.gradients import branch_norms, by_branch, clip_gradients
from nsmae_plugin.runs import train
from nsmae_plugin.training.update import read_records, update_weights
from tests.helpers import toys
from tests.runtime.test_distributed import new_run
from tools.benchmarks.gradients import measure_steps

CPU = torch.device("cpu")


class TwoSensors(nn.Module):
    """A strong camera and a weak LiDAR, behind slots of detectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.image_backbone = nn.Linear(3, 4)
        self.backbone_3d = nn.Linear(3, 4)
        self.bev_head = nn.Linear(4, 1, bias=False)

    def update_global_step(self):
        self.global_step += 1

    def forward(self, batch):
        strong, weak = self.image_backbone(batch["x"]), self.backbone_3d(batch["x"])
        loss = 1e3 * strong.square().mean() + 1e-3 * self.bev_head(weak).square().mean()
        return {"loss": loss}, {}, {}


def gradients(model):
    model({"x": torch.arange(6.0).view(2, 3)})[0]["loss"].backward()
    return {name: one.grad for name, one in model.named_parameters()}


def clipped(limit, separately):
    found = gradients(TwoSensors())
    clip_gradients(found, [one.norm() for one in found.values()], limit, separately)
    return found


def of_torch(limit, *slots):
    """The gradients of some slots as clipped by torch."""
    model = TwoSensors()
    gradients(model)
    named = [(name, one) for name, one in model.named_parameters() if name.startswith(slots)]
    torch.nn.utils.clip_grad_norm_([one for _, one in named], limit)
    return {name: one.grad for name, one in named}


def test_slots_belong_to_the_camera_to_the_lidar_or_to_the_heads():
    names = ["dense_head.x", "mask_token.token", "vfe.x", "vtransform.a.b", "backbone_3d.c"]
    names += ["neck.d", "image_backbone.e", "fuser.f", "map_to_bev_module.g", "token"]
    assert by_branch(names) == {"camera": [1, 3, 5, 6], "lidar": [2, 4, 8], "heads": [0, 7, 9]}
    assert by_branch(["body.weight"]) == {"heads": [0]}


def test_the_norm_of_a_branch_is_that_of_all_its_parameters_together():
    norms = branch_norms(["neck.a", "neck.b", "head.c"], [3.0, 4.0, 2.0])
    assert norms == {"grad_norm_camera": 5.0, "grad_norm_heads": 2.0}
    assert branch_norms(["body.weight"], [2.0]) == {}  # that is grad_norm


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e6])
def test_clipped_together_gradients_are_those_of_torch(limit):
    for name, one in of_torch(limit, "").items():
        torch.testing.assert_close(clipped(limit, separately=False)[name], one)


def test_clipped_by_branch_each_has_the_limit_and_the_weak_one_is_left_alone():
    found, untouched = clipped(1.0, separately=True), gradients(TwoSensors())
    for slot in ("image_backbone", "backbone_3d", "bev_head"):
        for name, one in of_torch(1.0, slot).items():
            torch.testing.assert_close(found[name], one)
    assert math.hypot(*(one.norm() for name, one in found.items() if "image" in name)) <= 1.0001
    for name in ("backbone_3d.weight", "bev_head.weight"):
        assert torch.equal(found[name], untouched[name])
    together = clipped(1.0, separately=False)["backbone_3d.weight"]
    assert together.norm() < 1e-3 * untouched["backbone_3d.weight"].norm()


@pytest.mark.parametrize("separately", [False, True])
def test_a_step_clips_as_it_is_told_and_records_the_norms_before(separately):
    run = new_run(model=TwoSensors())
    data = {"x": torch.arange(6.0).view(2, 3)}
    record = update_weights(run, [data], CPU, clip=1.0, clip_by_branch=separately)
    values = read_records([record])[0]
    before = gradients(TwoSensors())
    for branch, slot in (("camera", "image"), ("lidar", "backbone_3d"), ("heads", "bev_head")):
        expected = math.hypot(*(one.norm() for name, one in before.items() if slot in name))
        assert values[f"grad_norm_{branch}"] == pytest.approx(expected)
    left = run.model.backbone_3d.weight.grad
    assert torch.equal(left, before["backbone_3d.weight"]) is separately


@pytest.mark.parametrize(("limit", "share"), [(1e-12, 1.0), (1e3, 0.0)])
def test_the_benchmark_tells_how_much_of_a_gradient_is_below_eps(limit, share, tmp_path):
    toys.register()
    config = load_config(toys.write_config(tmp_path, GRAD_NORM_CLIP=limit))
    tables = measure_steps(config, batch=2, steps=7, device=CPU)  # an epoch has five steps
    assert len(tables) == 7
    for table in tables:
        assert list(table) == ["token", "body", "head"]
        assert table["head"]["elements"] == 9
        before, after = (
            math.hypot(*(row[k] for row in table.values())) for k in ("before", "after")
        )
        assert after == pytest.approx(min(before, limit), rel=1e-4)
        assert table["token"]["below_eps"] == share  # no zeros of dropout there


@pytest.mark.parametrize("separately", [False, True])
def test_the_configuration_chooses(separately, tmp_path):
    path = toys.write_config(tmp_path, CLIP_BY_BRANCH=separately)
    options = train.TrainOptions(cfg_file=path)
    assert train.loop_options(options, load_config(path)).clip_by_branch is separately


def test_zero_gradients_stay_zero():
    found = {"neck.a": torch.zeros(2), "head.b": torch.ones(1)}
    clip_gradients(found, [one.norm() for one in found.values()], 0.5, separately=True)
    assert found["neck.a"].tolist() == [0, 0]
    assert found["head.b"].tolist() == [0.5]
