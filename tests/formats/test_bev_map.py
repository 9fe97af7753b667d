"""The map of a sample: thresholds, IoU by hand, and what its file holds."""

import numpy as np

from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.geometry.bev_grid import BEVGrid

GRID = BEVGrid((-1.0, 1.0, 0.5), (0.0, 1.0, 0.5))  # 2 rows, 4 columns
CLASSES = ("drivable_area", "walkway", "stop_line")
PROBABILITIES = np.array(
    [
        [[0.9, 0.5, 0.4, 0.0], [0.9, 0.9, 0.0, 0.0]],
        [[0.0, 0.0, 0.0, 0.7], [0.0, 0.0, 0.0, 0.0]],
        [[0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]],
    ],
    dtype=np.float32,
)
LABELS = np.zeros((3, 2, 4), dtype=bool)
LABELS[0, 0, :3] = True
LABELS[1, 1, 3] = True


def a_map(threshold: float = 0.5, labels: np.ndarray | None = LABELS) -> BEVMap:
    return BEVMap(CLASSES, GRID, PROBABILITIES, labels, threshold)


def test_a_cell_belongs_to_what_reaches_the_threshold():
    assert a_map().masks[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert a_map(0.4).masks[0].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


def test_iou_by_hand():
    """drivable_area: 2 cells in common of 5 in all; walkway: none of 2; no stop line anywhere."""
    np.testing.assert_allclose(a_map().iou(), [2 / 5, 0, np.nan])
    assert a_map(labels=None).iou() is None


def test_the_file_holds_the_map_and_where_it_is(tmp_path):
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    path = a_map().save(tmp_path / "map.npz", "token", "a network", pose)
    with np.load(path, allow_pickle=False) as content:
        assert content["probabilities"].dtype == np.float16
        # Half precision has 11 bits: 0.9 is kept to 2 ** -12.
        np.testing.assert_allclose(content["probabilities"], PROBABILITIES, atol=2.0**-11)
        np.testing.assert_array_equal(content["labels"], LABELS)
        np.testing.assert_allclose(content["iou"], [2 / 5, 0, np.nan])
        assert tuple(content["classes"]) == CLASSES
        assert tuple(content["x_bound"]) == GRID.x_bound
        assert tuple(content["y_bound"]) == GRID.y_bound
        assert content["threshold"] == 0.5
        np.testing.assert_array_equal(content["lidar_to_global"], pose)
        assert (str(content["sample"]), str(content["network"])) == ("token", "a network")


def test_the_file_leaves_out_what_is_not_known(tmp_path):
    path = a_map(labels=None).save(tmp_path / "map.npz", "token", "a network", None)
    with np.load(path) as content:
        assert not {"labels", "iou", "lidar_to_global"} & set(content)
