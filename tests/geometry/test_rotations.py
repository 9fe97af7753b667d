"""Rotations by hand, and quaternions there and back."""

import numpy as np
import pytest

from nsmae_plugin.geometry.rotations import (
    multiply,
    quaternion,
    quaternion_about,
    rotation_matrix,
    yaw_matrix,
)

HALF = np.sqrt(0.5)


def test_quaternions_by_hand():
    quarter_about_z = rotation_matrix([HALF, 0, 0, HALF])
    np.testing.assert_allclose(quarter_about_z @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    quarter_about_x = rotation_matrix([3 * HALF, 3 * HALF, 0, 0])  # of any length
    np.testing.assert_allclose(quarter_about_x @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(quaternion(quarter_about_x), [HALF, HALF, 0, 0], atol=1e-12)


def test_a_quaternion_gives_its_matrix_back_with_w_not_negative():
    for given in np.random.default_rng(0).normal(size=(20, 4)):
        found = quaternion(rotation_matrix(given))
        expected = given / np.linalg.norm(given) * np.sign(given[0])
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_yaws_come_before_the_matrix():
    quarter_about_x = rotation_matrix([HALF, HALF, 0, 0])
    first, second = quaternion(quarter_about_x, np.array([np.pi / 2, 0.0]))
    # x to y by the yaw, then y to z about x.
    np.testing.assert_allclose(rotation_matrix(first) @ [1, 0, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation_matrix(second), quarter_about_x, atol=1e-12)


def test_a_product_turns_by_its_second_factor_first():
    about_z, about_x = quaternion_about("z", np.pi / 2), quaternion_about("x", np.pi / 2)
    np.testing.assert_allclose(about_z, [HALF, 0, 0, HALF])
    # y to z about x, which the turn about z leaves alone; and y to -x about z.
    both = rotation_matrix(multiply(about_z, about_x))
    np.testing.assert_allclose(both @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    other = rotation_matrix(multiply(about_x, about_z))
    np.testing.assert_allclose(other @ [0, 1, 0], [-1, 0, 0], atol=1e-12)
    product = rotation_matrix(about_z) @ rotation_matrix(about_x)
    np.testing.assert_allclose(both, product, atol=1e-12)


@pytest.mark.parametrize("yaw", [0.3, -2.0])
def test_a_yaw_turns_the_ground_plane_from_x_towards_y(yaw):
    about_z = rotation_matrix([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
    np.testing.assert_allclose(yaw_matrix(yaw), about_z[:2, :2], atol=1e-12)
