"""The points in every labelled box, cut out of the training frames."""

import os
import pickle

import numpy as np
import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.gt_database import box_of_points, read_gt_database, write_gt_database
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.lidar_files import read_frame
from nsmae_plugin.formats.nuscenes.annotations import DETECTION_NAMES
from tests.helpers.tiny_frames import VERSION, add_gt_database, link_database, write_frames
from tools.create_infos import main

LIST = "nuscenes_dbinfos_3sweeps_withvelo.pkl"


@pytest.fixture(scope="module")
def root(synthetic_root, tmp_path_factory):
    return add_gt_database(synthetic_root, tmp_path_factory.mktemp("gt")) / VERSION


def training_infos(root):
    return read_infos(root / "nuscenes_infos_3sweeps_train.pkl")


def inside(points, box):
    """Slow reference: turn the points by hand into the box's axes."""
    x, y, z, length, width, height, heading = box[:7]
    ahead = np.array([np.cos(heading), np.sin(heading)])
    left = np.array([-ahead[1], ahead[0]])
    offset = points[:, :3].astype(float) - [x, y, z]
    along, across = offset[:, :2] @ ahead, offset[:, :2] @ left
    return (
        (np.abs(along) < length / 2)
        & (np.abs(across) < width / 2)
        & (np.abs(offset[:, 2]) < height / 2)
    )


def test_every_box_of_the_training_frames_is_listed_once_under_its_class(root):
    listed = [
        (entry["image_idx"], entry["gt_idx"], str(entry["name"]))
        for entries in read_gt_database(root / LIST).values()
        for entry in entries
    ]
    expected = [
        (frame, box, str(name))
        for frame, info in enumerate(training_infos(root))
        for box, name in enumerate(info["gt_names"])
    ]
    assert sorted(listed) == sorted(expected)
    assert set(DETECTION_NAMES.values()) <= set(read_gt_database(root / LIST))


def test_an_object_is_the_points_of_all_sweeps_in_its_box_relative_to_its_centre(root):
    infos = training_infos(root)
    checked, shared, lags = 0, 0, [0.0]
    for name, entries in read_gt_database(root / LIST).items():
        for entry in entries:
            info = infos[entry["image_idx"]]
            box = info["gt_boxes"][entry["gt_idx"]]
            assert np.array_equal(entry["box3d_lidar"], box, equal_nan=True)
            stored = np.fromfile(root / entry["path"], np.float32).reshape(-1, 5)
            assert len(stored) == entry["num_points_in_gt"]
            cloud = read_frame(root, info, range(2))
            expected = cloud[inside(cloud, box)].astype(float)
            expected[:, :3] -= box[:3]
            if len(expected) == len(stored):
                # float32 near 100 m is 4e-6 m apart.
                np.testing.assert_allclose(stored, expected, atol=2e-5)
                checked += 1
            else:  # points that two boxes hold belong to the first
                assert len(stored) < len(expected)
                shared += 1
            lags += stored[:, 4].tolist()
            assert name == entry["name"]
    assert checked > 100
    assert shared < checked / 10
    assert max(lags) > 0.01  # earlier sweeps are in it


def test_a_point_belongs_to_the_first_of_the_boxes_that_hold_it():
    boxes = np.array(
        [[0, 0, 0, 4, 2, 2, 0], [1, 0, 0, 4, 2, 2, np.pi / 2], [9.0, 9, 9, 1, 1, 1, 0]]
    )
    points = np.array([[1.5, 0.5, 0], [1, 1.9, 0.9], [1, 1.9, 1.1], [-1.9, 0, 0]], np.float32)
    assert box_of_points(points, boxes).tolist() == [0, 1, -1, 0]
    assert box_of_points(points, boxes[:0]).tolist() == [-1] * 4


