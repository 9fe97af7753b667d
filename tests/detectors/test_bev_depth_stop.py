"""BEV_DEPTH_STOP_EPOCH: what the view from above alone trains costs nothing after it, and stays."""

import copy
from pathlib import Path

import pytest
import torch

from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.runtime import distributed
from nsmae_plugin.training import run_state
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from tests.detectors.test_nsmae import build
from tests.helpers.made_up_batch import made_up_batch
from tests.helpers.process_group import run_in_processes
from tests.helpers.toys import train_step

CPU = torch.device("cpu")
CONFIG = {
    "OPTIMIZER": "adam_onecycle",
    "LR": 1e-3,
    "WEIGHT_DECAY": 0.5,
    "MOMS": [0.9, 0.8],
    "PCT_START": 0.4,
    "DIV_FACTOR": 10,
}
STOP, STEPS = 2, 4  # steps: the view from above trains for one epoch of two
SETTINGS = RunSettings(0, 2, 1, 1, 2, 2)
#: Slots that the view from above alone trains, and whether cameras without LiDAR have them.
FROM_ABOVE = {"backbone_3d.": False, "bev_head.": True, "vtransform.downsample.": True}


def new_run(mode, wrap=lambda model: model):
    model = build(mode, BEV_DEPTH_STOP_EPOCH=1).train()
    model.steps_per_epoch = 2
    optimizer = build_optimizer(model, CONFIG)
    scheduler = build_scheduler(optimizer, CONFIG, STEPS, 2)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Run(wrap(model), optimizer, scheduler, scaler, Progress())


def train(run, steps, mode="both", samples=2):
    batch = made_up_batch(mode, samples=samples)
    return [train_step(run, [batch]) for _ in range(steps)]


def weights(run):
    parameters = distributed.unwrap(run.model).named_parameters()
    return {name: value.detach().clone() for name, value in parameters}


def from_above(names):
    return [name for name in names if name.startswith(tuple(FROM_ABOVE))]


@pytest.mark.parametrize("mode", ["both", "camera"])
def test_after_it_neither_gradients_nor_decay_move_what_the_view_from_above_trains(mode):
    run = new_run(mode)
    start, first = weights(run), train(run, STOP, mode)
    before, second = weights(run), train(run, STEPS - STOP, mode)
    after = weights(run)
    idle = from_above(after)
    for slot, without_lidar in FROM_ABOVE.items():
        assert any(name.startswith(slot) for name in idle) is (without_lidar or mode == "both")
    assert not any(torch.equal(start[name], before[name]) for name in idle)
    for name, value in after.items():
        assert torch.equal(before[name], value) is (name in idle), name
    assert all("loss_bev_depth" in terms for terms in first)
    assert all("loss_rgb" in terms and "loss_bev_depth" not in terms for terms in second)


def test_after_it_the_lidar_encoder_the_pooling_and_the_head_do_not_run_in_training():
    run = new_run("both")
    slots = ["backbone_3d", "map_to_bev_module", "vtransform.downsample", "perspective_head"]
    slots += ["bev_head"]
    calls = []
    for slot in slots:
        module = run.model.get_submodule(slot)
        module.register_forward_hook(lambda *_, slot=slot: calls.append(slot))
    train(run, STOP)
    assert calls == slots * STOP
    calls.clear()
    train(run, 1)
    assert calls == ["perspective_head"]
    with torch.no_grad():
        (rendered, _), _ = run.model.eval()(made_up_batch())
    assert "rendered_bev_depth" in rendered
    assert "loss_bev_depth" in rendered["loss_terms"]


def test_it_freezes_what_it_stops_and_another_run_can_train_that_again():
    run = new_run("both")
    train(run, STOP + 1)
    # OpenPCDet's optimiser decays whatever is not frozen, with a gradient or without.
    frozen = [name for name, one in run.model.named_parameters() if not one.requires_grad]
    assert frozen == from_above(weights(run))
    other = new_run("both")
    other.model.load_state_dict(run.model.state_dict())
    assert all(parameter.requires_grad for parameter in other.model.parameters())


def look_at_two_processes(world):
    def wrap(model):
        return distributed.wrap(model, world)

    torch.set_num_threads(1)
    run = new_run("both", wrap)
    train(run, STOP - 1, samples=world.rank + 1)
    before_stop = copy.deepcopy(run_state.capture(run, SETTINGS, {}))
    train(run, 1, samples=world.rank + 1)
    at_stop = weights(run)
    train(run, STEPS - STOP, samples=world.rank + 1)
    resumed = new_run("both", wrap)
    run_state.restore(resumed, SETTINGS, before_stop, Path("made up"), world.rank)
    train(resumed, STEPS - STOP + 1, samples=world.rank + 1)
    return {"stop": at_stop, "end": weights(run), "resumed": weights(resumed)}


def test_two_processes_pass_it_together_and_resume_across_it(tmp_path):
    both = run_in_processes(look_at_two_processes, tmp_path)
    for name, value in both[0]["end"].items():
        assert torch.equal(value, both[1]["end"][name]), name
        for one in both:
            assert torch.equal(one["end"][name], one["resumed"][name]), name
            assert torch.equal(one["stop"][name], one["end"][name]) is bool(from_above([name]))
