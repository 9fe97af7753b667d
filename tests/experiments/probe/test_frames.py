"""Labels of a probe: those of the dataset, on the grid of the features, and parts of them."""

import struct

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.experiments.probe import frames
from nsmae_plugin.experiments.probe.frames import load_labels, occupied_cells
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.runs.loaded_model import data_of_split
from tests.helpers.probe_case import small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def labels(synthetic_root, folder):
    return load_labels(small_config(synthetic_root), "train", folder)


def test_boxes_of_other_classes_are_left_out(synthetic_root, folder):
    config = small_config(synthetic_root)
    config.CLASS_NAMES = ["pedestrian", "car"]
    dataset = host.build_dataset(
        data_of_split(config.DATA_CONFIG, "train"), config.CLASS_NAMES, False
    )
    labels = load_labels(config, "train", folder)
    assert labels.class_names == ("pedestrian", "car")
    for index in range(6):
        np.testing.assert_array_equal(labels.boxes[index], np.float32(dataset[index]["gt_boxes"]))
    classes = np.concatenate(labels.boxes)[:, -1]
    assert set(classes) == {1, 2}


def test_labels_are_those_that_the_dataset_gives(synthetic_root, labels):
    config = small_config(synthetic_root)
    dataset = host.build_dataset(
        data_of_split(config.DATA_CONFIG, "train"), config.CLASS_NAMES, False
    )
    assert len(labels) == len(dataset) == 6
    assert labels.class_names == tuple(config.CLASS_NAMES)
    assert labels.map_classes == tuple(config.DATA_CONFIG.MAP_CONFIG.CLASSES)
    assert labels.map_grid.shape == labels.map_masks.shape[2:] == (44, 48)
    for index in range(6):
        sample = dataset[index]
        assert labels.tokens[index] == sample["metadata"]["token"]
        np.testing.assert_array_equal(labels.boxes[index], np.float32(sample["gt_boxes"]))
        np.testing.assert_array_equal(labels.map_masks[index], sample["gt_masks_bev"])
        cells = occupied_cells(torch.from_numpy(sample["points"]), labels.grid)
        np.testing.assert_array_equal(labels.occupancy(index), cells.numpy())
    assert labels.map_masks.any()
    assert labels.grid.shape == (16, 16)
    assert labels.occupancy(0).shape == (8, 16, 16)
    assert sum(map(len, labels.boxes)) > 20


def test_occupied_cells_by_hand():
    """Voxels of 0.5 m, cells of 1 m: x from 0 to 3, y from 0 to 2; two layers from z = -1 to 3."""
    grid = BEVGrid((0.0, 3.0, 0.5), (0.0, 2.0, 0.5), (-1.0, 3.0, 2.0), stride=2)
    points = torch.tensor(
        [[2.9, 0.2, -0.5, 9.0], [2.2, 0.9, 0.9, 9.0], [0.1, 1.1, 2.9, 9.0], [0.1, 1.1, 3.1, 9.0]]
    )
    cells = occupied_cells(points, grid)
    assert cells.shape == (2, 2, 3)
    assert cells.nonzero().tolist() == [[0, 0, 2], [1, 1, 0]]


@pytest.mark.parametrize("by", ["frames", "scenes"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_of_the_labels_are_those_of_a_fine_tuning(synthetic_root, labels, by, seed):
    fraction = 1 / 3 if by == "frames" else 0.5
    data = small_config(
        synthetic_root,
        DATA_CONFIG__LABEL_FRACTION=fraction,
        DATA_CONFIG__LABEL_FRACTION_BY=by,
        DATA_CONFIG__LABEL_FRACTION_SEED=seed,
    )
    dataset = host.build_dataset(data.DATA_CONFIG, data.CLASS_NAMES, True)
    chosen = labels.labelled(fraction, by, seed)
    assert [labels.tokens[one] for one in chosen] == [info["token"] for info in dataset.infos]
    assert 0 < len(chosen) < 6
    assert labels.labelled(1.0, by, seed) == list(range(6))
    with pytest.raises(ConfigError, match=r"LABEL_FRACTION 0.01 of . \w+ selects none"):
        labels.labelled(0.01, by, seed)


@pytest.mark.parametrize(("by", "fraction"), [("frames", 1 / 3), ("frames", 1), ("scenes", 1)])
def test_the_validation_part_has_no_labels_to_learn_from(synthetic_root, folder, by, fraction):
    data = small_config(
        synthetic_root,
        DATA_CONFIG__VALIDATION_FRACTION=0.5,
        DATA_CONFIG__VALIDATION_SEED=1,
        DATA_CONFIG__LABEL_FRACTION=fraction,
        DATA_CONFIG__LABEL_FRACTION_BY=by,
    )
    dataset = host.build_dataset(data.DATA_CONFIG, data.CLASS_NAMES, True)
    labels = load_labels(data, "train", folder)
    chosen = labels.labelled(fraction, by, 0)
    assert [labels.tokens[one] for one in chosen] == [info["token"] for info in dataset.infos]
    assert len(chosen) == round(3 * fraction)  # one of two scenes
    assert labels.num_labelled == 3
    part = load_labels(data, "validation", folder)
    assert set(part.tokens) == {labels.tokens[one] for one in labels.held_out}
    assert len(part.labelled(1, by, 0)) == 3


def test_maps_and_occupancy_are_drawn_once(synthetic_root, labels, folder, monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("nothing is left to draw")

    monkeypatch.setattr(frames, "_draw", refuse)
    config = small_config(synthetic_root, DATA_CONFIG__LABEL_FRACTION=0.5)
    again = load_labels(config, "train", folder)
    np.testing.assert_array_equal(again.map_masks, labels.map_masks)
    np.testing.assert_array_equal(again.occupied, labels.occupied)
    for changes in (
        {"DATA_CONFIG__MAX_SWEEPS": 2},
        {"DATA_CONFIG__MAP_CONFIG__LINE_WIDTH": 2.5},
        {"DATA_CONFIG__POINT_CLOUD_RANGE": "[-12.8, -12.8, -4.0, 12.8, 12.8, 4.0]"},
    ):
        with pytest.raises(AssertionError, match="nothing is left"):
            load_labels(small_config(synthetic_root, **changes), "train", folder)


def test_cameras_alone_have_maps_and_the_occupancy_of_the_lidar(synthetic_root, tmp_path):
    config = small_config(synthetic_root, "camera_map")
    found = load_labels(config, "test", tmp_path)
    assert found.class_names == ()
    assert [len(boxes) for boxes in found.boxes] == [0, 0, 0]
    assert found.occupancy(2).any()
    assert found.map_masks.any()


def test_what_is_missing_is_told(synthetic_root, labels, tmp_path):
    config = small_config(synthetic_root, "bevfusion_map")
    del config.DATA_CONFIG["MAP_CONFIG"]
    with pytest.raises(ConfigError, match=r"a probe needs labels: set DATA_CONFIG.USE_LABELS"):
        load_labels(config, "train", tmp_path)
    blind = frames.replace(labels, occupied=None)
    with pytest.raises(DataError, match="no LiDAR files"):
        blind.occupancy(0)


@pytest.mark.parametrize("damage", ["empty", "stream"])
def test_damaged_labels_are_told(synthetic_root, labels, folder, tmp_path, damage):
    (path,) = (folder / "labels").glob("train_*.npz")
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content.clear()
    else:  # the first block of the compressed data gets a type that does not exist
        name, extra = struct.unpack_from("<HH", content, 26)
        content[30 + name + extra] = 0xFF
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / path.name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name} is damaged .*: remove it"):
        load_labels(small_config(synthetic_root), "train", tmp_path)
