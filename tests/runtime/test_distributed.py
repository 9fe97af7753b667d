"""Two gloo processes learn what one learns from the joint batch, and fail together."""

import copy
import logging
import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from easydict import EasyDict
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, DataError, NSMAEError
from nsmae_plugin.optimization.freezing import freeze
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.runtime import distributed
from nsmae_plugin.training import checkpoint, engine, run_state
from nsmae_plugin.training.checkpoint_manager import CheckpointManager
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from nsmae_plugin.training.session import LoopOptions, Session
from tests.helpers.process_group import run_in_processes
from tests.helpers.toys import CONFIG, ToyDetector, batch, free_port, train_step

LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
CLIP = 0.5
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        # Set first, so that what the code under test writes is undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def new_run(wrap=lambda model: model, model=None):
    torch.manual_seed(0)
    model = model or ToyDetector(dropout=0.0)  # no BatchNorm, a mean over samples: exact
    config = EasyDict(CONFIG["OPTIMIZATION"])
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, 10, 5)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Run(wrap(model), optimizer, scheduler, scaler, Progress())


def look_around(world):
    found = {"world": (world.rank, world.size), "main": world.is_main}
    found["any"] = distributed.any_process(world.rank == 1, False)
    found["gather"] = distributed.gather(f"from {world.rank}")
    found["from_main"] = distributed.from_main(f"from {world.rank}")
    found["on_all"] = distributed.on_all(lambda: f"from {world.rank}")
    found["refused"] = message_of(lambda: distributed.on_all(partial(refuse, world.rank)))

    run = new_run(lambda model: distributed.wrap(model, world))
    found["wrapped"] = isinstance(run.model, DistributedDataParallel)
    for name, parts in (("plain", [(1, 3), (2, 4)]), ("accumulated", [(5, 7), (6, 8)])):
        # Dealt in turn, as the sampler does: rank 0 has 1, 2 and rank 1 has 3, 4.
        indices = [one[world.rank] for one in parts]
        batches = [batch(*indices)] if name == "plain" else [batch(one) for one in indices]
        train_step(run, batches, clip=CLIP)
        found[name] = [one.grad.clone() for one in run.model.parameters()]
    found["weights"] = distributed.unwrap(run.model).state_dict()

    content = run_state.capture(run, RunSettings(0, 2, 1, 2, 1, 5), {})
    found["random_states"] = [one["torch"] for one in content["random_states"]]

    found["frozen"] = train_frozen(world)
    bad = batch(9)
    if world.rank == 1:
        bad["y"][:] = float("inf")
    found["message"] = message_of(lambda: train_step(run, [bad], clip=CLIP))
    return found


def train_frozen(world):
    """Weights and statistics before and after a step with frozen layers before those that train."""
    model = Normalised()
    freeze(model, {"FREEZE": ["TOKEN", "BODY"]}, logging.getLogger("frozen"))
    run = new_run(lambda model: distributed.wrap(model, world), model)
    before = copy.deepcopy(model.state_dict())
    train_step(run, [batch(world.rank)])
    train_step(run, [batch(2 + world.rank)])  # waits for the gradients of all parameters
    return before, model.state_dict()


def refuse(rank):
    if rank == 1:
        raise DataError(f"refused by {rank}")


def message_of(action):
    with pytest.raises(NSMAEError) as caught:
        action()
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return run_in_processes(look_around, tmp_path_factory.mktemp("processes"))


def test_processes_know_their_place_and_agree(both):
    assert [one["world"] for one in both] == [(0, 2), (1, 2)]
    assert [one["main"] for one in both] == [True, False]
    for one in both:
        assert one["any"] == (True, False)
        assert one["gather"] == ["from 0", "from 1"]
        assert one["from_main"] == "from 0"
        assert one["on_all"] == ["from 0", "from 1"]
        assert one["wrapped"]


def test_an_error_in_one_process_is_raised_in_both(both):
    assert [one["refused"] for one in both] == ["DataError: refused by 1"] * 2


def test_averaged_gradients_equal_those_of_the_joint_batch(both):
    run = new_run()
    for name, indices in (("plain", (1, 2, 3, 4)), ("accumulated", (5, 6, 7, 8))):
        train_step(run, [batch(*indices)], clip=CLIP)
        for rank in (0, 1):
            for mine, parameter in zip(both[rank][name], run.model.parameters(), strict=True):
                # Sums of float32 in another order, clipped to a norm of 0.5.
                torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


