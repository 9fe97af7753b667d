"""Colours can be told apart, also by the colour-blind."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nsmae_plugin.formats.maps.map_classes import LAYERS_OF_CLASS
from nsmae_plugin.visualization.colours import (
    BOX_COLOURS,
    CURVE_COLOURS,
    CURVE_MARKERS,
    FALSE_POSITIVE,
    MAP_COLOURS,
    MISSED,
    MORE_COLOURS,
    POINTS,
    class_colours,
)

# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# sRGB to XYZ under D65 (IEC 61966-2-1); the rows sum to the white point.
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
MINIMUM = 20  # about nine times a difference that is just noticeable (2.3)


def lab(colour, sight: str = "normal") -> np.ndarray:
    """(3,) CIELAB of a colour, as seen with ``sight``."""
    values = np.array(to_rgb(colour))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    shares = XYZ @ np.clip(SIGHT[sight] @ linear, 0, 1) / XYZ.sum(axis=1)
    edge = 6 / 29
    x, y, z = np.where(shares > edge**3, np.cbrt(shares), shares / (3 * edge**2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one, other, sight: str = "normal") -> float:
    """CIE 1976 colour difference."""
    return float(np.linalg.norm(lab(one, sight) - lab(other, sight)))


def test_the_measure_gives_the_numbers_of_the_books():
    np.testing.assert_allclose(lab("white"), [100, 0, 0], atol=1e-3)
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.02)
    np.testing.assert_allclose(lab("#0000ff"), [32.30, 79.19, -107.86], atol=0.02)
    assert difference("white", "black", "protanopia") == pytest.approx(100, abs=1e-3)
    # Greys look the same to all; red and a dark olive nearly so with deuteranopia.
    assert difference("0.4", "0.4", "deuteranopia") == 0
    assert difference("#d7191c", "#7f7f00", "deuteranopia") < 15 < difference("#d7191c", "#7f7f00")


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "colours",
    [
        {**BOX_COLOURS, "background": "white"},
        {**MAP_COLOURS, "missed": MISSED, "false positive": FALSE_POSITIVE, "background": "white"},
    ],
    ids=["boxes", "map"],
)
def test_any_two_classes_can_be_told_apart(colours, sight):
    for (one, first), (other, second) in combinations(colours.items(), 2):
        assert difference(first, second, sight) >= MINIMUM, (one, other)


@pytest.mark.parametrize("sight", SIGHT)
def test_curves_differ_in_colour_or_else_in_their_marker(sight):
    """Of Okabe and Ito's colours the first two differ most; every curve has a marker of its own."""
    assert difference(*CURVE_COLOURS[:2], sight) > 90
    assert len(set(CURVE_MARKERS)) == len(CURVE_MARKERS) == len(CURVE_COLOURS)


def test_the_colours_of_nuscenes_would_not_do():
    assert difference("#ff9e00", "#ff8c00") < MINIMUM  # car and trailer


def test_every_map_class_has_a_colour():
    assert set(MAP_COLOURS) == set(LAYERS_OF_CLASS)


def test_points_stand_out_from_white():
    assert lab(POINTS)[0] < 50


def test_other_classes_get_colours_that_are_free():
    colours = class_colours(["Car", "car", "Pedestrian"])
    assert colours["car"] == to_rgb(BOX_COLOURS["car"])
    assert len(set(colours.values())) == 3
    many = class_colours([f"class {number}" for number in range(26)])
    assert len(set(many.values())) == len(BOX_COLOURS) + len(MORE_COLOURS) == 26
