"""Augmentations of the built-in host: hand-computed, without side effects, as OpenPCDet's."""

import logging
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from easydict import EasyDict
from PIL import Image

from nsmae_plugin.data.loader import seeded
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.augmentation import STEPS, compose
from nsmae_plugin.host.builtin.augmentor import DataAugmentor
from nsmae_plugin.host.builtin.registry import REGISTRIES
from tests.helpers.tiny_frames import AUGMENTORS

QUARTER = np.pi / 2


def augmentor(*configs, disabled=()):
    section = {"AUG_CONFIG_LIST": list(configs), "DISABLE_AUG_LIST": list(disabled)}
    return DataAugmentor(Path("."), EasyDict(section), ["car"])


def turn(angle):
    return {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [angle, angle]}


def scale(factor):
    return {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [factor, factor + 2e-3]}


def sample(heading=0.0):
    """One point at (1, 2, 3) and one box at (4, 5, 6) that drives at 2 m/s along x."""
    box = [4.0, 5, 6, 4, 2, 1, heading, 2, 0]
    return {
        "points": np.array([[1.0, 2, 3, 0.5, 0.1]], np.float32),
        "gt_boxes": np.array([box]),
        "gt_names": np.array(["car"]),
    }


def test_a_quarter_turn_leads_from_x_to_y():
    result = augmentor(turn(QUARTER)).forward(sample())
    np.testing.assert_allclose(result["points"], [[-2, 1, 3, 0.5, 0.1]], atol=1e-6)
    box = [-5, 4, 6, 4, 2, 1, QUARTER, 0, 2]
    np.testing.assert_allclose(result["gt_boxes"], [box], atol=1e-6)
    expected = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(result["lidar_aug_matrix"], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("axis", "point", "box"),
    [
        ("x", [1, -2, 3], [4, -5, 6, 4, 2, 1, -0.5, 2, 0]),
        ("y", [-1, 2, 3], [-4, 5, 6, 4, 2, 1, np.pi - 0.5, -2, 0]),
    ],
)
def test_flips_mirror_along_their_axis_half_of_the_time(axis, point, box):
    flip = augmentor({"NAME": "random_world_flip", "ALONG_AXIS_LIST": [axis]})
    flipped = 0
    for seed in range(200):
        with seeded(seed):
            result = flip.forward(sample(heading=0.5))
        if np.allclose(result["points"][0, :3], point):
            np.testing.assert_allclose(result["gt_boxes"], [box], atol=1e-6)
            flipped += 1
        else:
            np.testing.assert_allclose(result["points"], sample()["points"])
    assert 70 < flipped < 130  # 100 expected, standard deviation 7


def test_scaling_changes_positions_sizes_and_velocities():
    with seeded(0):
        result = augmentor(scale(2.0)).forward(sample())
    np.testing.assert_allclose(result["points"], [[2, 4, 6, 0.5, 0.1]], rtol=2e-3)
    np.testing.assert_allclose(result["gt_boxes"], [[8, 10, 12, 8, 4, 2, 0, 4, 0]], rtol=2e-3)


def test_a_range_without_width_scales_nothing_and_draws_nothing():
    config = {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [1.3, 1.3]}
    result = augmentor(config).forward(sample())
    np.testing.assert_array_equal(result["points"], sample()["points"])


