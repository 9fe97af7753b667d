"""Images that do not fill the network's input: what is black is known, and said."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from nsmae_plugin.data.camera_views import black_share
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.models.targets import filled_cells
from tests.helpers.tiny_frames import CLASSES, HEIGHT, VERSION, WIDTH, configuration, write_frames

STRIDE = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One frame with white images."""
    root = tmp_path_factory.mktemp("white")
    (info,) = write_frames(root, frames=1, cameras=2)
    for camera in info["cams"].values():
        white = Image.new("RGB", (WIDTH, HEIGHT), "white")
        white.save(root / VERSION / camera["data_path"])
    return root


def white_dataset(root, final, augmentors=(), **options):
    config = configuration(root, augmentors=augmentors)
    config.CAMERA_CONFIG.IMAGE.FINAL_DIM = list(final)
    for augmentor in config.DATA_AUGMENTOR.AUG_CONFIG_LIST:
        augmentor.ROT_LIM = [-20.0, 20.0]
    for step in config.DATA_PROCESSOR:
        if step["NAME"] == "image_normalize":
            step |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    return MultiModalNuScenesDataset(config, CLASSES, **options)


@pytest.mark.parametrize("final", [(48, 96), (104, 176), (48, 176), (104, 96)])
@pytest.mark.parametrize("augmentors", [(), ("imgaug",)])
def test_the_cells_that_count_are_those_without_a_black_pixel(root, final, augmentors):
    """White images: what is not white is filling. Draws include flips, turns and other scales."""
    data = white_dataset(root, final, augmentors)
    counted = black = missed = cells = 0
    for seed in range(12):
        with seeded(seed):
            batch = data.collate_batch([data[0]])
        tensors = {k: torch.as_tensor(batch[k]) for k in ("img_aug_matrix", "image_bounds")}
        images = torch.as_tensor(batch["camera_imgs"]).float()
        filled = filled_cells({"camera_imgs": images, **tensors}, STRIDE)
        whitest = images.flatten(0, 1).amin(1)  # the darkest of the three channels
        darkest = -torch.nn.functional.max_pool2d(-whitest[:, None], STRIDE)[:, 0]
        white = (darkest > 0.98).view_as(filled)
        assert not (filled & ~white).any()
        missed, cells = missed + int((white & ~filled).sum()), cells + filled.numel()
        counted, black = counted + int(filled.sum()), black + int((~white).sum())
    assert missed <= 0.06 * cells  # an edge turned by less than a pixel blackens none, but might
    assert counted
    assert (black > 0) == (final != (48, 96) or bool(augmentors))


def test_the_share_of_black_is_that_of_the_smallest_scale():
    assert black_share((160, 96), (48, 96), (0.6, 0.9)) == 0
    assert black_share((160, 96), (72, 96), (0.5, 1.0)) == pytest.approx(4 / 9)
    assert black_share((160, 96), (96, 160), (0.5, 1.0)) == pytest.approx(3 / 4)


@pytest.mark.parametrize("training", [True, False])
def test_black_filling_is_said_once(root, caplog, training):
    with caplog.at_level(logging.INFO):
        data = white_dataset(root, (96, 96), training=training)
        for _ in range(2):
            data[0]
    words = "160 x 96 pixels; scaled by " + ("0.6" if training else "0.75")
    (message,) = [one for one in caplog.messages if words in one]
    assert ("41 %" if training else "25 %") in message


def test_images_that_fill_the_input_are_not_spoken_of(root, caplog):
    with caplog.at_level(logging.INFO):
        white_dataset(root, (48, 96))
    assert "black" not in caplog.text
    with caplog.at_level(logging.INFO):
        white_dataset(root, (48, 96), ("imgaug",))
    assert "imgaug turns black corners" in caplog.text


def test_bounds_are_what_the_crop_shows(root):
    """Upper 24 of 96 rows of the input are filling at scale 0.75; 72 show all of the image."""
    sample = white_dataset(root, (96, 96), training=False)[0]
    left = (0.75 * WIDTH - 96) / 2 / 0.75
    expected = [[left, 0, left + 96 / 0.75, HEIGHT]] * 2
    np.testing.assert_allclose(sample["image_bounds"], expected, atol=1e-4)
