"""The map around a sample, in its own frame; on the active host, with its own augmentation."""

import json
import pickle

import numpy as np
import pytest
import shapely
import torch
from shapely.geometry import box

from nsmae_plugin import host
from nsmae_plugin.data import nuscenes_dataset
from nsmae_plugin.data.frame_folder import FrameFolderDataset
from nsmae_plugin.data.loader import build_dataloader, seeded
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.infos import write_infos
from nsmae_plugin.formats.maps import map_labels
from nsmae_plugin.formats.maps.map_labels import MapLabels, ground_to_lidar
from nsmae_plugin.formats.maps.map_raster import rasterise
from nsmae_plugin.geometry.augmentation import flip, scaling, translation
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.geometry.boxes import lidar_to_global
from tests.helpers.map_files import (
    LINE_WIDTH,
    LOCATION,
    ORIGIN,
    SECTION,
    place,
    pose,
    street,
    write_map,
    write_tables,
    write_world,
)
from tests.helpers.tiny_frames import CLASSES, VERSION, configuration, dataset, write_frames

WORLD = ("flip", "rotation", "scaling", "translation")
LAYERS = {
    "drivable_area": ["drivable_area"],
    "walkway": ["walkway"],
    "ped_crossing": ["ped_crossing"],
    "divider": ["road_divider", "lane_divider"],
}
host.register("dataset", "MultiModalNuScenesDataset", nuscenes_dataset.MultiModalNuScenesDataset)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    write_world(folder)
    return folder


def mapped(root, training=True, **options):
    return dataset(root, training=training, **{"MAP_CONFIG": SECTION, **options})


def areas():
    """One shapely geometry for each class, metres around ORIGIN."""
    shapes = street()
    for layer in ("road_divider", "lane_divider"):
        shapes[layer] = [one.buffer(LINE_WIDTH / 2, cap_style="flat") for one in shapes[layer]]
    return [
        shapely.union_all([shape for layer in LAYERS[name] for shape in shapes[layer]])
        for name in SECTION["CLASSES"]
    ]


def origins(info, augmentation):
    """x and y, metres around ORIGIN, of the places that the augmentation moves to the centres.

    The LiDAR stands upright and the augmentation turns about its axis, so heights do not matter.
    """
    centres = map_grid(SECTION).centres()
    above = np.concatenate([centres, np.zeros((*centres.shape[:2], 1))], axis=-1)
    back = lidar_to_global(info) @ np.linalg.inv(augmentation)
    return np.moveaxis((above @ back[:3, :3].T + back[:3, 3])[..., :2] - ORIGIN, -1, 0)


def expected_masks(info, augmentation):
    """What shapely says of the places where the centres of the cells were before augmentation."""
    x, y = origins(info, augmentation)
    return np.stack([shapely.contains_xy(area, x, y) for area in areas()])


def test_the_street_is_drawn_as_the_car_sees_it(root):
    """Frame 0 drives along x on the road's right half, 2.3 m from its middle; LiDAR: y ahead."""
    data = mapped(root, training=False)
    masks = data[0]["gt_masks_bev"]
    assert masks.shape == (4, 80, 80)
    assert masks.dtype == bool
    drivable, walkway, crossing, divider = masks
    # LiDAR x points to the right (-y of the world), LiDAR y ahead; the LiDAR is at (0.9, -2.3).
    ahead = drivable[-1]  # 19.75 m ahead: the road from 7.3 m at the left to 4.7 m at the right
    np.testing.assert_array_equal(np.flatnonzero(ahead), np.arange(25, 49))  # 24 cells, 12 m
    # The walkway is at the left, 3.5 m wide from 7.3 m on: the centres -7.75 to -10.75.
    np.testing.assert_array_equal(np.flatnonzero(walkway[0]), np.arange(18, 25))
    # The crossing: the world's x from 3 to 7, so 2.1 m to 6.1 m ahead of the LiDAR.
    rows = np.flatnonzero(crossing.any(axis=1))
    assert (rows[0], rows[-1]) == (44, 51)
    # Two lines, 1.7 m to the right and, before its bend, 1.3 m to the left, each a metre wide.
    np.testing.assert_array_equal(np.flatnonzero(divider[0]), [36, 37, 42, 43])
    # The island: the world's x from -6 to -2, y from 1 to 3.
    hole = ~drivable[26:34, 29:33]
    assert hole.all()
    assert hole.sum() == 8 * 4


@pytest.mark.parametrize(
    "augmentors", [*((name,) for name in WORLD), WORLD, WORLD[::-1]], ids="-".join
)
def test_labels_follow_the_augmentation_of_their_sample_exactly(root, augmentors):
    data = mapped(root, augmentors=augmentors)
    changed = 0
    for draw in range(3):
        for index, info in enumerate(data.infos):
            with seeded(draw, 0, index):
                sample = data[index]
            augmentation = sample["lidar_aug_matrix"]
            changed += not np.allclose(augmentation, np.eye(4))
            expected = expected_masks(info, np.asarray(augmentation, np.float64))
            np.testing.assert_array_equal(sample["gt_masks_bev"], expected)
    assert changed