def test_both_processes_hold_the_same_weights_and_count_steps_once(both):
    for name, value in both[0]["weights"].items():
        assert torch.equal(value, both[1]["weights"][name]), name
    assert int(both[0]["weights"]["global_step"]) == 2


def test_a_checkpoint_holds_the_random_states_of_all_processes(both):
    for one in both:
        assert len(one["random_states"]) == 2


def test_processes_train_beside_frozen_layers(both):
    (before, first), (_, second) = (one["frozen"] for one in both)
    changed = {name for name in first if not torch.equal(first[name], before[name])}
    assert changed == {"head.weight", "head.bias", "global_step"}
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_non_finite_loss_in_one_process_stops_both_and_names_the_samples(both):
    for one in both:
        assert one["message"] == (
            "NonFiniteError: the loss is not finite: loss=inf, loss_fit=inf for the samples frame9"
        )


class Normalised(ToyDetector):
    """A toy whose prediction depends on the running statistics of a BatchNorm layer."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.body.append(nn.BatchNorm1d(8))


def score(model):
    model.eval()
    with torch.no_grad():
        return float(model(host.to_device(batch(20, 21), CPU))[0]["loss"])


def train_on_different_samples(world, folder):
    """Three steps, of which the last changes the statistics last; scores by whoever evaluates."""
    run = new_run(lambda model: distributed.wrap(model, world), Normalised())
    scores = []
    session = Session(
        run=run,
        settings=RunSettings(0, 2, 1, world.size, 1, 3),
        options=LoopOptions(grad_norm_clip=CLIP),
        world=world,
        checkpoints=CheckpointManager(folder, 1),
        curves=SimpleNamespace(evaluated=None, scalars=lambda *_: None, record=lambda *_: None),
        logger=logging.getLogger("normalised"),
        facts={},
        evaluate=lambda model: scores.append(score(model)) or {},
    )
    first = 6 * world.rank
    batches = [batch(first + step, first + step + 1) for step in (0, 2, 4)]
    engine.train(session, batches, SimpleNamespace(set_epoch=lambda *_: None))
    return {"score": scores[0]}


def test_all_processes_evaluate_the_network_that_is_saved(tmp_path):
    """Otherwise each would normalise by the statistics of its own samples, of its last step."""
    look = partial(train_on_different_samples, folder=tmp_path)
    first, second = (one["score"] for one in run_in_processes(look, tmp_path))
    model = Normalised()
    content = checkpoint.read(tmp_path / "checkpoint_epoch_1.pth")
    model.load_state_dict(content["model_state"])
    assert first == second == score(model)


def test_a_single_process_needs_no_process_group():
    world = distributed.start("none", "cpu")
    model = nn.Linear(1, 1)
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert distributed.wrap(model, world) is distributed.unwrap(model) is model
    assert distributed.any_process(True, False) == (True, False)
    assert distributed.gather(3) == [3]
    assert distributed.from_main(3) == 3
    assert distributed.on_all(lambda: 3) == [3]
    distributed.stop()


def test_slurm_variables_make_a_world(monkeypatch):
    for name, value in (("PROCID", "0"), ("NTASKS", "1"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        distributed.start("slurm", "cpu", free_port())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    try:
        world = distributed.start("slurm", "cpu", free_port())
        assert (world.rank, world.size) == (0, 1)
    finally:
        distributed.stop()


def test_launching_mistakes_are_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"needs RANK, .*torchrun --nproc_per_node"):
        distributed.start("pytorch", "cpu")
    with pytest.raises(ConfigError, match=r"needs SLURM_PROCID.*srun"):
        distributed.start("slurm", "cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun started 2 processes, but --launcher is none"):
        distributed.start("none", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_absent_is_an_error():
    with pytest.raises(ConfigError, match="no CUDA device"):
        distributed.start("none", "cuda")


def test_synchronised_batchnorm_needs_cuda():
    with pytest.raises(ConfigError, match="--sync_bn"):
        distributed.wrap(nn.BatchNorm1d(2), distributed.World(0, 1, CPU), sync_batch_norm=True)


def test_threads_are_shared_among_the_processes_unless_the_user_decides(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        distributed.start("none", "cpu")
        assert torch.get_num_threads() == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
        distributed.start("none", "cpu")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
