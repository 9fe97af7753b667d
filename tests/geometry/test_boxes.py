"""Boxes: corners by hand, the global frame beside nuScenes' own tables."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.geometry.boxes import (
    GROUND_CORNERS,
    Boxes,
    box_points,
    in_box_frame,
    lidar_to_global,
    make_boxes,
    to_global,
)
from nsmae_plugin.geometry.rotations import rotation_matrix


def test_corners_of_a_turned_box():
    # 4 long, 2 wide, 1 high, heading along y: its length lies along y, its left side at -x.
    box = make_boxes([[10.0, 20.0, 3.0, 4.0, 2.0, 1.0, np.pi / 2]], ["car"])
    front_left, front_right, rear_right, rear_left = [[9, 22], [11, 22], [11, 18], [9, 18]]
    bottom = [front_left, front_right, rear_right, rear_left]
    expected = [[*one, 2.5] for one in bottom] + [[*one, 3.5] for one in bottom]
    np.testing.assert_allclose(box.corners()[0], expected, atol=1e-12)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_corners_in_the_ground_plane_of_arrays_and_tensors(array):
    boxes = array([[1.0, 2.0, 0.0, 4.0, 2.0, 1.0, np.pi / 2]])
    (corners,) = box_points(boxes, array(GROUND_CORNERS.tolist()))
    # Heading along y: its rear right corner has the greatest x and the least y.
    expected = [[2, 0], [2, 4], [0, 4], [0, 0]]
    np.testing.assert_allclose(np.asarray(corners), expected, atol=1e-6)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
@pytest.mark.parametrize("axes", [2, 3])
def test_the_frame_of_a_box_undoes_its_points(array, axes):
    boxes = array([[1.0, 2.0, 0.0, 4.0, 2.0, 1.0, 0.4], [-3.0, 0.0, 1.0, 2.0, 6.0, 3.0, -2.0]])
    local = array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [-0.5, -2.0, 3.0]])[:, :axes]
    metres = local * boxes[:, None, 3 : 3 + axes] / 2
    found = in_box_frame(box_points(boxes, local), boxes)
    np.testing.assert_allclose(np.asarray(found), np.asarray(metres), atol=1e-5)


def test_the_same_points_in_the_frames_of_several_boxes():
    boxes = np.array([[1.0, 0, 0, 1, 1, 1, np.pi / 2], [0.0, 1, 0, 1, 1, 1, 0]])
    (first,), (second,) = in_box_frame(np.array([[[1.0, 2.0, 3.0]]]), boxes)
    np.testing.assert_allclose(first, [2, 0, 3], atol=1e-12)  # y lies ahead of the first box
    np.testing.assert_allclose(second, [1, 1, 3], atol=1e-12)


def test_missing_velocities_are_unknown_and_further_columns_dropped():
    seven = make_boxes([[0, 0, 0, 1, 1, 1, 0]], ["car"])
    assert np.isnan(seven.values[0, 7:]).all()
    ten = make_boxes([[0, 0, 0, 1, 1, 1, 0, 3, 4, 9]], ["car"])
    assert ten.values[0, 7:].tolist() == [3, 4]


@pytest.mark.parametrize("nothing", [np.zeros((0, 7)), np.zeros((0, 9)), []])
def test_no_boxes_are_boxes(nothing):
    boxes = make_boxes(nothing, [])
    assert boxes.values.shape == (0, 9)
    assert boxes.corners().shape == (0, 8, 3)
    assert to_global(boxes, np.eye(4)) == []


def test_boxes_below_the_score_go_and_certain_ones_stay():
    boxes = make_boxes(np.eye(3, 9), ["car", "bus", "truck"], [0.9, 0.3, 0.29999])
    kept = boxes.above(0.3)
    assert kept.names == ("car", "bus")
    assert kept.scores.tolist() == [0.9, 0.3]
    np.testing.assert_array_equal(kept.values, np.eye(3, 9)[:2])
    assert len(Boxes(np.eye(3, 9), ("car", "bus", "truck")).above(0.9)) == 3


def test_a_frame_without_poses_has_no_global_frame():
    assert lidar_to_global({"token": "one"}) is None


def test_annotations_return_to_where_the_tables_have_them(synthetic_root):
    root = Path(synthetic_root, "v1.0-mini")
    tables = json.loads((root / "v1.0-mini" / "sample_annotation.json").read_text())
    annotations = {one["token"]: one for one in tables}
    (info, *_) = read_infos(root / "nuscenes_infos_3sweeps_val.pkl")
    boxes = make_boxes(info["gt_boxes"], info["gt_names"])
    placed = to_global(boxes, lidar_to_global(info))
    assert len(placed) == len(info["gt_names"]) > 0
    for box, token in zip(placed, info["gt_boxes_token"], strict=True):
        truth = annotations[token]
        # Positions are hundreds of metres and went there and back in float64.
        np.testing.assert_allclose(box["translation"], truth["translation"], atol=1e-6)
        assert box["size"] == pytest.approx(truth["size"])
        ahead = rotation_matrix(box["rotation"])[:, 0]
        # The box stands upright in the LiDAR frame, annotations in the world: a slight tilt.
        np.testing.assert_allclose(ahead, rotation_matrix(truth["rotation"])[:, 0], atol=0.02)


def test_a_velocity_turns_with_the_frame_and_an_unknown_one_stays_so():
    quarter = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    values = [[1, 2, 3, 4, 2, 1, 0.0, 3, 0], [1, 2, 3, 4, 2, 1, 0.0, np.nan, np.nan]]
    moving, unknown = to_global(make_boxes(values, ["car", "car"]), quarter)
    assert moving["translation"] == [3, 7, 10]
    assert moving["size"] == [2, 4, 1]
    assert moving["velocity"] == pytest.approx([0, 3])
    np.testing.assert_allclose(moving["rotation"], [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], atol=1e-12)
    assert unknown["velocity"] is None
