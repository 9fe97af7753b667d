"""Whether data are the same: by the content of their files, wherever they lie."""

import shutil

import numpy as np
import pytest
from PIL import Image

from nsmae_plugin.experiments.probe.sensors import data_settings
from nsmae_plugin.formats.infos import read_infos, write_infos
from tests.helpers.tiny_frames import VERSION, dataset, write_frames


@pytest.fixture
def root(tmp_path):
    write_frames(tmp_path / "data", frames=3, cameras=2)
    return tmp_path / "data"


def settings(root, **options):
    return data_settings(dataset(root, training=False, **options))


def test_data_are_the_same_in_another_place_and_with_other_labels(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    assert settings(tmp_path / "copy") == settings(root)
    assert settings(root, USE_LABELS=True, LABEL_FRACTION=0.5) == settings(root)


def write_image(folder):
    Image.fromarray(np.zeros((90, 160, 3), np.uint8)).save(folder / "image_0_1.png")


def write_points(folder):
    info = read_infos(folder / "infos.pkl")[0]
    np.ones((50, 5), np.float32).tofile(folder / info["lidar_path"])


def change_calibration(folder):
    infos = read_infos(folder / "infos.pkl")
    infos[2]["cams"]["CAM_1"]["camera_intrinsics"][0, 0] += 1
    write_infos(folder / "infos.pkl", infos)


@pytest.mark.parametrize("change", [write_image, write_points, change_calibration])
def test_another_file_makes_other_data(root, change):
    before = settings(root)
    change(root / VERSION)
    assert settings(root) != before


def test_other_sweeps_make_other_data(root):
    assert settings(root, MAX_SWEEPS=1) != settings(root, MAX_SWEEPS=2)
