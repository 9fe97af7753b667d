"""A dataset of one's own: its reader and its registration suffice to pre-train and to be scored.

The made-up format has one camera, a LiDAR whose clouds are NumPy files, an index of the frames, and
nothing else that nuScenes has: no version, no info files, no sweeps, no labels.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.data.multi_modal_dataset import MultiModalDataset
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.frames import make_camera, place_lidar
from tests.helpers.paths import TINY

CAMERA_TO_LIDAR = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0.5], [0, -1, 0, -0.3], [0, 0, 0, 1]])


class DashcamDataset(MultiModalDataset):
    """``index.json`` lists the drives, with the focal length and the frames of each."""

    def read_frames(self):
        index = self.root_path / "index.json"
        frames = [
            self._frame(drive, number, *entry)
            for drive in json.loads(index.read_text())
            for number, entry in enumerate(drive["frames"])
        ]
        return {str(index): frames}

    def read_points(self, path, token):
        return np.load(path).astype(np.float32)

    def _frame(self, drive, number, seconds, metres_ahead):
        name = f"{drive['name']}-{number}"
        intrinsics = np.array([[drive["focal"], 0, 80], [0, drive["focal"], 48], [0, 0, 1]])
        pose = np.eye(4)
        pose[1, 3] = metres_ahead
        return {
            "token": name,
            "timestamp": seconds,
            "scene": drive["name"],
            "lidar_path": f"{name}.npy",
            "cams": {"front": make_camera(f"{name}.png", intrinsics, CAMERA_TO_LIDAR)},
            **place_lidar(pose),
        }


@pytest.fixture
def config(tmp_path):
    """The tiny pre-training of nuScenes' layout, on two drives of two frames each."""
    nsmae_plugin.register()
    host.register("dataset", "DashcamDataset", DashcamDataset)
    rng = np.random.default_rng(0)
    # The second frame of the first drive stands before the first in the index.
    drives = [
        {"name": "a", "focal": 80.0, "frames": [(10.1, 1.0), (10.0, 0.0)]},
        {"name": "b", "focal": 90.0, "frames": [(10.0, 0.0), (10.1, 2.0)]},
    ]
    (tmp_path / "index.json").write_text(json.dumps(drives))
    for name in ("a-0", "a-1", "b-0", "b-1"):
        pixels = rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        np.save(tmp_path / f"{name}.npy", rng.uniform([-10, 2, -2, 0], [10, 20, 1, 9], (500, 4)))
    path = tmp_path / "dashcam.yaml"
    path.write_text(
        f"_BASE_CONFIG_: {TINY / 'nsmae_pretrain.yaml'}\n"
        f"DATA_CONFIG: {{DATASET: DashcamDataset, DATA_PATH: {tmp_path}, MAX_SWEEPS: 1}}\n"
    )
    return load_config(path)


def test_it_is_pretrained_for_a_step_and_scored(config, tmp_path):
    data, loader, _ = build_dataloader(config.DATA_CONFIG, config.CLASS_NAMES, batch_size=2)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), data)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss = model.train()(host.to_device(next(iter(loader)), "cpu"))[0]["loss"]
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    moved = {
        name.split(".")[0] for name, one in model.named_parameters() if (one != before[name]).any()
    }
    assert {"backbone_3d", "image_backbone", "vtransform"} <= moved

    data, loader, _ = build_dataloader(config.DATA_CONFIG, config.CLASS_NAMES, 2, training=False)
    annotations = []
    with torch.no_grad():
        for arrays in loader:
            batch = host.to_device(arrays, "cpu")
            found = model.eval()(batch)[0]
            annotations += data.generate_prediction_dicts(batch, found, config.CLASS_NAMES)
    text, metrics = data.evaluation(annotations, config.CLASS_NAMES, output_path=tmp_path / "out")
    assert metrics["samples"] == 4
    assert 0 < metrics["depth_mae"] < 100
    assert "depth" in text


def test_cameras_may_stand_alone(config):
    config.DATA_CONFIG |= {"USE_LIDAR": False}
    lidar = ("mask_voxels", "mask_depth_points")
    steps = config.DATA_CONFIG.DATA_PROCESSOR
    config.DATA_CONFIG.DATA_PROCESSOR = [one for one in steps if one.NAME not in lidar]
    data = host.build_dataset(config.DATA_CONFIG, ["car"], training=True)
    assert len(data[0]["camera_imgs"]) == 1
    assert "points" not in data[0]


def test_neighbours_and_poses_of_a_frame(config):
    data = host.build_dataset(config.DATA_CONFIG, ["car"], training=False)
    first, second = data.timeline.frames("a")
    assert (first["token"], second["token"]) == ("a-1", "a-0")
    assert data.timeline.neighbour("a-1", 1) is second
    assert data.timeline.neighbour("a-0", -1) is first
    assert data.timeline.neighbour("a-1", -1) is data.timeline.neighbour("a-0", 1) is None
    # What stands 5 m ahead in the second frame is 6 m ahead in the first.
    there = np.linalg.inv(data.pose(first)) @ data.pose(second) @ [0, 5, 0, 1]
    np.testing.assert_allclose(there, [0, 6, 0, 1])
    with pytest.raises(DataError, match="frame x has no pose"):
        data.pose({"token": "x"})
    with pytest.raises(DataError, match=r"the scene 'c'; it holds a, b \(another --split"):
        data.timeline.frames("c")


def test_what_it_lacks_is_said_in_one_line(config, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key DATA_CONFIG.MAX_SWEEP\b.*MAX_SWEEPS"):
        load_config(tmp_path / "dashcam.yaml", ["DATA_CONFIG.MAX_SWEEP", "2"])
    data = host.build_dataset(config.DATA_CONFIG, ["car"], training=False)
    with pytest.raises(ConfigError, match=r"^DashcamDataset has no benchmark that could score"):
        data.scoring.check(data.infos, ["car"])
    del config.DATA_CONFIG["INFO_PATH"]
    with pytest.raises(
        ConfigError, match="INFO_PATH must name the info files of MultiModalDataset"
    ):
        MultiModalDataset(config.DATA_CONFIG, ["car"])
    config.DATA_CONFIG.MAX_SWEEPS = 3
    with pytest.raises(ConfigError, match=r"MAX_SWEEPS is 3, but .*index.json lists only 0"):
        host.build_dataset(config.DATA_CONFIG, ["car"], training=False)
    (tmp_path / "b-1.npy").unlink()
    config.DATA_CONFIG.MAX_SWEEPS = 1
    with pytest.raises(DataError, match=r"cannot read the LiDAR file .*b-1.npy of sample b-1"):
        host.build_dataset(config.DATA_CONFIG, ["car"], training=False)
