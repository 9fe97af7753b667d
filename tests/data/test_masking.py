"""Masks are exact in number, per sample and per camera, reproducible, and refuse nonsense."""

import numpy as np
import pytest
import torch

from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.masking import (
    PROCESSORS,
    hidden_subset,
    image_patch_mask,
    mask_depth_points,
    mask_image_patches,
    mask_voxels,
)
from nsmae_plugin.errors import ConfigError

RATIOS = (0.0, 0.25, 0.5, 0.9, 1.0)


def step(name, **config):
    return PROCESSORS[name](None, config={"NAME": name, **config})


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_subset_has_exactly_the_rounded_share(ratio, count):
    hidden = hidden_subset(count, ratio, np.random.default_rng(0))
    assert hidden.shape == (count,)
    assert hidden.sum() == round(ratio * count)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("cameras", [1, 3, 6])
def test_every_camera_hides_exactly_the_same_number_of_patches(ratio, cameras):
    mask = image_patch_mask(cameras, 40, 72, 8, ratio, np.random.default_rng(0))
    assert mask.shape == (cameras, 5, 9)
    assert (mask.sum(axis=(1, 2)) == round(ratio * 45)).all()


def test_cameras_and_samples_draw_different_patches():
    rng = np.random.default_rng(0)
    first, second = (image_patch_mask(2, 64, 64, 8, 0.5, rng) for _ in range(2))
    assert (first[0] != first[1]).any()
    assert (first != second).any()


def test_every_patch_is_hidden_equally_often():
    rng = np.random.default_rng(0)
    share = np.mean([image_patch_mask(1, 24, 24, 8, 1 / 3, rng) for _ in range(3000)], axis=0)
    # 3 of 9 patches; the standard deviation of a mean of 3000 draws is 0.0086: five of them.
    np.testing.assert_allclose(share, 1 / 3, atol=0.043)


def test_masks_follow_the_global_seed():
    patches = step("mask_image_patches", PATCH_SIZE=8, RATIO=0.5)
    sample = {"camera_imgs": [torch.zeros(3, 64, 64)] * 2}
    masks = []
    for seed in (3, 3, 4):
        with seeded(seed):
            masks.append(patches(data_dict=sample)["image_patch_mask"])
    assert np.array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_voxels_are_divided_into_visible_and_hidden_without_loss():
    coords = np.arange(300, dtype=np.int32).reshape(100, 3)
    sample = {
        "voxels": np.arange(100.0)[:, None, None],
        "voxel_coords": coords,
        "voxel_num_points": np.arange(100),
    }
    masked = step("mask_voxels", RATIO=0.9)(data_dict=sample)
    assert len(masked["voxels"]) == 10
    assert np.array_equal(coords[masked["voxel_num_points"]], masked["voxel_coords"])
    assert np.array_equal(masked["voxels"][:, 0, 0], masked["voxel_num_points"])
    together = np.concatenate([masked["voxel_coords"], masked["hidden_voxel_coords"]])
    assert np.array_equal(together[together[:, 0].argsort()], coords)
    assert len(sample["voxels"]) == 100  # the sample that was given is as before


def test_one_voxel_always_stays_visible():
    sample = {
        "voxels": np.zeros((2, 1, 3)),
        "voxel_coords": np.zeros((2, 3)),
        "voxel_num_points": np.ones(2),
    }
    masked = step("mask_voxels", RATIO=0.9)(data_dict=sample)
    assert len(masked["voxels"]) == len(masked["hidden_voxel_coords"]) == 1


def test_depth_points_are_hidden_per_point_and_the_points_stay():
    points = np.random.default_rng(0).random((40, 5))
    masked = step("mask_depth_points", RATIO=0.75)(data_dict={"points": points})
    assert masked["points"] is points
    assert masked["depth_point_mask"].dtype == bool
    assert masked["depth_point_mask"].sum() == 30


@pytest.mark.parametrize("patch", [7, 0, -8])
def test_patches_that_do_not_divide_the_image_are_refused(patch):
    with pytest.raises(ConfigError, match=r"64 x 72 pixels does not divide into patches"):
        image_patch_mask(1, 64, 72, patch, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("function", "key"),
    [
        (mask_image_patches, "camera_imgs"),
        (mask_voxels, "voxel_coords"),
        (mask_depth_points, "points"),
    ],
)
def test_a_mask_says_what_it_needs(function, key):
    config = {"NAME": function.__name__, "RATIO": 0.5, "PATCH_SIZE": 8}
    with pytest.raises(ConfigError, match=f"{function.__name__} needs {key}: put it after"):
        function(None, data_dict={}, config=config)
