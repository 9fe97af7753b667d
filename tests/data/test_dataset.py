"""Samples and batches of MultiModalNuScenesDataset, on the active host."""

import copy

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.data.loader import build_dataloader, seeded
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.infos import write_infos
from tests.helpers.tiny_frames import (
    AUGMENTORS,
    CLASSES,
    POINTS,
    SWEEPS,
    configuration,
    dataset,
    write_frames,
)

WORLD = ("flip", "rotation", "scaling", "translation")
CAMERA_STEPS = ("image_calibrate", "image_normalize", "mask_image_patches")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder)
    return folder


@pytest.mark.parametrize("cameras", [1, 3])
def test_a_batch_has_the_documented_keys_and_shapes_for_any_number_of_cameras(tmp_path, cameras):
    write_frames(tmp_path, frames=2, cameras=cameras)
    data = dataset(tmp_path, augmentors=AUGMENTORS)
    with seeded(0):
        samples = [data[0], data[1]]
    batch = host.to_device(data.collate_batch(samples), "cpu")
    for key in ("camera_intrinsics", "camera2lidar", "lidar2camera", "lidar2image", "camera2ego"):
        assert batch[key].shape == (2, cameras, 4, 4)
    assert batch["img_aug_matrix"].shape == (2, cameras, 4, 4)
    assert batch["lidar_aug_matrix"].shape == (2, 4, 4)
    assert batch["camera_imgs"].shape == (2, cameras, 3, 48, 96)
    assert batch["image_patch_mask"].shape == (2, cameras, 6, 12)
    assert batch["image_patch_mask"].dtype == torch.bool
    assert torch.allclose(batch["image_mean"], torch.tensor([0.5, 0.4, 0.3]).expand(2, 3))
    assert torch.allclose(batch["image_std"], torch.tensor([0.2, 0.25, 0.5]).expand(2, 3))
    assert batch["points"].shape[1] == 6
    assert batch["depth_point_mask"].shape == batch["points"].shape[:1]
    assert batch["depth_point_mask"].dtype == torch.bool
    assert batch["voxels"].shape[1:] == (5, 5)
    assert batch["voxel_coords"].shape == (len(batch["voxels"]), 4)
    assert batch["hidden_voxel_coords"].shape[1] == 4
    assert batch["batch_size"] == 2
    assert [one["token"] for one in batch["metadata"]] == ["token-0", "token-1"]
    assert not {"gt_boxes", "gt_names", "img_process_infos", "flip_x", "noise_rot"} & set(batch)


def test_rows_of_a_batch_carry_the_number_of_their_sample(root):
    data = dataset(root)
    with seeded(0):
        samples = [data[0], data[1], data[0]]
    batch = data.collate_batch(samples)
    for key in ("points", "voxel_coords", "hidden_voxel_coords"):
        for number, sample in enumerate(samples):
            rows = batch[key][batch[key][:, 0] == number]
            assert np.array_equal(rows[:, 1:], sample[key])
    masks = [sample["depth_point_mask"] for sample in samples]
    assert np.array_equal(batch["depth_point_mask"], np.concatenate(masks))


def test_frames_without_boxes_are_kept_when_labels_are_not_used(tmp_path):
    infos = write_frames(tmp_path)
    for info in infos:
        del info["gt_boxes"], info["gt_names"], info["num_lidar_pts"]
    write_infos(tmp_path / "v1.0-mini" / "infos.pkl", infos)
    data = dataset(tmp_path, augmentors=AUGMENTORS)
    assert [data[index]["metadata"]["token"] for index in range(2)] == ["token-0", "token-1"]
    with pytest.raises(DataError, match=r"token-0.*USE_LABELS False"):
        dataset(tmp_path, USE_LABELS=True)


def test_labelled_training_needs_a_box_of_a_known_class(root):
    config = configuration(root, USE_LABELS=True)
    with pytest.raises(DataError, match="no box of bus"):
        MultiModalNuScenesDataset(config, ["bus"])


def test_a_sample_without_boxes_in_range_is_replaced_and_without_any_it_is_an_error(tmp_path):
    infos = write_frames(tmp_path, frames=2)
    options = {"CAMERA_CONFIG": {"USE_CAMERA": False}, "without": CAMERA_STEPS}
    path = tmp_path / "v1.0-mini" / "infos.pkl"
    infos[0]["gt_boxes"][:, 0] = 500.0
    write_infos(path, infos)
    assert dataset(tmp_path, USE_LABELS=True, **options)[0]["metadata"]["token"] == "token-1"
    infos[1]["gt_boxes"][:, 0] = 500.0
    write_infos(path, infos)
    with pytest.raises(DataError, match=r"hundreds of samples without a box of car, pedestrian"):
        dataset(tmp_path, USE_LABELS=True, **options)[0]


def test_boxes_with_too_few_points_are_left_out(root):
    sample = dataset(root, USE_LABELS=True, FILTER_MIN_POINTS_IN_GT=2, PRED_VELOCITY=False)[0]
    assert sample["gt_boxes"].shape == (1, 8)


def test_balanced_resampling_needs_nothing_but_labels_and_is_reproducible(root):
    lengths = {
        len(dataset(root, USE_LABELS=True, BALANCED_RESAMPLING=True).infos) for _ in range(2)
    }
    assert lengths == {4}  # two classes in each of two frames