def test_test_mode_draws_the_raw_frame_and_needs_no_boxes(tmp_path):
    infos = write_world(tmp_path, frames=1)
    for info in infos:
        for key in ("gt_boxes", "gt_names", "num_lidar_pts"):
            del info[key]
    write_infos(tmp_path / VERSION / "infos.pkl", infos)
    sample = mapped(tmp_path, training=False, augmentors=WORLD)[0]
    np.testing.assert_array_equal(sample["gt_masks_bev"], expected_masks(infos[0], np.eye(4)))


def test_a_slanted_lidar_sees_the_ground_where_it_is():
    """The labels meet the points: a place on the road, through the full 3D transformations."""
    info = {"token": "a"}
    car_to_global = pose(3.0, -2.0, 0.7)
    place(info, car_to_global, roll=0.05)  # 3 degrees; 1.8 m up, that moves the ground by 9 cm
    augmentation = np.eye(4)
    augmentation[:2, :2] = [[0.0, -1.1], [1.1, 0.0]]
    augmentation[:3, 3] = [0.4, -0.3, 0.2]
    here = np.array([*ORIGIN + [11.0, 5.0], 3.5, 1.0])  # on the road, at the height of the wheels
    there = augmentation @ info["ref_from_car"] @ info["car_from_global"] @ here
    found = ground_to_lidar(info, augmentation) @ [*here[:2], 1.0]
    np.testing.assert_allclose(found, there[:2], atol=1e-9)  # coordinates are about 1e3 m
    upright = dict(info)
    place(upright, car_to_global)
    assert np.abs(ground_to_lidar(upright, augmentation) @ [*here[:2], 1.0] - found).max() > 0.05


def test_labels_agree_with_the_devkits_masks_but_for_its_rounding(root):
    """The devkit moves corners by up to half a cell and counts cells from their lower corner."""
    from nuscenes.map_expansion.map_api import NuScenesMap

    info, yaw = {"token": "token-0"}, 0.6
    place(info, pose(4.0, -2.0, yaw))
    drawn = MapLabels(SECTION, [info], root / VERSION, VERSION).masks(info, np.eye(4))
    x, y = lidar_to_global(info)[:2, 3]
    theirs = NuScenesMap(str(root / VERSION), LOCATION).get_map_mask(
        (x, y, 40.0, 40.0), np.degrees(yaw) - 90, SECTION["CLASSES"][:3], canvas_size=(80, 80)
    )
    places = shapely.points(*origins(info, np.eye(4)))
    for ours, other, area in zip(drawn[:3], theirs.astype(bool), areas()[:3], strict=True):
        differs = ours != other
        assert 0.5 * ours.sum() > differs.sum() > 0
        # A cell (0.5 m) along each axis.
        assert shapely.distance(places[differs], area.boundary).max() < np.sqrt(2) * 0.5


def test_leaving_out_what_is_far_leaves_out_nothing_that_is_seen(tmp_path):
    """400 flagstones around the car, of which the oblong grid shows a part."""
    rng = np.random.default_rng(1)
    stones = [box(x, y, x + 1.5, y + 1.5) for x, y in rng.uniform(-80, 80, (400, 2))]
    write_map(tmp_path, {"walkway": stones})
    write_tables(tmp_path, [LOCATION])
    section = {"CLASSES": ["walkway"], "XBOUND": [-10, 35, 0.5], "YBOUND": [-30, 4, 0.5]}
    info = {"token": "token-0"}
    drawer = MapLabels(section | {"LINE_WIDTH": 1.0}, [info], tmp_path, VERSION)
    (whole,) = drawer._maps.values()
    for yaw in (0.0, 0.4, 2.0, -1.0):
        place(info, pose(3.0, -2.0, yaw))
        augmentation = translation([1, -2, 0]) @ scaling(1.1) @ flip(yaw > 0)
        to_grid = ground_to_lidar(info, augmentation)
        expected = rasterise(whole.rings, to_grid, drawer.grid, 1)
        np.testing.assert_array_equal(drawer.masks(info, augmentation), expected)
        near = whole.near(*drawer._surroundings(to_grid))
        assert 0 < near.last.sum() < 250
        assert expected.any()


def test_batches_hold_boolean_stacks_on_either_host(root):
    config = configuration(root, MAP_CONFIG=SECTION, augmentors=WORLD)
    data, loader, _ = build_dataloader(config, CLASSES, batch_size=2, seed=3)
    batch = next(iter(loader))
    assert batch["gt_masks_bev"].shape == (2, 4, 80, 80)
    infos = {info["token"]: info for info in data.infos}
    moved = host.to_device(batch, "cpu")["gt_masks_bev"]
    assert moved.dtype == torch.bool
    for row in range(2):
        info = infos[batch["metadata"][row]["token"]]
        expected = expected_masks(info, batch["lidar_aug_matrix"][row].astype(np.float64))
        np.testing.assert_array_equal(moved[row].numpy(), expected)


