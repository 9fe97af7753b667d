"""Processing on the built-in host: hand-computed, against slow references, as OpenPCDet's."""

import logging

import numpy as np
import pytest
import torch
from easydict import EasyDict
from PIL import Image

from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.host.builtin.dataset import DatasetTemplate
from nsmae_plugin.host.builtin.processor import (
    DataProcessor,
    PointFeatureEncoder,
    image_matrix,
)
from nsmae_plugin.host.builtin.voxels import voxelize
from tests.helpers.tiny_frames import CLASSES, CONFIG, MASKS, configuration, write_frames

RANGE = np.array([-10, -10, -5, 10, 10, 3], np.float32)
RANGE_STEP = {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True}


def processor(*configs, training=True):
    return DataProcessor([EasyDict(config) for config in configs], RANGE, training, 5)


def loop_voxelize(points, size, max_points, max_voxels):
    """One point after the other, as the definition says."""
    grid = np.round((RANGE[3:] - RANGE[:3]) / size).astype(int)
    voxels = {}
    for point in points:
        cell = tuple(np.floor((point[:3] - RANGE[:3]) / size).astype(int))
        if any(c < 0 or c >= g for c, g in zip(cell, grid, strict=True)):
            continue
        if cell not in voxels and len(voxels) < max_voxels:
            voxels[cell] = []
        if cell in voxels and len(voxels[cell]) < max_points:
            voxels[cell].append(point)
    return voxels


@pytest.mark.parametrize(("max_points", "max_voxels"), [(3, 50), (100, 10_000), (1, 1)])
def test_voxels_are_those_of_the_loop(max_points, max_voxels):
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(3000, 4)) * 4).astype(np.float32)
    size = np.array([1.0, 1.0, 0.5], np.float32)
    voxels, coords, counts = voxelize(points, RANGE, size, max_points, max_voxels)
    expected = loop_voxelize(points, size, max_points, max_voxels)
    assert [tuple(coord[::-1]) for coord in coords] == list(expected)
    assert list(counts) == [len(group) for group in expected.values()]
    for voxel, group in zip(voxels, expected.values(), strict=True):
        np.testing.assert_array_equal(voxel[: len(group)], group)
        assert not voxel[len(group) :].any()
    assert (coords.dtype, counts.dtype, voxels.dtype) == (np.int32, np.int32, np.float32)


