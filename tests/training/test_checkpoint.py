"""Checkpoints are written whole, read safely, kept in number, and refused when they do not fit."""

import os
import random
import re

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from nsmae_plugin.errors import CheckpointError, ConfigError, OutputError
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.runtime.random_state import seed_everything
from nsmae_plugin.training import checkpoint, run_state
from nsmae_plugin.training.checkpoint_manager import CheckpointManager, to_resume
from nsmae_plugin.training.run_state import Progress, Run, RunSettings
from tests.helpers.toys import CONFIG, ToyDetector, batch, train_step

SETTINGS = RunSettings(
    seed=1, batch_size=2, accumulate_steps=1, world_size=1, epochs=3, batches_per_epoch=5
)
FACTS = {"config_tag": "toy", "host": "builtin"}
CPU = torch.device("cpu")


def new_run(model=None, optimizer_name="adam_onecycle"):
    config = EasyDict(CONFIG["OPTIMIZATION"], OPTIMIZER=optimizer_name, WARMUP_ITER=2)
    model = model or ToyDetector()
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config, 15, 5)
    return Run(model, optimizer, scheduler, torch.amp.GradScaler("cpu", enabled=False), Progress())


def load_model(model, path):
    """All weights of a file, or of the newest one of a folder."""
    source = checkpoint.find(path)
    content = checkpoint.read(source)
    checkpoint.load_model_state(model, content["model_state"], source)
    return content


def advance(run, steps):
    run.model.train()
    for step in range(steps):
        train_step(run, [batch(step, step + 1)])


def saved(run, path, settings=SETTINGS):
    checkpoint.write(run_state.capture(run, settings, FACTS), path)
    return path


@pytest.mark.parametrize("optimizer_name", ["adam_onecycle", "adam_cosineanneal"])
def test_a_restored_run_takes_the_same_steps_to_the_last_bit(tmp_path, optimizer_name):
    seed_everything(3)
    run = new_run(optimizer_name=optimizer_name)
    advance(run, 3)
    path = saved(run, tmp_path / "a.pth")
    advance(run, 4)  # dropout draws from the generators that were saved

    other = new_run(optimizer_name=optimizer_name)
    seed_everything(99)
    run_state.restore(other, SETTINGS, checkpoint.read(path), path)
    assert other.progress == Progress(epoch=0, batch_in_epoch=3, step=3)
    advance(other, 4)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert int(other.model.global_step) == 7


def test_restoring_brings_back_every_generator(tmp_path):
    seed_everything(3)
    run = new_run()
    path = saved(run, tmp_path / "a.pth")
    drawn = random.random(), np.random.rand(), np.random.randn(), torch.rand(1)  # noqa: NPY002
    seed_everything(4)
    run_state.restore(run, SETTINGS, checkpoint.read(path), path)
    again = random.random(), np.random.rand(), np.random.randn(), torch.rand(1)  # noqa: NPY002
    assert drawn == again


