"""Info files made elsewhere: implausible numbers are refused before training starts."""

import copy

import numpy as np
import pytest

from nsmae_plugin import host
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.data.preparation import finish_boxes
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.infos import write_infos
from tests.helpers.tiny_frames import CLASSES, MASKS, configuration, dataset, write_frames


@pytest.fixture
def frames(tmp_path):
    return tmp_path, write_frames(tmp_path, frames=2, cameras=2)


def rewrite(root, infos):
    write_infos(root / "v1.0-mini" / "infos.pkl", infos)


def put(info, path, value):
    """Write into nested dicts and lists, by a path such as ``cams.CAM_1.sensor2ego_rotation``."""
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in way:
        info = info[part]
    info[last] = value


MOVED = np.eye(4)
MOVED[0, 3] = 12.0  # in 0.05 s: 240 m/s


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sweeps.0.time_lag", 50000.0, "sweep 0 of sample token-1: time_lag is more than 30 s"),
        ("sweeps.1.transform_matrix", np.diag([2.0, 2, 2, 1]), "sweep 1 .* is no rotation and tra"),
        ("sweeps.1.transform_matrix", np.diag([1.0, -1, 1, 1]), "sweep 1 .* is no rotation and tr"),
        ("sweeps.0.transform_matrix", MOVED, "sweep 0 .* faster than 100 m/s"),
        ("cams.CAM_1.sensor2ego_rotation", [0.0] * 4, "CAM_1 of sample token-1.*of length 1"),
        ("cams.CAM_1.sensor2lidar_rotation", np.diag([1.0, 1, -1]), "CAM_1 .* is no rotation"),
        ("cams.CAM_1.sensor2lidar_translation", [1700.0, 0, 0], "CAM_1 .* is longer than 50 m"),
        (
            "cams.CAM_1.camera_intrinsics",
            np.array([[0.5, 0, 0.5], [0, 0.8, 0.5], [0, 0, 1]]),
            "CAM_1 of sample token-1: camera_intrinsics has focal .* normalised",
        ),
        ("cams.CAM_1.camera_intrinsics", np.eye(3).T[::-1].copy(), "is not of the form"),
        ("car_from_global", np.diag([1.0, 1, 1, 0]), "sample token-1: car_from_global is no"),
    ],
)
def test_numbers_that_cannot_be_meant_are_named(frames, path, value, message):
    root, infos = frames
    put(infos[1], path, value)
    rewrite(root, infos)
    with pytest.raises(DataError, match=rf"infos.pkl: .*{message}"):
        dataset(root)


def test_a_box_of_impossible_size_is_named_where_boxes_are_read(frames):
    root, infos = frames
    infos[1]["gt_boxes"][0, 4] = -2.0
    rewrite(root, infos)
    dataset(root)
    with pytest.raises(DataError, match=r"sample token-1: a box has the size \[4.0, -2.0, 1.5\]"):
        dataset(root, without=MASKS, USE_LABELS=True)


def test_frames_with_different_cameras_are_refused_when_they_are_to_share_batches(frames):
    root, infos = frames
    del infos[1]["cams"]["CAM_1"]
    rewrite(root, infos)
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    message = "sample token-1 has no CAM_1, which other samples have, and a batch of 2"
    for workers in (0, 1):
        with pytest.raises(DataError, match=message):
            build_dataloader(configuration(root), CLASSES, batch_size=2, workers=workers)
    _, loader, _ = build_dataloader(configuration(root), CLASSES, batch_size=1)
    assert sorted(batch["camera_imgs"].shape[1] for batch in loader) == [1, 2]


def test_unknown_velocities_become_zero_and_nothing_else_does(frames):
    root, infos = frames
    data = dataset(root, training=False, without=MASKS, USE_LABELS=True)
    boxes = data[0]["gt_boxes"]
    assert np.isnan(infos[0]["gt_boxes"][1, 7:]).all()
    assert boxes[1, 7:9].tolist() == [0.0, 0.0]
    given = np.full((1, 10), np.nan)
    finished = finish_boxes(given, data.dataset_cfg)
    assert np.isnan(finished[0, :7]).all()
    assert finished[0, 7:9].tolist() == [0.0, 0.0]
    assert np.isnan(given).all()


def test_files_that_are_missing_are_found_before_the_first_sample(frames):
    root, infos = frames
    path = root / "v1.0-mini" / infos[1]["sweeps"][1]["lidar_path"]
    path.unlink()
    with pytest.raises(DataError, match=rf"LiDAR file {path} of sample token-1: No such file"):
        dataset(root)
    dataset(root, USE_LIDAR=False, without=("mask_voxels", "mask_depth_points"))


def test_repeated_stand_ins_at_the_start_of_a_scene_are_accepted(frames):
    root, infos = frames
    changed = copy.deepcopy(infos)
    stand_in = {"lidar_path": infos[0]["lidar_path"], "transform_matrix": None, "time_lag": 0}
    changed[0]["sweeps"] = [stand_in] * 2
    rewrite(root, changed)
    assert len(dataset(root)) == 2


def test_classes_without_a_box_are_said_when_training_starts(frames, caplog):
    root, infos = frames
    for info in infos:
        info["gt_names"] = np.array(["ignore", "pedestrian"])
    rewrite(root, infos)
    dataset(root, without=MASKS, USE_LABELS=True)
    assert "no box of car in the 2 samples of the training" in caplog.text
