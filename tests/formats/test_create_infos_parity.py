"""Info files are interchangeable with OpenPCDet's, both ways."""

import logging

import numpy as np
import pytest

from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.formats.infos import write_infos
from nsmae_plugin.formats.nuscenes.info_builder import InfoBuilder
from nsmae_plugin.formats.nuscenes.tables import NuScenesTables
from tests.helpers.tiny_frames import CLASSES, VERSION, all_infos, configuration, link_database

pytestmark = pytest.mark.openpcdet


# Required by OpenPCDet, which reads no image here.
IMAGE = {"FINAL_DIM": [96, 160], "RESIZE_LIM_TRAIN": [1.0, 1.0], "RESIZE_LIM_TEST": [1.0, 1.0]}


def assert_identical(ours, theirs, where="infos"):
    """The same types, keys in the same order, and values; floats to 1e-9 (sums in other order)."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_identical(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for position, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_identical(one, other, f"{where}[{position}]")
    elif isinstance(ours, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9, err_msg=where)
        else:
            assert np.array_equal(ours, theirs), where
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=1e-9), where
    else:
        assert ours == theirs, where


@pytest.fixture(scope="module")
def pcdet_root(openpcdet_root, synthetic_root, tmp_path_factory):
    """The synthetic dataset with the info files that OpenPCDet itself makes."""
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from pcdet.datasets.nuscenes.nuscenes_dataset import create_nuscenes_info

    root = link_database(synthetic_root, tmp_path_factory.mktemp("pcdet"))
    create_nuscenes_info(VERSION, root, root, max_sweeps=3, with_cam=True)
    return root


def test_info_files_are_those_of_openpcdet(synthetic_root, pcdet_root):
    ours, theirs = all_infos(synthetic_root), all_infos(pcdet_root)
    assert len(ours) == 9
    for camera in (camera for info in ours for camera in info["cams"].values()):
        assert (camera.pop("width"), camera.pop("height")) == (160, 96)  # ours alone
    assert_identical(ours, theirs)


def test_each_dataset_reads_the_others_info_file(synthetic_root, pcdet_root):
    from pcdet.datasets.nuscenes.nuscenes_dataset import NuScenesDataset

    names = {
        "train": ["nuscenes_infos_3sweeps_train.pkl"],
        "test": ["nuscenes_infos_3sweeps_val.pkl"],
    }
    masks = ("mask_image_patches", "mask_voxels", "mask_depth_points")
    ours = configuration(pcdet_root, INFO_PATH=names, USE_LABELS=True, without=masks)
    theirs = configuration(synthetic_root, INFO_PATH=names, without=masks)
    sample = MultiModalNuScenesDataset(ours, CLASSES)[0]
    logger = logging.getLogger(__name__)
    other = NuScenesDataset(theirs, CLASSES, True, root_path=synthetic_root, logger=logger)[0]
    assert sample["metadata"] == other["metadata"]


@pytest.mark.parametrize("max_sweeps", [10, 6])
def test_ten_sweeps_are_loaded_as_by_openpcdet(
    openpcdet_root, synthetic_root, tmp_path, max_sweeps
):
    """With the same seed the same sweeps in the same order, also where a scene starts."""
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from pcdet.datasets.nuscenes.nuscenes_dataset import NuScenesDataset

    root = link_database(synthetic_root, tmp_path)
    tables = NuScenesTables(root / VERSION, VERSION)
    builder = InfoBuilder(tables, max_sweeps=10, with_cam=False, labels=True)
    infos = [builder.build(token).info for token in tables.all("sample")]
    write_infos(root / VERSION / "ten.pkl", infos)
    without = ("mask_image_patches", "mask_voxels", "mask_depth_points", "image_calibrate")
    config = configuration(
        root,
        INFO_PATH={"train": ["ten.pkl"], "test": ["ten.pkl"]},
        MAX_SWEEPS=max_sweeps,
        CAMERA_CONFIG={"USE_CAMERA": False, "IMAGE": IMAGE},
        without=(*without, "image_normalize"),
    )
    data = MultiModalNuScenesDataset(config, CLASSES)
    logger = logging.getLogger(__name__)
    other = NuScenesDataset(config, CLASSES, True, root_path=root, logger=logger)
    sizes, lags = set(), set()
    for index, info in enumerate(infos):
        with seeded(index):
            ours = data.load_points(info)
        with seeded(index):
            theirs = other.get_lidar_with_sweeps(index, max_sweeps)
        assert ours.dtype == theirs.dtype == np.float32
        # They round a product in float64 once, we one in float32: two steps of float32 at 128 m.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3.1e-5)
        sizes.add(len(ours))
        lags |= set(np.unique(ours[:, 4]))
    assert len(sizes) > 1
    assert max(lags) > 0.3  # seconds
