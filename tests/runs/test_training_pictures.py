"""Pictures of a held-out sample in TensorBoard while a network trains."""

import numpy as np
import pytest
import torch

from tests.helpers.paths import TINY
from tests.helpers.tensorboard import decode_image, images, scalars
from tests.runs.test_visualize import SMALL_CAMERA
from tests.training.test_engine import BATCHES, Sampler, new_session
from tools import train

# isort: split
from nsmae_plugin.training import engine

WORDS = ["--cfg_file", str(TINY / "nsmae_pretrain.yaml"), "--workers", "0", "--device", "cpu"]


@pytest.fixture
def overrides(tmp_path, monkeypatch, synthetic_root):
    monkeypatch.chdir(tmp_path)
    return ["--set", "DATA_CONFIG.DATA_PATH", str(synthetic_root), *SMALL_CAMERA]


def run(*options):
    assert train.main([*WORDS, "--seed", "1", "--logger_iter_interval", "1", *options]) == 0


def test_a_reconstruction_is_drawn_after_every_evaluation(overrides, tmp_path):
    run("--epochs", "2", "--batch_size", "3", *overrides)
    board = tmp_path / "output/tiny/nsmae_pretrain/default/tensorboard"
    drawn = images(board)
    assert list(drawn) == ["reconstruction/overview"]
    numbers = scalars(board)
    evaluated = [step for step, _ in numbers["test/rgb_psnr_masked"]]
    assert [step for step, _ in drawn["reconstruction/overview"]] == evaluated
    first, second = (decode_image(png) for _, png in drawn["reconstruction/overview"])
    assert first.shape == second.shape
    assert (first != second).any()  # the network has learned in between
    # The masked input of the first camera is the same: same frame, same masks. The layout may
    # differ by a fraction of a pixel.
    height, width = first.shape[:2]
    corner = np.s_[height // 40 : height // 8, : width // 8]
    assert first[corner].std() > 20
    differences = np.abs(first[corner].astype(int) - second[corner])
    assert np.mean(differences > 8) < 0.01
    for branch in ("camera", "lidar", "heads"):
        assert len(numbers[f"train/grad_norm_{branch}"]) == evaluated[-1]


def test_without_evaluation_nothing_is_drawn(overrides, tmp_path):
    run("--max_steps", "1", "--eval_interval", "0", *overrides)
    assert images(tmp_path / "output/tiny/nsmae_pretrain/default/tensorboard") == {}


def test_a_picture_that_fails_ends_no_training(tmp_path, caplog):
    calls = []

    def fail(model):
        calls.append(model)
        raise ValueError("no\nfont")

    session = new_session(tmp_path, epochs=3)
    session.evaluate, session.pictures = (lambda model: {"error": 1.0}), fail
    engine.train(session, BATCHES, Sampler())
    assert session.run.progress.epoch == 3
    assert len(calls) == 1
    messages = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert messages == ["no more pictures, as drawing failed: ValueError: no font"]


def test_pictures_change_no_random_number_of_the_training(tmp_path):
    weights = []
    for name, draws in (("with", True), ("without", False)):
        session = new_session(tmp_path / name)
        session.evaluate = lambda model: {"error": 1.0}
        if draws:
            session.pictures = lambda model: {"a": torch.randint(9, (2, 2, 3)).byte().numpy()}
        engine.train(session, BATCHES, Sampler())
        session.curves.close()
        weights.append(session.run.model.state_dict())
    assert all((value == weights[1][name]).all() for name, value in weights[0].items())
    assert len(images(tmp_path / "with/tensorboard")["a"]) == 2
