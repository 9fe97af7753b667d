"""Ground-truth sampling in the dataset, on the active host."""

import os
import pickle
import shutil

import numpy as np
import pytest
from easydict import EasyDict

from nsmae_plugin import host
from nsmae_plugin.data.gt_sampling import samplers
from nsmae_plugin.data.loader import build_dataloader, seeded
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.gt_database import read_gt_database
from nsmae_plugin.formats.infos import read_infos, write_infos
from tests.helpers.tiny_frames import (
    CLASSES,
    CONFIG,
    MASKS,
    VERSION,
    add_gt_database,
    configuration,
)

LIST = "nuscenes_dbinfos_3sweeps_withvelo.pkl"
INFOS = "nuscenes_infos_3sweeps_train.pkl"
SAMPLING = {
    "NAME": "gt_sampling",
    "DB_INFO_PATH": [LIST],
    "PREPARE": {"filter_by_min_points": ["car:5"]},
    "SAMPLE_GROUPS": ["car:20", "pedestrian:20"],
    "NUM_POINT_FEATURES": 5,
    "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
    "LIMIT_WHOLE_SCENE": True,
}
CAMERA_STEPS = ("image_calibrate", "image_normalize")


@pytest.fixture(scope="module")
def database(synthetic_root, tmp_path_factory):
    return add_gt_database(synthetic_root, tmp_path_factory.mktemp("gt"))


@pytest.fixture
def root(database, tmp_path):
    """Links to all files but the lists, which tests change."""
    (tmp_path / VERSION).mkdir()
    for path in (database / VERSION).iterdir():
        if path.suffix == ".pkl":
            shutil.copy(path, tmp_path / VERSION)
        else:
            (tmp_path / VERSION / path.name).symlink_to(path)
    return tmp_path


def settings(root, **changes):
    config = configuration(
        root, augmentors=("flip", "rotation"), without=(*MASKS, *CAMERA_STEPS), USE_LABELS=True
    )
    config.INFO_PATH = {"train": [INFOS], "test": ["nuscenes_infos_3sweeps_val.pkl"]}
    config.CAMERA_CONFIG.USE_CAMERA = False
    config.DATA_AUGMENTOR.AUG_CONFIG_LIST.insert(0, EasyDict(SAMPLING))
    return EasyDict(config | changes)


def dataset(root, training=True, **changes):
    return MultiModalNuScenesDataset(settings(root, **changes), CLASSES, training=training)


def test_samples_show_more_objects_whole_and_augmented(root):
    config = settings(root)
    without = EasyDict(config, DATA_AUGMENTOR={**config.DATA_AUGMENTOR})
    without.DATA_AUGMENTOR.DISABLE_AUG_LIST = ["gt_sampling"]
    counts = []
    for one in (config, without):
        data = MultiModalNuScenesDataset(one, CLASSES)
        with seeded(0):
            counts.append([len(data[index]["gt_boxes"]) for index in range(len(data))])
    more, fewer = map(np.array, counts)
    assert (more >= fewer).all()
    assert more.sum() > fewer.sum() + 10


def test_a_sample_does_not_depend_on_those_before_it(root):
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    batches = []
    for start in (0, 3):
        _, loader, sampler = build_dataloader(settings(root), CLASSES, batch_size=1, seed=3)
        sampler.set_epoch(1, start)
        batches.append(list(loader)[3 - start])
    for key in batches[0]:
        np.testing.assert_equal(np.array(batches[0][key]), np.array(batches[1][key]), err_msg=key)


def test_evaluation_needs_no_database(root):
    (root / VERSION / LIST).unlink()
    assert len(dataset(root, training=False)) == 3
    with pytest.raises(DataError, match=rf"{LIST}: No such file .*--with_gt_database"):
        dataset(root)