def test_what_was_in_the_memory_before_does_not_show(monkeypatch):
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 7, dtype))
    points = np.float32([[0.5, 0.5, 0.5, 1.0], [1.5, 0.5, 0.5, 2.0], [0.6, 0.5, 0.5, 3.0]])
    voxels, _, counts = voxelize(points, RANGE, [1, 1, 1], 3, 10)
    assert counts.tolist() == [2, 1]
    np.testing.assert_array_equal(voxels[0], [points[0], points[2], [0, 0, 0, 0]])
    np.testing.assert_array_equal(voxels[1], [points[1], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_the_layout_of_the_points_changes_no_voxel():
    points = (np.random.default_rng(2).normal(size=(3000, 4)) * 4).astype(np.float32)
    results = [voxelize(one, RANGE, [1, 1, 1], 3, 500) for one in (points, points.copy("F"))]
    for ours, other in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("points", [np.zeros((0, 5)), *(np.full((4, 5), x) for x in (99, np.nan))])
def test_no_point_in_range_gives_no_voxel(points):
    voxels, coords, counts = voxelize(points.astype(np.float32), RANGE, [1, 1, 1], 5, 100)
    assert voxels.shape == (0, 5, 5)
    assert coords.shape == (0, 3)
    assert counts.shape == (0,)


@pytest.mark.parametrize("size", [[0.075, 0.075, 0.2], [0.2, 0.1, 0.4]])
def test_voxels_are_those_of_spconv(size):
    tensorview = pytest.importorskip("cumm.tensorview")
    from spconv.utils import Point2VoxelCPU3d

    rng = np.random.default_rng(1)
    points = (rng.normal(size=(20_000, 5)) * 4).astype(np.float32)
    # Multiples of the voxel size are where float32 rounding decides.
    points[:2000, :3] = np.round(points[:2000, :3] / size) * np.array(size, np.float32)
    generator = Point2VoxelCPU3d(
        vsize_xyz=size,
        coors_range_xyz=RANGE.tolist(),
        num_point_features=5,
        max_num_points_per_voxel=3,
        max_num_voxels=5000,
    )
    expected = [one.numpy() for one in generator.point_to_voxel(tensorview.from_numpy(points))]
    for ours, theirs in zip(voxelize(points, RANGE, size, 3, 5000), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_grid_size_follows_range_and_voxel_size():
    step = {"NAME": "transform_points_to_voxels_placeholder", "VOXEL_SIZE": [0.1, 0.2, 8.0]}
    built = processor(step)
    assert built.grid_size.tolist() == [200, 100, 1]
    assert built.voxel_size == [0.1, 0.2, 8.0]
    assert built.forward({"points": 1}) == {"points": 1}


def test_points_outside_the_range_in_x_or_y_are_dropped_and_its_edges_belong_to_it():
    points = np.array([[10, -10, 50], [10.1, 0, 0], [0, -10.1, 0], [1, 2, 3]], np.float32)
    kept = processor(RANGE_STEP).forward({"points": points})["points"]
    assert kept.tolist() == [[10, -10, 50], [1, 2, 3]]


def test_boxes_are_dropped_by_centre_or_by_corners_while_training():
    boxes = np.array([[9.5, 0, 0, 4, 2, 1, 0], [10.5, 0, 0, 4, 2, 1, 0], [0, 0, 9, 1, 1, 1, 0]])
    given = {"gt_boxes": boxes}
    assert processor(RANGE_STEP).forward(given)["gt_boxes"][:, 0].tolist() == [9.5]
    assert len(processor(RANGE_STEP, training=False).forward(given)["gt_boxes"]) == 3
    assert len(processor({**RANGE_STEP, "REMOVE_OUTSIDE_BOXES": False}).forward(given)["gt_boxes"])
    by_corners = {**RANGE_STEP, "USE_CENTER_TO_FILTER": False}
    # Both boxes at the edge have their two rear corners, top and bottom, inside: four of eight.
    assert len(processor({**by_corners, "min_num_corners": 4}).forward(given)["gt_boxes"]) == 3
    assert len(processor({**by_corners, "min_num_corners": 5}).forward(given)["gt_boxes"]) == 1


def test_shuffling_permutes_in_the_modes_that_ask_for_it():
    step = {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}}
    points = np.arange(100.0)[:, None]
    with seeded(0):
        shuffled = processor(step).forward({"points": points})["points"]
        kept = processor(step, training=False).forward({"points": points})["points"]
    assert sorted(shuffled[:, 0]) == list(points[:, 0]) != list(shuffled[:, 0])
    assert np.array_equal(kept, points)


@pytest.mark.parametrize(
    ("info", "pixel", "expected"),
    [
        ((0.5, (0, 0, 40, 20), False, 0), (10, 4), (5, 2)),
        ((0.5, (3, 1, 43, 21), False, 0), (10, 4), (2, 1)),
        ((0.5, (3, 1, 43, 21), True, 0), (10, 4), (38, 1)),
        # A quarter turn, counter-clockwise as seen, about (20, 10): right of the centre → above.
        ((1.0, (0, 0, 40, 20), False, 90), (25, 10), (20, 5)),
        ((1.0, (0, 0, 40, 20), True, 90), (25, 10), (20, 15)),
    ],
)
def test_image_matrices_by_hand(info, pixel, expected):
    matrix = image_matrix(*info)
    np.testing.assert_allclose(matrix @ [*pixel, 0, 1], [*expected, 0, 1], atol=1e-5)


def test_normalisation_by_hand():
    image = Image.new("RGB", (4, 2), (255, 51, 0))
    step = {"NAME": "image_normalize", "mean": [0.5, 0.1, 0.3], "std": [0.25, 0.5, 0.1]}
    (result,) = processor(step).forward({"camera_imgs": [image]})["camera_imgs"]
    assert (result.shape, result.dtype) == ((3, 2, 4), torch.float32)
    np.testing.assert_allclose(result[:, 0, 0], [2, 0.2, -3], atol=1e-6)
    assert (result == result[:, :1, :1]).all()


def test_images_of_different_sizes_are_normalised_too():
    step = {"NAME": "image_normalize", "mean": [0.5, 0.1, 0.3], "std": [0.25, 0.5, 0.1]}
    given = [Image.new("RGB", size, (255, 51, 0)) for size in ((4, 2), (2, 2))]
    results = processor(step).forward({"camera_imgs": given})["camera_imgs"]
    assert [tuple(one.shape) for one in results] == [(3, 2, 4), (3, 2, 2)]
    assert torch.equal(results[0][:, :, :2], results[1])


def test_features_are_picked_by_name():
    names = ["x", "y", "z", "intensity", "timestamp"]
    encoding = {"encoding_type": "absolute_coordinates_encoding", "src_feature_list": names}
    points = np.arange(10.0).reshape(2, 5)
    encoder = PointFeatureEncoder(
        EasyDict({**encoding, "used_feature_list": [*names[:3], names[4]]})
    )
    assert encoder.num_point_features == 4
    assert encoder.forward({"points": points})["points"].tolist() == [[0, 1, 2, 4], [5, 6, 7, 9]]
    with pytest.raises(ConfigError, match="names 5 features, but the points have 4"):
        encoder.forward({"points": points[:, :4]})


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"unknown processor 'voxelise'; known: .*image_calibrate"
    ):
        processor({"NAME": "voxelise"})


def test_collation_pads_boxes_and_names_what_does_not_fit():
    samples = [
        {"frame_id": "a", "gt_boxes": np.ones((2, 8)), "x": np.zeros(3)},
        {"frame_id": "b", "gt_boxes": np.ones((1, 8)), "x": np.zeros(3)},
    ]
    batch = DatasetTemplate.collate_batch(samples)
    assert batch["gt_boxes"].sum(axis=(1, 2)).tolist() == [16, 8]
    samples[1]["x"] = np.zeros(4)
    with pytest.raises(DataError, match="a, b cannot share a batch: x differs"):
        DatasetTemplate.collate_batch(samples)


@pytest.fixture(scope="module")
def pcdet_dataset(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from pcdet.datasets.nuscenes.nuscenes_dataset import NuScenesDataset

    return NuScenesDataset


@pytest.mark.openpcdet
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "augmentors", [(), ("flip", "rotation", "scaling", "translation", "imgaug")]
)
def test_the_same_seed_gives_the_sample_of_openpcdets_dataset(
    pcdet_dataset, tmp_path, training, augmentors
):
    """With scales that give whole pixels: OpenPCDet rounds the others down, see scale_and_crop."""
    write_frames(tmp_path)
    image = {**CONFIG["CAMERA_CONFIG"]["IMAGE"], "RESIZE_LIM_TRAIN": [0.75, 0.75]}
    config = configuration(
        tmp_path,
        augmentors,
        without=MASKS,
        USE_LABELS=True,
        CAMERA_CONFIG={"USE_CAMERA": True, "IMAGE": image},
        MAX_SWEEPS=3 if training else 1,  # OpenPCDet draws sweeps in test mode as well
    )
    ours = MultiModalNuScenesDataset(config, CLASSES, training)
    theirs = pcdet_dataset(config, CLASSES, training, tmp_path, logging.getLogger(__name__))
    with seeded(1):
        one = ours[1]
    with seeded(1):
        other = theirs[1]
    drawn = {"flip_x", "flip_y", "noise_rot", "noise_scale", "noise_translate"}
    assert set(other) - set(one) <= drawn | {"img_process_infos"}
    assert set(one) - set(other) == {"image_mean", "image_std", "image_bounds"}
    for key in set(one) & set(other) - {"camera_imgs"}:
        if np.array(one[key]).dtype.kind == "f":
            np.testing.assert_allclose(one[key], other[key], atol=3e-5, err_msg=key)
        else:
            np.testing.assert_equal(one[key], other[key], err_msg=key)
    for image, expected in zip(one["camera_imgs"], other["camera_imgs"], strict=True):
        # One grey level, over the least std: the filter sums fewer columns in one pass.
        np.testing.assert_allclose(image, expected, atol=1 / 255 / 0.2 + 1e-6)
