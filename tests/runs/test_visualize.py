"""Pictures and measures of a network on the synthetic dataset, from configuration to files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.evaluation.reconstruction import evaluate
from nsmae_plugin.runs.loaded_model import load_model
from nsmae_plugin.training import checkpoint
from tests.helpers.paths import TINY
from tools import evaluate_pretrain, visualize

CPU = torch.device("cpu")
SMALL = ["DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TEST", "[0.75,0.75]"]
SMALL += ["DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM", "[64,112]"]
SMALL_CAMERA = [*SMALL, "MODEL.VTRANSFORM.IMAGE_SIZE", "[64,112]"]
SMALL_CAMERA += ["MODEL.VTRANSFORM.FEATURE_SIZE", "[8,14]"]


def settings(name: str, root: Path) -> list[str]:
    """Arguments that every tool takes: a tiny configuration, on the fixture's small images."""
    small = SMALL if name.endswith("lidar") else SMALL_CAMERA
    config = TINY / f"{name}.yaml"
    return ["--cfg_file", str(config), "--set", "DATA_CONFIG.DATA_PATH", str(root), *small]


@pytest.fixture(scope="module")
def config(synthetic_root):
    _, path, _, *overrides = settings("nsmae_pretrain", synthetic_root)
    return load_config(path, overrides)


@pytest.fixture(scope="module")
def loaded(config):
    return load_model(config, "test", CPU)


@pytest.mark.parametrize(
    ("name", "cameras"),
    [("nsmae_pretrain", 6), ("nsmae_pretrain_camera", 6), ("nsmae_pretrain_lidar", 0)],
)
def test_every_modality_gets_its_pictures(name, cameras, synthetic_root, tmp_path, capsys):
    arguments = ["--device", "cpu", "--output_dir", str(tmp_path / "pictures")]
    assert visualize.main([*arguments, *settings(name, synthetic_root)]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(file.name.startswith("CAM_") for file in files) == cameras
    assert [file.name for file in files[cameras:]] == ["bev.png", "overview.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


@pytest.mark.parametrize(
    ("which", "message"),
    [(["--index", "99"], "no sample 99"), (["--token", "nowhere"], "no sample of the split")],
)
def test_a_sample_that_does_not_exist_is_an_error(which, message, synthetic_root, tmp_path, capsys):
    arguments = [*which, "--device", "cpu", "--output_dir", str(tmp_path)]
    assert visualize.main([*arguments, *settings("nsmae_pretrain_lidar", synthetic_root)]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_checkpoint_is_an_error(synthetic_root, tmp_path, capsys):
    arguments = ["--ckpt", str(tmp_path / "absent.pth"), "--device", "cpu"]
    assert visualize.main([*arguments, *settings("nsmae_pretrain_lidar", synthetic_root)]) == 1
    assert "absent.pth" in capsys.readouterr().err


def test_the_newest_checkpoint_of_a_folder_is_loaded(loaded, config, tmp_path):
    state = {name: value + 1 for name, value in loaded.model.state_dict().items()}
    content = {"epoch": 3, "it": 12, "model_state": state}
    checkpoint.write(content, tmp_path / "checkpoint_epoch_3.pth")
    loaded = load_model(config, "test", CPU, tmp_path)
    assert loaded.origin == "after 3 epochs, 12 steps"
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_masks_of_a_sample_are_always_the_same(loaded):
    first, second = loaded.batch_of(1), loaded.batch_of(1)
    other = loaded.batch_of(0)
    np.testing.assert_array_equal(first["image_patch_mask"], second["image_patch_mask"])
    assert (first["image_patch_mask"] != other["image_patch_mask"]).any()
    assert first["metadata"][0]["token"] == loaded.dataset.infos[1]["token"]


def test_losses_are_the_errors_over_the_whole_split(loaded):
    metrics = evaluate(loaded.model, loaded.loader, CPU)
    assert metrics["samples"] == len(loaded.dataset)
    # The model averages in float32, batch by batch; the metrics sum in float64.
    assert metrics["loss_rgb"] == pytest.approx(metrics["rgb_mse"], rel=1e-4)
    assert metrics["loss_depth"] == pytest.approx(metrics["depth_mae"], rel=1e-4)
    assert metrics["loss_bev_depth"] == pytest.approx(metrics["bev_depth_mae"], rel=1e-4)
    assert {"depth_mae_hidden", "bev_depth_mae_hidden", "rgb_psnr_masked"} <= metrics.keys()


def test_training_goes_on_after_an_evaluation(loaded, config):
    # A model of its own: that of the fixture stays untrained.
    model = load_model(config, "test", CPU).model.train()
    evaluate(model, [loaded.batch_of(0)], CPU)
    losses, _, _ = model(host.to_device(loaded.batch_of(0), CPU))
    losses["loss"].backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_tool_measures_beside_the_trivial_predictors(synthetic_root, capsys):
    arguments = settings("nsmae_pretrain_lidar", synthetic_root)
    assert evaluate_pretrain.main(["--device", "cpu", *arguments]) == 0
    table = capsys.readouterr().out
    assert "BEV depth error, hidden voxels (m)" in table
    assert "mean predictor" in table
    assert "PSNR" not in table
    assert (
        evaluate_pretrain.main(["--device", "cpu", "--json", "--split", "train", *arguments]) == 0
    )
    results = json.loads(capsys.readouterr().out)
    assert results["untrained"]["bev_depth_mae_hidden"] > 0


def test_an_untrained_network_is_measured_beside_a_trained_one(
    loaded, synthetic_root, tmp_path, capsys
):
    content = {"epoch": 1, "it": 1, "model_state": loaded.model.state_dict()}
    checkpoint.write(content, tmp_path / "checkpoint_epoch_1.pth")
    arguments = ["--device", "cpu", "--untrained", "--ckpt", str(tmp_path)]
    arguments += settings("nsmae_pretrain", synthetic_root)
    assert evaluate_pretrain.main(["--json", *arguments]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["trained"] == pytest.approx(results["untrained"])