def test_the_layout_is_openpcdets_and_needs_no_unpickling_of_objects(tmp_path):
    run = new_run()
    advance(run, 2)
    path = saved(run, tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    assert {"epoch", "it", "model_state", "optimizer_state", "version"} <= content.keys()
    assert (content["epoch"], content["it"], content["batch_in_epoch"]) == (0, 2, 2)
    assert (content["config_tag"], content["host"]) == ("toy", "builtin")
    assert content["model_state"].keys() == run.model.state_dict().keys()


def test_numpy_scalars_of_openpcdets_optimizer_are_read(tmp_path):
    path = tmp_path / "stock.pth"
    torch.save({"model_state": {"a.b": torch.ones(1)}, "optimizer_state": np.float64(0.5)}, path)
    assert checkpoint.read(path)["optimizer_state"] == 0.5


def test_reading_leaves_the_types_that_torch_admits_as_they_were(tmp_path):
    path = tmp_path / "stock.pth"
    torch.save({"model_state": {}}, path)
    present = np.dtype in torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([] if present else [np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        checkpoint.read(path)
        assert set(torch.serialization.get_safe_globals()) == before


def test_a_file_that_would_execute_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    path = tmp_path / "trap.pth"
    torch.save({"model_state": {}, "optimizer_state": Trap()}, path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        checkpoint.read(path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_an_error(tmp_path, share, zipped):
    path = tmp_path / "a.pth"
    content = run_state.capture(new_run(), SETTINGS, FACTS)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*truncated"):
        checkpoint.read(path)


def test_foreign_and_missing_files_are_an_error(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.read(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds no 'model_state'"):
        checkpoint.read(path)
    path.write_text("not a checkpoint", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"model_state": {"a.b": 3}}, "entry 'a.b' is int, not a tensor"),
        ({"model_state": {"a.b": torch.tensor([0.0, float("nan")])}}, "a.b is NaN or infinite"),
        ({"model_state": {"a.b": torch.tensor(float("inf"))}}, "a.b is NaN or infinite"),
        ({"model_state": {}, "epoch": "three"}, "'epoch' is 'three', not a count"),
        ({"model_state": {}, "it": -1}, "'it' is -1, not a count"),
        ({"model_state": {}, "config": [1]}, r"'config' is \[1\], not a dict"),
        ({"model_state": {}, "version": b"x"}, "'version' is b'x', not a text"),
        ({"model_state": {3: torch.ones(1)}}, "entry 3 is not a name of a weight"),
        ({"model_state": {"a.b": torch.ones(1).to_sparse()}}, "a.b is a sparse"),
    ],
)
def test_content_that_no_run_writes_is_refused(tmp_path, content, told):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth.* {told}"):
        checkpoint.read(tmp_path / "a.pth")


def test_the_prefix_of_a_parallel_wrapper_is_taken_off(tmp_path):
    run = new_run()
    state = {f"module.{name}": value for name, value in run.model.state_dict().items()}
    torch.save({"model_state": state}, tmp_path / "a.pth")
    other = ToyDetector()
    load_model(other, tmp_path)
    assert torch.equal(other.head.weight, run.model.head.weight)


@pytest.mark.parametrize("key", ["epoch", "it", "batch_in_epoch"])
def test_a_checkpoint_that_does_not_say_how_far_it_is_cannot_be_resumed(tmp_path, key):
    run = new_run()
    content = checkpoint.read(saved(run, tmp_path / "a.pth"))
    del content[key]
    with pytest.raises(CheckpointError, match=f"holds no {key}"):
        run_state.restore(run, SETTINGS, content, tmp_path / "a.pth")


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(new_run(), tmp_path / "a.pth")
    before = path.read_bytes()

    def dies(content, file):
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OutputError, match=r"a\.pth: No space left"):
        saved(new_run(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_newest_epochs_are_kept(tmp_path):
    checkpoints = CheckpointManager(tmp_path, max_kept=2)
    for epoch in (1, 2, 9, 10, 11):  # 9 comes before 10, not after it as its name would
        checkpoints.save_epoch({"epoch": epoch, "model_state": {}})
    checkpoints.save_latest({"epoch": 11, "model_state": {}})
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["checkpoint_epoch_10.pth", "checkpoint_epoch_11.pth", "latest_model.pth"]
    with pytest.raises(ConfigError, match="max_ckpt_save_num"):
        CheckpointManager(tmp_path, max_kept=0)


def test_a_run_goes_on_from_its_newest_checkpoint_unless_told_otherwise(tmp_path):
    (tmp_path / "ckpt").mkdir()
    checkpoints = CheckpointManager(tmp_path / "ckpt", max_kept=5)
    assert to_resume(tmp_path / "ckpt", None, None) is None
    first = checkpoints.save_epoch({"epoch": 1, "it": 5, "model_state": {}})
    assert to_resume(tmp_path / "ckpt", None, None) == first
    second = checkpoints.save_epoch({"epoch": 2, "it": 10, "model_state": {}})
    third = checkpoints.save_latest({"epoch": 2, "it": 11, "batch_in_epoch": 1, "model_state": {}})
    assert to_resume(tmp_path / "ckpt", None, None) == third
    elsewhere = tmp_path / "third.pth"
    third.rename(elsewhere)
    assert to_resume(tmp_path / "ckpt", elsewhere, None) == elsewhere
    assert to_resume(tmp_path / "ckpt", second, None) == second
    with pytest.raises(ConfigError, match=r"epoch_1\.pth is behind .*epoch_2\.pth.*--extra_tag"):
        to_resume(tmp_path / "ckpt", first, None)
    assert to_resume(tmp_path / "another", first, None) == first
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        to_resume(tmp_path, tmp_path / "absent.pth", None)


def openpcdets(epoch, step):
    """A checkpoint as OpenPCDet's own train.py writes it."""
    state = {"model_state": {"a.b": torch.ones(3)}, "optimizer_state": np.float64(0.1)}
    return {"epoch": epoch, "it": step, "version": "pcdet+0.6.0", **state}


def test_the_newest_checkpoint_is_the_one_with_the_most_steps_whatever_the_times_are(tmp_path):
    """As after cp -r, after unpacking an archive, and beside a copy of the best one."""
    for position, (name, epoch, step) in enumerate(
        [("checkpoint_epoch_10", 10, 50), ("latest_model", 9, 47), ("checkpoint_epoch_9", 9, 45)]
        + [("best", 9, 45), ("checkpoint_epoch_2", 2, 10)]
    ):
        torch.save(openpcdets(epoch, step), tmp_path / f"{name}.pth")
        os.utime(tmp_path / f"{name}.pth", ns=(position, position))
    torch.save({"state_dict": {}}, tmp_path / "resnet50.pth")  # no checkpoint
    for newest in ("checkpoint_epoch_10", "latest_model", "checkpoint_epoch_9", "best"):
        assert checkpoint.find(tmp_path) == tmp_path / f"{newest}.pth"
        (tmp_path / f"{newest}.pth").unlink()


@pytest.mark.parametrize("zipped", [True, False])
def test_within_an_epoch_the_batch_counts_where_the_steps_are_not_known(tmp_path, zipped):
    for batch_in_epoch in (10, 9):
        content = {"epoch": 1, "batch_in_epoch": batch_in_epoch, "model_state": {}}
        path = tmp_path / f"{batch_in_epoch}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert checkpoint.find(tmp_path) == tmp_path / "10.pth"


def test_weights_that_do_not_say_how_far_they_are_must_be_named(tmp_path):
    torch.save({"model_state": {}}, tmp_path / "a.pth")
    assert checkpoint.find(tmp_path) == tmp_path / "a.pth"
    torch.save({"model_state": {}, "it": "many"}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"2 files of weights \(a\.pth, b\.pth\).*name the"):
        checkpoint.find(tmp_path)
    torch.save({"model_state": {}, "manifest": {"epoch": 1, "step": 5}}, tmp_path / "export.pth")
    assert checkpoint.find(tmp_path) == tmp_path / "export.pth"
    torch.save({"model_state": {}}, tmp_path / "checkpoint_epoch_2.pth")  # a name is a hint
    assert checkpoint.latest(tmp_path) == tmp_path / "export.pth"
    (tmp_path / "export.pth").unlink()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint_epoch_2.pth"


def test_a_damaged_file_might_be_the_newest(tmp_path):
    torch.save(openpcdets(1, 5), tmp_path / "checkpoint_epoch_1.pth")
    (tmp_path / "checkpoint_epoch_2.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"cannot read .*epoch_2\.pth.*move it away"):
        checkpoint.latest(tmp_path)


def test_pretrained_weights_and_earlier_checkpoints_exclude_each_other(tmp_path):
    weights = tmp_path / "weights.pth"
    assert to_resume(tmp_path, None, weights) is None
    with pytest.raises(ConfigError, match="give one"):
        to_resume(tmp_path, weights, weights)
    CheckpointManager(tmp_path, max_kept=5).save_epoch({"epoch": 1, "model_state": {}})
    with pytest.raises(ConfigError, match=r"checkpoint_epoch_1\.pth.*--extra_tag"):
        to_resume(tmp_path, None, weights)


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 4), ("batch_size", 1), ("world_size", 2), ("seed", 2)]
)
def test_a_run_planned_differently_is_not_resumed(tmp_path, name, value):
    run = new_run()
    path = saved(run, tmp_path / "a.pth")
    settings = RunSettings(**{**vars(SETTINGS), name: value})
    with pytest.raises(CheckpointError, match=f"{name} {getattr(SETTINGS, name)} -> {value}"):
        run_state.restore(run, settings, checkpoint.read(path), path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("exp_avg", "x", "exp_avg is str, not a tensor"),
        ("exp_avg", torch.ones(9), "exp_avg has another shape"),
        ("exp_avg_sq", torch.full((4,), -1.0), "exp_avg_sq is negative"),
        ("step", torch.tensor(float("nan")), "step has another shape, or is not finite"),
        ("step", -1, "step is negative"),
    ],
)
def test_moments_that_the_next_step_would_fail_on_are_refused(tmp_path, key, value, told):
    run = new_run()
    advance(run, 1)
    content = checkpoint.read(saved(run, tmp_path / "a.pth"))
    content["optimizer_state"]["state"][0][key] = value
    with pytest.raises(CheckpointError, match=rf"a\.pth does not fit: the optimiser's {told}"):
        run_state.restore(new_run(), SETTINGS, content, tmp_path / "a.pth")


def test_weights_alone_are_not_resumed(tmp_path):
    path = tmp_path / "stock.pth"
    checkpoint.write({"model_state": {}, "version": "pcdet+0.6", "optimizer_state": {}}, path)
    with pytest.raises(
        CheckpointError, match=r"no epoch.*scheduler_state.*pcdet\+0.6.*--pretrained_mod"
    ):
        run_state.restore(new_run(), SETTINGS, checkpoint.read(path), path)


def test_another_architecture_is_named_by_its_first_differences(tmp_path):
    path = saved(new_run(), tmp_path / "a.pth")
    other = ToyDetector()
    other.head = nn.Linear(8, 2)
    with pytest.raises(
        CheckpointError, match=r"head.weight has shape \(1, 8\), the model \(2, 8\)"
    ):
        load_model(other, path)
    other = ToyDetector()
    other.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"2 differences, first: extra.weight is missing"):
        load_model(other, tmp_path)
    del other.extra, other.head
    with pytest.raises(CheckpointError, match=r"head.weight is not in the model"):
        load_model(other, path)


def test_load_model_returns_what_the_checkpoint_says(tmp_path):
    run = new_run()
    advance(run, 1)
    saved(run, tmp_path / "a.pth")
    other = ToyDetector()
    assert load_model(other, tmp_path)["it"] == 1
    assert torch.equal(other.head.weight, run.model.head.weight)
