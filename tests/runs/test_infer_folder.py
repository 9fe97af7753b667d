"""``tools/infer.py --folder``: frames of one's own beside the same frames of a database."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.frame_folder import NAME, FrameFolderDataset
from nsmae_plugin.data.pipeline import LIDAR_PROCESSORS
from nsmae_plugin.geometry.boxes import lidar_to_global
from nsmae_plugin.runs.loaded_model import load_model
from tests.helpers import oracle
from tests.helpers.oracle import PICTURES, SHIFT, boxes_of, call
from tests.helpers.paths import TINY

oracle.register()


def export(infos: list, root: Path, folder: Path, lidar: bool = True) -> Path:
    """Frames of a database as a folder of one's own, with links to the sensor files."""
    (folder / "files").symlink_to(root)
    frames = []
    for number, info in enumerate(infos):
        cameras = {}
        for name, camera in info["cams"].items():
            pose = np.eye(4)
            pose[:3, :3] = camera["sensor2lidar_rotation"]
            pose[:3, 3] = camera["sensor2lidar_translation"]
            cameras[name] = {
                "image": f"files/{camera['data_path']}",
                "intrinsics": camera["camera_intrinsics"].tolist(),
                "camera_to_lidar": pose.tolist(),
            }
        frame = {"name": f"frame{number}", "cameras": cameras}
        if lidar:
            frame["lidar"] = f"files/{info['lidar_path']}"
            frame["sweeps"] = [exported_sweep(sweep) for sweep in info["sweeps"]]
            frame["lidar_to_global"] = lidar_to_global(info).tolist()
        frames.append(frame)
    (folder / NAME).write_text(json.dumps({"frames": frames}))
    return folder


def exported_sweep(sweep: dict) -> dict:
    pose = sweep["transform_matrix"]
    return {
        "lidar": f"files/{sweep['lidar_path']}",
        "to_frame": (np.eye(4) if pose is None else pose).tolist(),
        "time_lag": sweep["time_lag"],
    }


def test_a_folder_gives_the_network_what_the_database_gives(
    settings, infos, synthetic_root, tmp_path
):
    """Every number of the batch; a sweep is moved by a product in another precision (1e-6 m)."""
    export(infos, synthetic_root / "v1.0-mini", tmp_path)
    device = torch.device("cpu")
    config = load_config(settings[1])
    database = load_model(config, "test", device)
    config.DATA_CONFIG |= {"DATASET": "FrameFolderDataset", "DATA_PATH": str(tmp_path)}
    host.register("dataset", "FrameFolderDataset", FrameFolderDataset)
    folder = load_model(config, "test", device)
    assert len(folder.dataset) == len(infos)
    for index in range(len(infos)):
        first, second = database.batch_of(index), folder.batch_of(index)
        assert first.keys() == second.keys()
        for key in first.keys() - {"frame_id", "metadata", "image_paths", "camera2ego"}:
            np.testing.assert_allclose(
                np.asarray(second[key]), np.asarray(first[key]), rtol=1e-5, atol=1e-5, err_msg=key
            )


def test_a_folder_is_written_frame_by_frame(settings, infos, synthetic_root, tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    export(infos[:2], synthetic_root / "v1.0-mini", source)
    *paths, film = call(capsys, *settings, "--folder", source, "--output_dir", target)
    assert paths == [target / f"frame{number}" / name for number in range(2) for name in PICTURES]
    assert film == target / "film.gif"
    (box,) = boxes_of(paths[0])["boxes"]
    np.testing.assert_allclose(box["lidar"]["center"], np.add(oracle.AHEAD[:3], SHIFT), atol=1e-6)
    centre = lidar_to_global(infos[0]) @ [*box["lidar"]["center"], 1]
    np.testing.assert_allclose(box["global"]["translation"], centre[:3], atol=1e-6)


def test_a_folder_without_lidar_or_poses_serves_a_camera_only_network(
    infos, synthetic_root, tmp_path, capsys
):
    source = tmp_path / "in"
    source.mkdir()
    export(infos[:1], synthetic_root / "v1.0-mini", source, lidar=False)
    base = TINY / "nsmae_pretrain_camera.yaml"
    steps = [
        step
        for step in load_config(base).DATA_CONFIG.DATA_PROCESSOR
        if step.NAME not in LIDAR_PROCESSORS
    ]
    config = oracle.write_config(
        tmp_path / "camera.yaml", base, synthetic_root, USE_LIDAR=False, DATA_PROCESSOR=steps
    )
    weights = oracle.write_checkpoint(tmp_path / "camera.pth")
    arguments = ["--cfg_file", config, "--ckpt", weights, "--device", "cpu"]
    paths = call(capsys, *arguments, "--folder", source, "--output_dir", tmp_path / "out")
    assert [path.name for path in paths] == PICTURES  # one frame is no film
    content = boxes_of(paths[0])
    assert content["lidar_to_global"] is None
    assert "global" not in content["boxes"][0]


def test_a_lidar_network_is_drawn_without_images_that_are_not_there(
    infos, synthetic_root, tmp_path, capsys
):
    source = tmp_path / "in"
    source.mkdir()
    export(infos[:1], synthetic_root / "v1.0-mini", source)
    content = json.loads((source / NAME).read_text())
    for camera in content["frames"][0]["cameras"].values():
        camera["image"] = "absent.jpg"
    (source / NAME).write_text(json.dumps(content))
    base = TINY / "nsmae_pretrain_lidar.yaml"
    config = oracle.write_config(tmp_path / "lidar.yaml", base, synthetic_root)
    weights = oracle.write_checkpoint(tmp_path / "lidar.pth")
    arguments = ["--cfg_file", config, "--ckpt", weights, "--device", "cpu", "--folder", source]
    paths = call(capsys, *arguments, "--output_dir", tmp_path / "out")
    assert [path.name for path in paths] == ["boxes.json", "bev.png"]


@pytest.mark.parametrize("broken", ["image", "lidar"])
def test_a_damaged_file_is_an_error_that_names_it(
    broken, settings, infos, synthetic_root, tmp_path, capsys
):
    export(infos[:1], synthetic_root / "v1.0-mini", tmp_path)
    (tmp_path / "broken").write_bytes(b"nothing of the kind")
    content = json.loads((tmp_path / NAME).read_text())
    place = content["frames"][0]
    if broken == "image":
        place = place["cameras"]["CAM_BACK"]
    place[broken] = "broken"
    (tmp_path / NAME).write_text(json.dumps(content))
    error = call(capsys, *settings, "--folder", tmp_path, "--output_dir", tmp_path / "out", code=1)
    assert str(tmp_path / "broken") in error
    assert "frame0" in error