def test_workers_get_the_maps_with_the_data_set(root, monkeypatch):
    data = mapped(root, training=False)
    monkeypatch.setattr(map_labels, "load_map", None)  # nothing is opened again
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[1]["gt_masks_bev"], data[1]["gt_masks_bev"])


def test_without_the_section_there_are_no_maps_and_nobody_looks_for_them(tmp_path):
    write_frames(tmp_path, frames=1, cameras=1)
    assert "gt_masks_bev" not in dataset(tmp_path)[0]


def test_cameras_alone_get_maps_as_well(root):
    without = ("mask_voxels", "mask_depth_points")
    sample = mapped(root, training=False, USE_LIDAR=False, without=without)[2]
    info = mapped(root, training=False).infos[2]
    np.testing.assert_array_equal(sample["gt_masks_bev"], expected_masks(info, np.eye(4)))


def test_a_sample_that_stands_in_for_one_without_boxes_brings_its_own_map(tmp_path):
    infos = write_world(tmp_path)
    for info in infos[:2]:
        info["gt_names"] = np.array(["ignore", "ignore"])
    write_infos(tmp_path / VERSION / "infos.pkl", infos)
    data = mapped(tmp_path, augmentors=WORLD, USE_LABELS=True)
    with seeded(0, 0, 0):
        sample = data[0]
    assert sample["metadata"]["token"] == "token-2"
    expected = expected_masks(infos[2], np.asarray(sample["lidar_aug_matrix"], np.float64))
    np.testing.assert_array_equal(sample["gt_masks_bev"], expected)


def test_a_part_of_the_maps_is_a_part_of_the_labels(root):
    data = mapped(root, LABEL_FRACTION=1 / 3, LABEL_FRACTION_SEED=1)
    assert [info["token"] for info in data.infos] == ["token-1"]
    assert data.epoch_length == 3
    assert len(mapped(root, training=False, LABEL_FRACTION=1 / 3)) == 3


def test_frames_of_ones_own_have_no_map(tmp_path):
    content = {"frames": [{"name": "a", "lidar": "a.bin"}]}
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    np.array([[5.0, 0, 0, 1, 0]], np.float32).tofile(tmp_path / "a.bin")
    steps = ("image_calibrate", "image_normalize", "mask_image_patches")
    config = configuration(tmp_path, without=steps, MAP_CONFIG=SECTION, MAX_SWEEPS=1)
    config.CAMERA_CONFIG.USE_CAMERA = False
    assert "gt_masks_bev" not in FrameFolderDataset(config, CLASSES, training=False)[0]


def test_only_maps_of_locations_with_samples_are_opened_each_once(tmp_path, monkeypatch):
    infos = write_world(tmp_path, frames=3)
    write_tables(tmp_path / VERSION, [LOCATION, "singapore-onenorth", LOCATION])
    opened, load = [], map_labels.load_map
    monkeypatch.setattr(
        map_labels, "load_map", lambda root, *args: opened.append(args[0]) or load(root, *args)
    )
    assert mapped(tmp_path, LABEL_FRACTION=0.5).infos[1]["token"] == "token-2"
    assert opened == [LOCATION]
    with pytest.raises(DataError, match="cannot read the map of singapore-onenorth"):
        mapped(tmp_path)
    write_map(tmp_path / VERSION, {"walkway": [box(-9, -9, 9, 9)]}, "singapore-onenorth")
    masks = mapped(tmp_path, training=False)[1]["gt_masks_bev"]
    assert masks.any(axis=(1, 2)).tolist() == [False, True, False, False]
    assert len(infos) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CLASSES": ["pavement"]}, "each once, not .*pavement"),
        ({"XBOUND": [-20.0, 20.0, 0.7]}, "XBOUND must be .* whole number of steps"),
        ({"LINE_WIDTH": 0.0}, "LINE_WIDTH must be a positive number, not 0"),
    ],
)
def test_sections_that_mean_nothing_are_refused_before_maps_are_read(root, changes, message):
    with pytest.raises(ConfigError, match=message):
        mapped(root, MAP_CONFIG={**SECTION, **changes})


def test_samples_of_an_unknown_place_or_pose_are_named(tmp_path):
    infos = write_world(tmp_path)
    write_tables(tmp_path / VERSION, [LOCATION])
    with pytest.raises(DataError, match=r"do not say where sample token-1 was taken \(2 such"):
        mapped(tmp_path)
    write_tables(tmp_path / VERSION, [LOCATION] * 3)
    del infos[0]["car_from_global"]
    write_infos(tmp_path / VERSION / "infos.pkl", infos)
    with pytest.raises(DataError, match=r"sample token-0 holds no car_from_global"):
        mapped(tmp_path, training=False)[0]