def test_workers_write_the_same_database(root, synthetic_root, tmp_path):
    other = link_database(synthetic_root, tmp_path) / VERSION
    infos = training_infos(root)
    path = write_gt_database(other, infos, max_sweeps=3, workers=2)
    ours, theirs = read_gt_database(root / LIST), read_gt_database(path)
    np.testing.assert_equal(ours, theirs)
    for entries in ours.values():
        for entry in entries:
            assert (root / entry["path"]).read_bytes() == (other / entry["path"]).read_bytes()


def test_the_tool_writes_it_for_the_training_split(synthetic_root, tmp_path):
    root = link_database(synthetic_root, tmp_path)
    words = ["--version", VERSION, "--max_sweeps", "2", "--with_gt_database"]
    assert main(["--data_path", str(root), *words]) == 0
    entries = read_gt_database(root / VERSION / "nuscenes_dbinfos_2sweeps_withvelo.pkl")
    infos = read_infos(root / VERSION / "nuscenes_infos_2sweeps_train.pkl")
    assert sum(map(len, entries.values())) == sum(len(info["gt_names"]) for info in infos)


def test_a_version_without_boxes_has_no_database(synthetic_root, tmp_path, capsys):
    root = link_database(synthetic_root, tmp_path)
    os.rename(root / VERSION, root / "v1.0-test")
    os.rename(root / "v1.0-test" / VERSION, root / "v1.0-test" / "v1.0-test")
    words = ["--version", "v1.0-test", "--with_gt_database"]
    assert main(["--data_path", str(root), *words]) == 1
    message = capsys.readouterr().err
    assert message == "error: v1.0-test has no boxes; leave out --with_gt_database\n"


class Attack:
    def __reduce__(self):
        return print, ("code from a file was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the list of the ground-truth database .*No such file.*--with_gt_data"),
        (b"no pickle", "cannot be used"),
        (pickle.dumps({"car": [Attack()]}), "asks for builtins.print"),
        (pickle.dumps([1]), "holds no dict of class names"),
        (pickle.dumps({"car": [{"name": "car"}]}), "holds no dict of class names"),
        (pickle.dumps({"car": 3}), "holds no dict of class names"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / LIST
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_gt_database(path)
    assert capsys.readouterr().out == ""


def test_a_frame_without_boxes_has_no_objects(tmp_path):
    (info,) = write_frames(tmp_path, frames=1)
    info |= {"gt_boxes": np.zeros((0, 9)), "gt_names": np.zeros(0, dtype=str)}
    path = write_gt_database(tmp_path / VERSION, [info], max_sweeps=3)
    assert not any(read_gt_database(path).values())


@pytest.mark.openpcdet
def test_the_files_are_those_of_openpcdet(openpcdet_root, root, synthetic_root, tmp_path):
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from easydict import EasyDict
    from pcdet.datasets.nuscenes.nuscenes_dataset import NuScenesDataset

    other = link_database(synthetic_root, tmp_path)
    config = EasyDict(
        VERSION=VERSION, INFO_PATH={"train": [str(root / "nuscenes_infos_3sweeps_train.pkl")]}
    )
    logger = type("Silent", (), {"info": lambda self, text: None})()
    NuScenesDataset(config, None, True, other, logger).create_groundtruth_database(max_sweeps=3)
    theirs = pickle.loads((other / VERSION / LIST).read_bytes())
    ours = {name: entries for name, entries in read_gt_database(root / LIST).items() if entries}
    assert list(ours) == list(theirs)
    np.testing.assert_equal(ours, theirs)
    for entries in ours.values():
        for entry in entries:
            rows = [
                np.fromfile(folder / entry["path"], np.float32).reshape(-1, 5)
                for folder in (root, other / VERSION)
            ]
            # OpenPCDet takes the sweeps in a random order.
            rows = [one[np.lexsort(one.T)] for one in rows]
            # float32 coordinates, up to 64 m away when the sweeps are moved, are 4e-6 m apart.
            np.testing.assert_allclose(rows[0], rows[1], atol=1e-5, err_msg=entry["path"])