def test_translation_has_the_given_standard_deviations():
    shift = augmentor({"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [0.5, 0.0, 2.0]})
    with seeded(0):
        offsets = np.stack(
            [shift.forward(sample())["lidar_aug_matrix"][:3, 3] for _ in range(4000)]
        )
    # The standard deviation of an estimated standard deviation over 4000 draws is 1.1 %.
    np.testing.assert_allclose(offsets.std(axis=0), [0.5, 0, 2], rtol=0.05)


def test_order_matters_and_the_matrix_knows():
    shift = {"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [1.0, 1.0, 1.0]}
    for configs in ([shift, turn(QUARTER)], [turn(QUARTER), shift]):
        with seeded(3):
            result = augmentor(*configs).forward(sample())
        moved = result["lidar_aug_matrix"] @ [1, 2, 3, 1]
        np.testing.assert_allclose(result["points"][0, :3], moved[:3], atol=1e-6)


def test_a_step_that_looks_at_the_points_finds_them_moved_as_far(monkeypatch):
    """The cloud is moved once for several steps, but before any step that could see it."""
    seen = []
    look = partial(lambda data_dict: seen.append(data_dict) or data_dict)
    monkeypatch.setitem(REGISTRIES["augmentor"], "look", lambda self, config: look)
    result = augmentor(turn(QUARTER), turn(QUARTER), {"NAME": "look"}, turn(QUARTER))
    moved = result.forward(sample())
    np.testing.assert_allclose(seen[0]["points"][0, :3], [-1, -2, 3], atol=1e-6)
    np.testing.assert_allclose(seen[0]["gt_boxes"][0, :3], [-4, -5, 6], atol=1e-6)
    np.testing.assert_allclose(moved["points"][0, :3], [2, -1, 3], atol=1e-6)
    assert set(moved) == {*sample(), "lidar_aug_matrix"}


def test_composing_drawn_values_gives_openpcdets_formula_in_its_order():
    drawn = {
        "flip_x": True,
        "flip_y": False,
        "noise_rot": QUARTER,
        "noise_scale": 2.0,
        "noise_translate": np.array([[1.0, 2.0, 3.0]]),
    }
    # (x, y, z) → mirrored (x, -y, z) → turned (y, x, z) → doubled, shifted
    expected = [[0, 2, 0, 1], [2, 0, 0, 2], [0, 0, 2, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(compose(STEPS, drawn), expected, atol=1e-9)
    # Shifted first: (x, y, z) → (x + 1, y + 2, z + 3) → mirrored → turned → doubled
    expected = [[0, 2, 0, 4], [2, 0, 0, 2], [0, 0, 2, 6], [0, 0, 0, 1]]
    order = (STEPS[3], *STEPS[:3])
    np.testing.assert_allclose(compose(order, drawn), expected, atol=1e-9)


def test_imgaug_treats_every_camera_by_itself_and_writes_down_what_it_did():
    ramp = np.tile(np.arange(32, dtype=np.uint8), (16, 1))
    images = [Image.fromarray(np.stack([ramp] * 3, axis=2)) for _ in range(8)]
    given = {"camera_imgs": images, "img_process_infos": [[0.5, (0, 0, 32, 16), False, 0]] * 8}
    with seeded(0):
        result = augmentor({"NAME": "imgaug", "ROT_LIM": [0, 0], "RAND_FLIP": True}).forward(given)
    flips = [info[2] for info in result["img_process_infos"]]
    assert set(flips) == {True, False}
    for image, flip in zip(result["camera_imgs"], flips, strict=True):
        expected = ramp[:, ::-1] if flip else ramp
        np.testing.assert_array_equal(np.asarray(image)[:, :, 0], expected)
    with seeded(0):
        result = augmentor(AUGMENTORS["imgaug"]).forward(given)
    degrees = [info[3] for info in result["img_process_infos"]]
    assert len(set(degrees)) == 8
    assert np.abs(degrees).max() <= 5.4
    assert given["img_process_infos"] == [[0.5, (0, 0, 32, 16), False, 0]] * 8


def test_nothing_is_done_to_the_sample_that_was_given():
    mask = {"gt_boxes_mask": np.array([True])}
    given, untouched = sample() | mask, sample() | mask
    configs = [AUGMENTORS[name] for name in ("flip", "rotation", "scaling", "translation")]
    for steps in (configs, []):
        augmentor(*steps).forward(given)
        np.testing.assert_equal(given, untouched)


def test_boxes_are_optional_and_masked_boxes_are_dropped():
    points_only = {"points": sample()["points"]}
    assert "gt_boxes" not in augmentor(turn(1.0)).forward(points_only)
    masked = augmentor(turn(1.0)).forward({**sample(), "gt_boxes_mask": np.array([False])})
    assert len(masked["gt_boxes"]) == len(masked["gt_names"]) == 0


def test_disabled_augmentors_are_skipped():
    result = augmentor(turn(1.0), disabled=["random_world_rotation"]).forward(sample())
    assert "lidar_aug_matrix" not in result


def test_an_unknown_name_is_answered_with_the_known_ones():
    # Other tests may have registered names of their own before.
    known = r"known: .*\bimgaug, .*\brandom_world_flip\b"
    with pytest.raises(ConfigError, match=rf"unknown augmentor 'random_wrld_flip'; {known}"):
        augmentor({"NAME": "random_wrld_flip"})


def lift(self, data_dict=None, config=None):
    if data_dict is None:
        return partial(lift, self, config=config)
    return {**data_dict, "points": data_dict["points"] + config["BY"]}


def test_registered_augmentors_are_found_by_name(monkeypatch):
    monkeypatch.setitem(REGISTRIES["augmentor"], "lift", lift)
    result = augmentor({"NAME": "lift", "BY": 5}).forward(sample())
    np.testing.assert_allclose(result["points"], sample()["points"] + 5)


def test_augmentors_travel_to_worker_processes():
    original = DataAugmentor(Path("."), [turn(QUARTER)], ["car"], logging.getLogger())
    copied = pickle.loads(pickle.dumps(original))
    np.testing.assert_equal(copied.forward(sample()), original.forward(sample()))


@pytest.mark.openpcdet
@pytest.mark.parametrize("names", [[name] for name in AUGMENTORS] + [list(AUGMENTORS)])
def test_the_same_seed_gives_what_openpcdet_gives(openpcdet_root, names):
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from pcdet.datasets.augmentor.data_augmentor import DataAugmentor as Theirs

    section = EasyDict(
        {"AUG_CONFIG_LIST": [AUGMENTORS[name] for name in names], "DISABLE_AUG_LIST": []}
    )
    results = []
    for cls in (DataAugmentor, Theirs):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 255, (2, 24, 40, 3), np.uint8)
        boxes = rng.normal(size=(20, 9)) * 10
        boxes[:, 6] = rng.uniform(-3, 3, 20)
        boxes[0, 7:] = np.nan
        given = {
            "points": (rng.normal(size=(500, 5)) * 20).astype(np.float32),
            "gt_boxes": boxes,
            "gt_names": np.array(["car"] * 20),
            "camera_imgs": [Image.fromarray(image) for image in pixels],
            "img_process_infos": [[0.5, (0, 0, 40, 24), False, 0] for _ in range(2)],
        }
        with seeded(7):
            results.append(cls(Path("."), section, ["car"]).forward(given))
    ours, theirs = results
    # float32 products summed in another order, of coordinates up to 80 m.
    np.testing.assert_allclose(ours["points"], theirs["points"], atol=2e-5)
    np.testing.assert_allclose(ours["gt_boxes"], theirs["gt_boxes"], atol=2e-5)
    assert ours["img_process_infos"] == theirs["img_process_infos"]
    for image, other in zip(ours["camera_imgs"], theirs["camera_imgs"], strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(other))
