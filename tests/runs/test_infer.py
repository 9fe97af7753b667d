"""``tools/infer.py`` with a detector that knows the annotations: files, frames, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from nsmae_plugin.config.load import load_config
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.nuscenes.scenes import scenes_of_samples
from nsmae_plugin.geometry.boxes import lidar_to_global
from nsmae_plugin.runs.loaded_model import load_model
from tests.helpers import oracle
from tests.helpers.oracle import PICTURES, SHIFT, boxes_of, call
from tests.helpers.paths import TINY

oracle.register()


def test_boxes_of_a_sample_are_those_of_the_network(settings, infos, tmp_path, capsys):
    paths = call(capsys, *settings, "--index", 1, "--output_dir", tmp_path)
    assert paths == [tmp_path / infos[1]["token"] / name for name in PICTURES]
    content = boxes_of(paths[0])
    assert content["sample"] == infos[1]["token"]
    assert content["score_threshold"] == 0.3
    assert "after 3 epochs, 12 steps" in content["network"]
    boxes = content["boxes"]
    known = np.isin(infos[1]["gt_names"], load_config(settings[1]).CLASS_NAMES)
    truth = infos[1]["gt_boxes"][known]
    assert [box["name"] for box in boxes] == list(infos[1]["gt_names"][known])
    values = [
        [*box["lidar"]["center"], *box["lidar"]["size"], box["lidar"]["yaw"]] for box in boxes
    ]
    np.testing.assert_allclose(np.array(values)[:, :3], truth[:, :3] + SHIFT, atol=1e-5)
    np.testing.assert_allclose(np.array(values)[:, 3:], truth[:, 3:7], atol=1e-5)
    scores = [box["score"] for box in boxes]
    np.testing.assert_allclose(scores, oracle.score(np.arange(len(boxes))), rtol=1e-6)


def test_the_global_frame_is_that_of_the_info(settings, infos, tmp_path, capsys):
    path, *_ = call(capsys, *settings, "--index", 0, "--output_dir", tmp_path)
    content = boxes_of(path)
    matrix = lidar_to_global(infos[0])
    np.testing.assert_allclose(content["lidar_to_global"], matrix)
    for box in content["boxes"]:
        centre = matrix @ [*box["lidar"]["center"], 1]
        np.testing.assert_allclose(box["global"]["translation"], centre[:3])
        length, width, height = box["lidar"]["size"]
        assert box["global"]["size"] == [width, length, height]


def test_the_threshold_holds_for_what_is_written(settings, infos, tmp_path, capsys):
    path, *_ = call(
        capsys, *settings, "--index", 0, "--score_threshold", 0.88, "--output_dir", tmp_path
    )
    scores = [box["score"] for box in boxes_of(path)["boxes"]]
    assert len(scores) == 3  # 0.9, 0.891, 0.88209
    assert len(infos[0]["gt_names"]) > 3


def test_nothing_above_the_threshold_is_told_and_drawn(settings, tmp_path, capsys, caplog):
    with caplog.at_level("INFO"):
        path, *pictures = call(
            capsys, *settings, "--index", 0, "--score_threshold", 1, "--output_dir", tmp_path
        )
    assert boxes_of(path)["boxes"] == []
    assert [one.name for one in pictures] == PICTURES[1:]
    assert "score at least 1, the best 0.900" in caplog.text


def test_a_token_chooses_the_sample_of_the_split(settings, synthetic_root, tmp_path, capsys):
    train = read_infos(synthetic_root / "v1.0-mini" / "nuscenes_infos_3sweeps_train.pkl")
    token = train[2]["token"]
    path, *_ = call(
        capsys, *settings, "--sample", token, "--split", "train", "--output_dir", tmp_path
    )
    assert boxes_of(path)["sample"] == token
    error = call(capsys, *settings, "--sample", token, "--output_dir", tmp_path, code=1)
    assert f"no sample of the split has the token {token!r}" in error


def test_a_scene_is_written_in_order_and_as_a_film(
    settings, infos, synthetic_root, tmp_path, capsys
):
    scene = scenes_of_samples(synthetic_root / "v1.0-mini", "v1.0-mini")[infos[0]["token"]]
    arguments = ["--scene", scene, "--seconds_per_frame", 0.2, "--output_dir", tmp_path]
    *paths, film = call(capsys, *settings, *arguments)
    assert film == tmp_path / scene / "film.gif"
    assert paths == [
        tmp_path / scene / f"{number:03d}" / name for number in range(3) for name in PICTURES
    ]
    tokens = [boxes_of(path)["sample"] for path in paths[::3]]
    in_time = sorted(infos, key=lambda info: info["timestamp"])
    assert tokens == [info["token"] for info in in_time]
    with Image.open(film) as images:
        assert images.n_frames == 3
        assert images.info["duration"] == 200


def test_a_scene_that_the_split_lacks_is_an_error(settings, tmp_path, capsys):
    error = call(capsys, *settings, "--scene", "scene-9999", "--output_dir", tmp_path, code=1)
    assert "no sample of the split belongs to the scene 'scene-9999'" in error


@pytest.mark.parametrize(
    ("flag", "value"),
    [("score_threshold", "nan"), ("map_threshold", "7"), ("seconds_per_frame", "-1")],
)
def test_thresholds_and_times_that_cannot_be_are_an_error(flag, value, settings, tmp_path, capsys):
    options = [f"--{flag}", value, "--output_dir", tmp_path]
    message = call(capsys, *settings, "--index", 0, *options, code=1)
    assert message.startswith(f"error: --{flag} must be ")


def test_predictions_that_are_no_numbers_are_an_error(settings, tmp_path, capsys):
    weights = oracle.write_checkpoint(tmp_path / "nan.pth", (oracle.BROKEN, 0.0, 0.0))
    arguments = [*settings[:2], "--ckpt", weights, "--device", "cpu", "--index", 0]
    error = call(capsys, *arguments, "--output_dir", tmp_path, code=1)
    assert "predicts NaN or infinity for sample" in error
    assert not list(tmp_path.glob("*/boxes.json"))


def test_a_network_that_predicts_no_boxes_is_an_error(synthetic_root, tmp_path, capsys):
    config = load_config(
        TINY / "nsmae_pretrain_lidar.yaml", ["DATA_CONFIG.DATA_PATH", str(synthetic_root)]
    )
    model = load_model(config, "test", torch.device("cpu")).model
    weights = tmp_path / "nsmae.pth"
    oracle.checkpoint.write({"epoch": 0, "it": 0, "model_state": model.state_dict()}, weights)
    arguments = ["--cfg_file", TINY / "nsmae_pretrain_lidar.yaml", "--ckpt", weights, "--index", 0]
    arguments += ["--output_dir", tmp_path, "--set", "DATA_CONFIG.DATA_PATH", synthetic_root]
    error = call(capsys, *arguments, code=1)
    assert "MODEL.NAME NSMAE predicts neither boxes nor a map" in error
    assert "`nsmae visualize` draws" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "99"], "no sample 99"),
        (["--index", "-1"], "no sample -1"),
        (["--folder", "/nowhere"], "/nowhere/calibration.json: No such file"),
    ],
)
def test_frames_that_do_not_exist_are_an_error(arguments, message, settings, tmp_path, capsys):
    error = call(capsys, *settings, *arguments, "--output_dir", tmp_path, code=1)
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --sample --scene --index --folder is required"),
        (["--index", "0", "--scene", "scene-1"], "not allowed with argument"),
        (["--index", "0"], "--ckpt is needed"),
    ],
)
def test_arguments_that_say_too_little_or_too_much(arguments, message, capsys):
    with pytest.raises(SystemExit):
        oracle.infer.main(["--cfg_file", str(TINY / "bevfusion_det.yaml"), *arguments])
    assert message in capsys.readouterr().err