def test_with_fewer_labels_only_their_objects_are_pasted(root):
    data = dataset(root, LABEL_FRACTION=1 / 3, LABEL_FRACTION_SEED=1)
    (sampler,) = samplers(data.data_augmentor)
    frames = read_infos(root / VERSION / INFOS)
    allowed = {info["token"] for info in data.infos}
    entries = [one for objects in sampler.db_infos.values() for one in objects]
    assert {frames[one["image_idx"]]["token"] for one in entries} == allowed
    assert len(allowed) == 2
    boxes = np.concatenate([info["gt_boxes"] for info in data.infos])
    sizes = {tuple(np.round(box[3:6], 4)) for box in boxes}
    for seed in range(5):
        with seeded(seed):
            sample = data[0]
        assert {tuple(np.round(box[3:6], 4)) for box in sample["gt_boxes"].astype(float)} <= sizes


def test_fewer_labels_need_the_database_of_the_same_frames(root):
    frames = read_infos(root / VERSION / INFOS)
    write_infos(root / VERSION / INFOS, frames[::-1])
    assert len(dataset(root)) == 6  # fine: all labels may be used
    with pytest.raises(DataError, match=r"is no box of the training frames: .*another info file"):
        dataset(root, LABEL_FRACTION=0.5)


def test_classes_without_an_object_are_left_out_with_a_warning(root, caplog):
    content = read_gt_database(root / VERSION / LIST)
    content["car"] = []
    write_infos(root / VERSION / LIST, content)
    data = dataset(root)
    assert "no object of class car can be pasted" in caplog.text
    with seeded(0):
        assert len(data[0]["gt_boxes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CAMERA_CONFIG": CONFIG["CAMERA_CONFIG"]}, "gt_sampling pastes objects that no camera"),
        ({"USE_LABELS": False}, "gt_sampling needs USE_LABELS True"),
        ({"USE_LIDAR": False, "CAMERA_CONFIG": CONFIG["CAMERA_CONFIG"]}, "no camera image shows"),
    ],
)
def test_sensors_and_labels_that_do_not_fit_are_refused(root, changes, message):
    config = settings(root, **changes)
    if config.CAMERA_CONFIG.USE_CAMERA:
        config.DATA_PROCESSOR = configuration(root, without=MASKS).DATA_PROCESSOR
    with pytest.raises(ConfigError, match=message):
        MultiModalNuScenesDataset(config, CLASSES)


class Attack:
    def __reduce__(self):
        return print, ("code from a file was run",)


def test_a_database_from_elsewhere_runs_no_code(root, capsys):
    (root / VERSION / LIST).write_bytes(pickle.dumps({"car": [Attack()]}))
    with pytest.raises(DataError, match=r"asks for builtins.print"):
        dataset(root)
    assert "was run" not in capsys.readouterr().out


def test_an_object_that_is_a_pipe_is_named_and_not_waited_for(root):
    database = root / VERSION / "gt_database_3sweeps_withvelo"
    names = [path.name for path in database.iterdir()]
    database.unlink()  # a link to the folder of all tests
    database.mkdir()
    for name in names:
        os.mkfifo(database / name)
    data = dataset(root)
    with pytest.raises(DataError, match="of the ground-truth database is a named pipe"), seeded(0):
        list(map(data.__getitem__, range(len(data))))


def test_a_truncated_object_is_named(root):
    folder = root / VERSION / "gt_database_3sweeps_withvelo"
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.unlink()  # a link to the folder of all tests
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content[:-8])
    data = dataset(root)
    message = r"gt_database.*\.bin .*not those of .* create the database again"
    with pytest.raises(DataError, match=message), seeded(0):
        list(map(data.__getitem__, range(len(data))))


def test_the_host_itself_runs_no_code_of_a_database(root, capsys, monkeypatch):
    """A file may change after it was checked; OpenPCDet's sampler unpickles it as a program."""
    monkeypatch.setattr(host, "check_data_steps", lambda *_: None)
    (root / VERSION / LIST).write_bytes(pickle.dumps({"car": [Attack()], "pedestrian": []}))
    with pytest.raises(DataError, match=r"asks for builtins.print"):
        dataset(root)
    assert "was run" not in capsys.readouterr().out
