"""Scaling and cropping of images, against Pillow's two steps."""

import numpy as np
import pytest
from PIL import Image

from nsmae_plugin.data.images import centre_crop, random_crop, rotation_matrix, scale_and_crop
from nsmae_plugin.data.loader import seeded


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    return Image.fromarray(noise).resize((160, 90), Image.Resampling.BOX)


# (crop in pixels of the image scaled to 80 x 45): inside; beyond the right and lower edges; beyond
# the left and upper ones; larger than the image.
CROPS = [(10, 13, 74, 45), (40, 20, 104, 52), (-8, -16, 56, 16), (-10, -10, 90, 60)]


@pytest.mark.parametrize("crop", CROPS)
def test_a_crop_is_what_scaling_and_cropping_one_after_the_other_gives(image, crop):
    result = scale_and_crop(image, 0.5, crop)
    expected = image.resize((80, 45)).crop(crop)
    assert result.size == expected.size == (crop[2] - crop[0], crop[3] - crop[1])
    difference = np.asarray(result).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1  # the filter's coefficients are rounded to 22 bits


def test_a_crop_beside_the_image_is_black(image):
    assert not np.asarray(scale_and_crop(image, 0.5, (200, 0, 232, 32))).any()


def test_the_scale_is_exact_where_the_size_is_no_whole_number(image):
    """A step from black to white in column 100 lies at 100 x scale, not at 100 x 73 / 160."""
    pixels = np.zeros((90, 160, 3), np.uint8)
    pixels[:, 100:] = 255
    scale = 73.9 / 160
    row = np.asarray(scale_and_crop(Image.fromarray(pixels), scale, (0, 10, 73, 41)))[15, :, 0]
    assert 73 - row.sum() / 255 == pytest.approx(100 * scale, abs=0.02)


def test_training_crops_lie_at_the_lower_edge_and_anywhere_along_the_width():
    with seeded(0):
        drawn = [random_crop((160, 90), (40, 64), (0.6, 0.8)) for _ in range(500)]
    lefts = []
    for scale, (left, top, right, bottom) in drawn:
        assert 0.6 <= scale <= 0.8
        assert (right - left, bottom - top) == (64, 40)
        assert bottom == int(90 * scale)
        assert 0 <= left <= int(160 * scale) - 64
        lefts.append(left)
    assert min(lefts) < 3
    assert max(lefts) > 50


def test_test_crops_take_the_mean_scale_and_the_centre():
    assert centre_crop((160, 90), (40, 64), (0.7, 0.8)) == (0.75, (28, 27, 92, 67))


def test_quaternions_by_hand():
    half = np.sqrt(0.5)
    quarter_about_z = rotation_matrix([half, 0, 0, half])
    np.testing.assert_allclose(quarter_about_z @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    quarter_about_x = rotation_matrix([3 * half, 3 * half, 0, 0])  # of any length
    np.testing.assert_allclose(quarter_about_x @ [0, 1, 0], [0, 0, 1], atol=1e-12)