def test_loading_leaves_the_infos_as_they_were(root):
    data = dataset(root, augmentors=AUGMENTORS, USE_LABELS=True)
    before = copy.deepcopy(data.infos)
    with seeded(0):
        for _ in range(3):
            data[0]
    np.testing.assert_equal(data.infos, before)


def test_masks_of_test_mode_are_those_of_the_loader_whoever_reads(root):
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    config = configuration(root)
    for seed in (0, 5):
        data, loader, _ = build_dataloader(config, CLASSES, 1, training=False, seed=seed)
        for number, batch in enumerate(loader):
            np.random.seed(number)  # noqa: NPY002 (a loader of someone else's seeds as it likes)
            mask = data[number]["image_patch_mask"]
            np.testing.assert_array_equal(batch["image_patch_mask"][0], mask)
    data.evaluation_seed = 0
    assert (data[number]["image_patch_mask"] != mask).any()


def test_test_mode_takes_the_most_recent_sweeps_in_order(root):
    data = dataset(root, training=False, MAX_SWEEPS=2)
    numbers = data[0]["points"][:, 3]
    assert np.array_equal(np.unique(numbers // POINTS), [0, 1])
    assert np.array_equal(numbers, np.sort(numbers))
    times = data[0]["points"][:, 4]
    np.testing.assert_allclose(times, 0.05 * (numbers // POINTS))


def test_training_draws_different_sweeps(root):
    data = dataset(root, MAX_SWEEPS=2)
    chosen = set()
    for seed in range(10):
        with seeded(seed):
            chosen |= set(data[0]["points"][:, 3] // POINTS)
    assert chosen == set(range(SWEEPS))


def test_returns_from_the_car_itself_are_removed_from_sweeps(tmp_path):
    infos = write_frames(tmp_path, frames=1)
    path = tmp_path / "v1.0-mini" / infos[0]["sweeps"][0]["lidar_path"]
    cloud = np.fromfile(path, np.float32).reshape(-1, 5)
    cloud[:3, :2] = [[0.5, 0.5], [-0.9, 0.9], [0.9, 1.1]]
    cloud.tofile(path)
    numbers = dataset(tmp_path, training=False)[0]["points"][:, 3]
    assert not {POINTS, POINTS + 1} & set(numbers)
    assert POINTS + 2 in numbers


def test_a_test_sample_is_the_same_every_time(root):
    data = dataset(root, training=False)
    with seeded(0):
        first = data[1]
    with seeded(1):
        second = data[1]
    for key, value in first.items():
        np.testing.assert_equal(np.array(value), np.array(second[key]))


def test_without_lidar_no_point_leaves_the_dataset(root):
    without = ("mask_voxels", "mask_depth_points", "shuffle_points")
    sample = dataset(root, augmentors=AUGMENTORS, USE_LIDAR=False, without=without)[0]
    assert not {"points", "voxels", "voxel_coords", "voxel_num_points"} & set(sample)
    assert len(sample["camera_imgs"]) == 3


def test_without_cameras_no_image_is_read(tmp_path):
    infos = write_frames(tmp_path, frames=1)
    (tmp_path / "v1.0-mini" / infos[0]["cams"]["CAM_0"]["data_path"]).unlink()
    cameras = {"USE_CAMERA": False}
    data = dataset(tmp_path, augmentors=WORLD, without=CAMERA_STEPS, CAMERA_CONFIG=cameras)
    assert not {"camera_imgs", "image_mean", "lidar2image"} & set(data[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"CAMERA_CONFIG": {"USE_CAMERA": False}}, "image_calibrate.*switch the sensor on"),
        ({"USE_LIDAR": False}, "mask_voxels, mask_depth_points cannot work"),
        ({"without": ("image_normalize", "mask_image_patches")}, "cameras need image_normalize"),
        ({"CAMERA_CONFIG": None, "USE_LIDAR": False}, "both off"),
    ],
)
def test_steps_and_sensors_that_do_not_fit_are_refused(root, options, message):
    with pytest.raises(ConfigError, match=message):
        dataset(root, **options)


def test_depth_points_must_be_masked_after_the_points_are_final(root):
    config = configuration(root)
    config.DATA_PROCESSOR = [config.DATA_PROCESSOR[-1], *config.DATA_PROCESSOR[:-1]]
    with pytest.raises(ConfigError, match=r"mask_depth_points must come after .*shuffle_points"):
        MultiModalNuScenesDataset(config, CLASSES)


def test_frames_with_different_cameras_cannot_share_a_batch(tmp_path):
    infos = write_frames(tmp_path, frames=2, cameras=3)
    del infos[1]["cams"]["CAM_2"]
    write_infos(tmp_path / "v1.0-mini" / "infos.pkl", infos)
    data = dataset(tmp_path)
    with pytest.raises(DataError, match=r"lidar_1_0.* has 2 images .*batch size of 1"):
        data.collate_batch([data[0], data[1]])


def test_the_synthetic_dataset_loads_through_the_loader(synthetic_root):
    config = configuration(synthetic_root, augmentors=AUGMENTORS, MAX_SWEEPS=3)
    config.INFO_PATH = {
        "train": ["nuscenes_infos_3sweeps_train.pkl"],
        "test": ["nuscenes_infos_3sweeps_val.pkl"],
    }
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    for training in (True, False):
        _, loader, _ = build_dataloader(config, CLASSES, batch_size=2, training=training)
        batch = next(iter(loader))
        assert torch.isfinite(batch["camera_imgs"]).all()
        assert len(batch["voxels"]) > 10
