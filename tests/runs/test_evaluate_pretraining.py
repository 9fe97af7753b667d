"""tools/test.py on a pre-training network: what tools/evaluate_pretrain.py measures."""

import json
import pickle

import numpy as np
import pytest

from nsmae_plugin.config.load import load_config
from nsmae_plugin.runs.loaded_model import load_model
from nsmae_plugin.training import checkpoint
from tests.helpers.oracle_runs import run_tool
from tests.helpers.paths import TINY
from tests.helpers.tensorboard import scalars
from tests.runs.test_visualize import SMALL_CAMERA
from tools import evaluate_pretrain

RECIPE = TINY / "nsmae_pretrain.yaml"
RUN = "output/tiny/nsmae_pretrain/default"


@pytest.fixture
def settings(tmp_path, monkeypatch, synthetic_root):
    """Arguments for the recipe on small images; a run of it lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    overrides = ["DATA_CONFIG.DATA_PATH", str(synthetic_root), *SMALL_CAMERA]
    model = load_model(load_config(RECIPE, overrides), "test", "cpu").model
    folder = tmp_path / RUN / "ckpt"
    folder.mkdir(parents=True)
    content = {"epoch": 2, "it": 6, "model_state": model.state_dict()}
    checkpoint.write(content, folder / "checkpoint_epoch_2.pth")
    return ["--cfg_file", RECIPE, "--workers", "0", "--device", "cpu"], ["--set", *overrides]


def test_the_reconstruction_is_scored_into_the_files_of_an_evaluation(settings, tmp_path, capsys):
    options, overrides = settings
    more = ["--batch_size", "2", "--save_to_file", "--eval_tag", "mine"]
    assert run_tool(*options, *more, *overrides) == 0
    log = capsys.readouterr().out
    assert "colour PSNR, hidden patches (dB)" in log
    assert "boxes each" not in log
    folder = tmp_path / RUN / "eval/epoch_2/val/mine"
    metrics = json.loads((folder / "reconstruction_metrics.json").read_text(encoding="utf-8"))

    # Another batch size, another path of the numbers.
    pretrained = ["--ckpt", tmp_path / RUN / "ckpt", "--json", *options, "--batch_size", "1"]
    assert evaluate_pretrain.main([*map(str, pretrained), *overrides]) == 0
    expected = json.loads(capsys.readouterr().out)["trained"]
    # Batches of another size are convolved in another order, in float32.
    assert metrics == pytest.approx(expected, rel=1e-4)
    assert len(metrics) > 30

    annotations = pickle.loads((folder / "result.pkl").read_bytes())
    assert len(annotations) == metrics["samples"] == 3
    board = scalars(tmp_path / RUN / "eval/tensorboard_val_mine")
    assert board["eval/rgb_psnr_masked"] == [(6, pytest.approx(metrics["rgb_psnr_masked"]))]
    check_files(annotations, folder)


def check_files(annotations, folder):
    """A file per sample holds the cells from which its sums were taken."""
    for one in annotations:
        with np.load(folder / "final_result/data" / f"{one['metadata']['token']}.npz") as file:
            assert str(file["token"]) == one["metadata"]["token"]
            error = np.abs(file["rendered_bev_depth"] - file["target_bev_depth"].astype(float))
            hidden = file["target_bev_hidden"]
        record = one["reconstruction"]["heads"]["BEVRenderHead"]["bev_depth"]
        assert record["error"][0] == pytest.approx(error[hidden].sum())
        assert len(record["hidden"]) == hidden.sum() > 0
