"""The mask token: tiled at its own size, over the hidden patches of each image, on a copy."""

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.mask_token import ImageMaskToken

SIZE = 4


@pytest.fixture
def module():
    token = ImageMaskToken(EasyDict(NAME="ImageMaskToken", PATCH_SIZE=SIZE))
    values = torch.arange(3 * SIZE * SIZE, dtype=torch.float32).reshape(3, SIZE, SIZE)
    token.load_state_dict({"token": 100 + values})
    return token


def batch(samples=2, cameras=3, rows=2, columns=5):
    generator = torch.Generator().manual_seed(0)
    return {
        "camera_imgs": torch.rand(
            samples, cameras, 3, rows * SIZE, columns * SIZE, generator=generator
        ),
        "image_patch_mask": torch.rand(samples, cameras, rows, columns, generator=generator) < 0.5,
    }


def patches_of(images):
    """(B, N, 3, H, W) -> dict (b, n, row, column) -> (3, SIZE, SIZE), by slicing."""
    samples, cameras, _, height, width = images.shape
    return {
        (b, n, row, column): images[
            b, n, :, row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE
        ]
        for b in range(samples)
        for n in range(cameras)
        for row in range(height // SIZE)
        for column in range(width // SIZE)
    }


def test_hidden_patches_are_the_token_and_visible_ones_unchanged(module, device):
    data = {key: value.to(device) for key, value in batch().items()}
    before = patches_of(data["camera_imgs"])
    hidden = data["image_patch_mask"]
    result = module.to(device)(dict(data))
    for place, patch in patches_of(result["camera_imgs"]).items():
        assert torch.equal(patch, module.token if hidden[place] else before[place]), place


def test_each_image_has_its_own_mask(module):
    data = batch()
    data["image_patch_mask"][:] = False
    data["image_patch_mask"][1, 2, 0, 0] = True
    images = data["camera_imgs"]
    changed = (module(dict(data))["camera_imgs"] != images).flatten(2).any(2)
    assert changed.nonzero().tolist() == [[1, 2]]


def test_the_clean_images_are_kept_untouched(module):
    data = batch()
    images, copy = data["camera_imgs"], data["camera_imgs"].clone()
    result = module(dict(data))
    assert result["camera_imgs"] is not images
    assert torch.equal(images, copy)


def test_the_token_gets_the_gradient_of_all_hidden_patches(module):
    data = batch()
    result = module(dict(data))
    result["camera_imgs"].sum().backward()
    expected = torch.full_like(module.token, float(data["image_patch_mask"].sum()))
    assert torch.equal(module.token.grad, expected)


def test_the_token_is_a_parameter_of_a_leaf_module(module):
    # OpenPCDet's optimizers see the parameters of modules without children only.
    assert list(module.children()) == []
    assert [name for name, _ in module.named_parameters()] == ["token"]


def test_a_mask_of_another_patch_size_is_refused(module):
    data = batch()
    data["image_patch_mask"] = data["image_patch_mask"].repeat(1, 1, 2, 2)
    with pytest.raises(ConfigError, match="PATCH_SIZE 4"):
        module(data)


def test_images_that_patches_do_not_tile_are_refused(module):
    data = batch()
    data["camera_imgs"] = data["camera_imgs"][..., :-1]
    with pytest.raises(ConfigError, match="do not tile"):
        module(data)


def test_a_missing_mask_is_named(module):
    data = batch()
    del data["image_patch_mask"]
    with pytest.raises(ConfigError, match="mask_image_patches"):
        module(data)
