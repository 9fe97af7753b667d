"""Loggers of a run: the same calls for TensorBoard, Weights & Biases and MLflow."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nsmae_plugin.cli.train import parse_options
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.runtime.command_line import RUN_LOGGER
from nsmae_plugin.training import loggers
from nsmae_plugin.training.run_log import Curves
from tests.helpers import toys
from tests.helpers.paths import TINY
from tests.helpers.tensorboard import decode_image, images, scalars, texts

CONFIG = {"MODEL": {"NAME": "A", "SIZES": [1, 2]}}
PICTURE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


class FakeWandb(SimpleNamespace):
    """Records what reaches Weights & Biases."""

    def __init__(self):
        super().__init__(Image=lambda picture: picture.copy(), Table=dict, starts=[], logged=[])
        self.config, self.finished, self.broken = {}, 0, False

    def init(self, **options):
        self.starts.append(options)
        return SimpleNamespace(
            log=self.log,
            config=SimpleNamespace(update=lambda new, allow_val_change: self.config.update(new)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )

    def log(self, values, step):
        if self.broken:
            raise ConnectionError("the server\nis away")
        self.logged.append((step, values))


class FakeMLflow(SimpleNamespace):
    """Records what reaches MLflow, and keeps the history of its metrics."""

    def __init__(self):
        super().__init__(starts=[], metrics=[], images={}, texts={}, experiment=None, ended=0)

    def set_experiment(self, name):
        self.experiment = name

    def start_run(self, **options):
        self.starts.append(options)
        return SimpleNamespace(info=SimpleNamespace(run_id=options.get("run_id", "run7")))

    def log_metrics(self, values, step):
        self.metrics += [(name, step, value) for name, value in values.items()]

    def MlflowClient(self):
        return SimpleNamespace(get_metric_history=self.history)

    def history(self, run, key):
        assert run == "run7"
        return [SimpleNamespace(step=step) for name, step, _ in self.metrics if name == key]

    def log_image(self, picture, path):
        self.images[path] = picture.copy()

    def log_text(self, text, path):
        self.texts[path] = text

    def end_run(self):
        self.ended += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return fake


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The messages of the run's logger, which an earlier run may have cut off from the root."""
    monkeypatch.setattr(logging.getLogger(RUN_LOGGER), "propagate", True)
    return lambda: [one.getMessage() for one in caplog.records]


def write(folder, *names, steps=(1, 2), start=0):
    """A run of some steps with a picture at the last."""
    curves = Curves(folder, start, names)
    if start == 0:
        curves.begin(CONFIG, "nsmae train")
    for step in steps:
        curves.scalars("train", {"loss": step / 2, "lr": 0.1}, step)
    curves.image("prediction/bev", PICTURE, steps[-1])
    curves.close()


def test_tensorboard_shows_numbers_pictures_and_the_configuration(tmp_path):
    write(tmp_path, "tensorboard")
    board = tmp_path / "tensorboard"
    numbers = scalars(board)
    assert numbers["train/loss"] == [(1, 0.5), (2, 1.0)]
    assert numbers["train/lr"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.1))]
    ((step, png),) = images(board)["prediction/bev"]
    assert step == 2
    np.testing.assert_array_equal(decode_image(png), PICTURE)
    ((step, text),) = texts(board)["config/text_summary"]
    assert (step, text) == (0, "```\nMODEL:\n  NAME: A\n  SIZES: [1, 2]\n\n```")
    assert texts(board)["command/text_summary"] == [(0, "```\nnsmae train\n```")]


def test_weights_and_biases_gets_the_same_and_goes_on_under_its_id(tmp_path, wandb):
    folder = tmp_path / "tiny/nsmae_pretrain/a"
    folder.mkdir(parents=True)
    write(folder, "wandb")
    assert wandb.config == CONFIG
    numbers = [(step, values) for step, values in wandb.logged if "train/loss" in values]
    assert numbers == [(1, {"train/loss": 0.5, "train/lr": 0.1}), (2, numbers[1][1])]
    (picture,) = [(step, one) for step, values in wandb.logged for one in values.items()][-1:]
    assert picture[0] == 2
    np.testing.assert_array_equal(picture[1][1], PICTURE)
    write(folder, "wandb", steps=(3,), start=2)
    first, second = wandb.starts
    assert first == second  # the same id, too
    assert (first["name"], first["project"]) == ("tiny/nsmae_pretrain/a", "nsmae")
    assert wandb.finished == 2
    write(folder, "wandb")  # from the start again: another run
    assert wandb.starts[2]["id"] != first["id"]


def test_mlflow_gets_the_same_and_a_resumed_run_adds_nothing_twice(tmp_path, mlflow):
    write(tmp_path, "mlflow", steps=(1, 2, 3))  # killed after step 3, saved at step 2
    write(tmp_path, "mlflow", steps=(3, 4), start=2)
    assert mlflow.experiment == "nsmae"
    assert [set(one) for one in mlflow.starts] == [{"run_name"}, {"run_id"}]
    losses = [(step, value) for name, step, value in mlflow.metrics if name == "train/loss"]
    assert losses == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert list(mlflow.images) == [
        "prediction/bev/step_0000003.png",
        "prediction/bev/step_0000004.png",
    ]
    assert mlflow.texts["config.yaml"] == "MODEL:\n  NAME: A\n  SIZES: [1, 2]\n"
    assert mlflow.ended == 2


def test_a_logger_that_fails_is_left_out_with_one_warning(tmp_path, wandb, warnings):
    wandb.broken = True
    write(tmp_path, "wandb", "tensorboard", steps=(1, 2, 3))
    assert warnings() == [
        "the logger wandb failed and is left out from here on: ConnectionError: the server is away"
    ]
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == 3


def test_a_logger_that_does_not_start_is_left_out(tmp_path, mlflow, warnings, monkeypatch):
    monkeypatch.setattr(mlflow, "start_run", lambda **options: 1 / 0)
    write(tmp_path, "mlflow", "tensorboard")
    assert len(warnings()) == 1
    assert (mlflow.metrics, mlflow.ended) == ([], 0)
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=rf"--logger {name} .*: pip install {name}$"):
        loggers.require(["tensorboard", name])


def test_an_unknown_logger_is_refused():
    with pytest.raises(ConfigError, match="no logger 'comet', only tensorboard, wandb, mlflow"):
        loggers.require(["comet"])


def test_the_flag_takes_several_loggers():
    start = ["--cfg_file", str(TINY / "nsmae_pretrain.yaml")]
    assert parse_options(start).logger == ("tensorboard",)
    both = parse_options([*start, "--logger", "wandb", "mlflow", "--set", "A.B", "1"])
    assert list(both.logger) == ["wandb", "mlflow"]


def test_a_training_sends_its_steps_and_gradient_norms_to_every_logger(
    tmp_path, monkeypatch, wandb, mlflow, capsys
):
    monkeypatch.chdir(tmp_path)
    toys.write_config(tmp_path)
    words = ["--cfg_file", "cfgs/group/toy.yaml", "--workers", "0", "--seed", "1"]
    words += ["--logger", "tensorboard", "wandb", "mlflow"]
    assert toys.train(*words, "--max_steps", "7") == 0
    assert toys.train(*words) == 0  # goes on
    shown = scalars(tmp_path / "output/group/toy/default/tensorboard")
    for name, values in shown.items():
        assert [step for step, _ in values] == list(range(1, 16)), name
    assert {"train/loss", "train/lr", "train/grad_norm"} <= shown.keys()
    sent = [(step, values["train/loss"]) for step, values in wandb.logged if "train/loss" in values]
    assert sent == [(step, pytest.approx(value)) for step, value in shown["train/loss"]]
    kept = [(step, value) for name, step, value in mlflow.metrics if name == "train/loss"]
    assert kept == sent
    assert wandb.config["MODEL"] == {"NAME": "ToyDetector"}
    assert "tensorboard --logdir output/group/toy/default" in capsys.readouterr().out
