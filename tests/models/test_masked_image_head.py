"""Masked images: loss, scores and panels on images of a few pixels, by hand."""

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.masked_image_head import MaskedImageHead
from nsmae_plugin.models.render_head import Encoders
from tests.helpers.heads import GRID, RANGE

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])


def make_head(channels=4, stride=2):
    torch.manual_seed(0)
    encoders = Encoders(None, {}, GRID, RANGE, image_map=(channels, stride))
    return MaskedImageHead(EasyDict(NAME="MaskedImageHead"), encoders)


def make_sample(error_hidden=0.0, error_visible=0.0):
    """A camera of 4 x 8 pixels in cells of 2 x 2; patches of 4 x 4, the left one hidden."""
    target = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    error = torch.full((4, 8), error_visible)
    error[:, :4] = error_hidden
    return {
        "rendered_image": target + error,
        "target_image": target,
        "target_image_mask": torch.ones(1, 2, 4, dtype=torch.bool),
        "image_patch_mask": torch.tensor([[[True, False]]]),
    }


def score(*samples):
    totals = MaskedImageHead.totals()
    for sample in samples:
        for name, record in MaskedImageHead.record(sample).items():
            totals[name].add(record)
    return {key: value for one in totals.values() for key, value in one.metrics().items()}


def test_the_loss_is_the_mean_absolute_error_of_hidden_pixels():
    # Half of the hidden pixels are 0.2 off in red and 0.4 in blue.
    sample = make_sample(error_visible=5.0)
    sample["rendered_image"][0, 0, :2, :4] += 0.2
    sample["rendered_image"][0, 2, :2, :4] -= 0.4
    loss = make_head().losses(sample)["masked_image"]
    assert loss.item() == pytest.approx((0.2 + 0.4) / 3 / 2, rel=1e-5)


def test_pixels_without_an_image_do_not_count():
    sample = make_sample(error_hidden=0.1)
    sample["rendered_image"][..., :2] += 7.0  # where a turned image leaves a black corner
    sample["target_image_mask"][..., 0] = False
    assert make_head().losses(sample)["masked_image"].item() == pytest.approx(0.1, rel=1e-5)
    assert MaskedImageHead.cells(sample)["masked_image"].sum() == 8
    assert score(sample)["image_psnr_masked"] == pytest.approx(20.0, abs=1e-4)


def test_nothing_hidden_is_a_loss_of_zero_with_a_gradient_of_zero():
    sample = make_sample(error_visible=1.0)
    sample["image_patch_mask"][:] = False
    sample["rendered_image"].requires_grad_()
    loss = make_head().losses(sample)["masked_image"]
    loss.backward()
    assert loss.item() == 0
    assert not sample["rendered_image"].grad.any()


def test_each_feature_predicts_its_own_pixels_in_the_colours_of_the_image():
    head = make_head()
    features = torch.randn(2, 4, 2, 4, generator=torch.Generator().manual_seed(2))
    batch = {"batch_size": 1, "image_fpn": [features], "image_mean": MEAN[None]}
    batch["image_std"] = STD[None]
    image = head(dict(batch))["rendered_image"]
    assert image.shape == (1, 2, 3, 4, 8)  # two cameras
    # Pixel (1, 0) below feature (1, 2): rows of the convolution are colour, row, column.
    weight, bias = head.to_pixels.weight[:, :, 0, 0], head.to_pixels.bias
    raw = (weight @ features[1, :, 1, 2] + bias).unflatten(0, (3, 2, 2))[:, 1, 0]
    torch.testing.assert_close(image[0, 1, :, 3, 4], raw * STD + MEAN)


def test_the_targets_are_the_clean_pixels_in_zero_to_one():
    image = torch.rand(1, 1, 3, 4, 8)
    batch = {
        "camera_imgs": (image - MEAN[:, None, None]) / STD[:, None, None],
        "image_mean": MEAN[None],
        "image_std": STD[None],
        "img_aug_matrix": torch.eye(4).expand(1, 1, 4, 4),
        # Of the network's input, the image fills all but the two rightmost columns.
        "image_bounds": torch.tensor([[[0.0, 0.0, 6.0, 4.0]]]),
    }
    target = make_head().targets(batch)
    torch.testing.assert_close(target["target_image"], image)
    assert target["target_image_mask"].tolist() == [[[[True, True, True, False]] * 2]]
    with pytest.raises(ConfigError, match=r"predicts 3 x 3 pixels .* \[4, 8\] must be multiples"):
        make_head(stride=3).targets(batch)


def test_scores_of_a_perfect_and_of_the_mean_prediction():
    perfect, samples = score(make_sample()), [make_sample(0.1, 0.2) for _ in range(2)]
    assert perfect["image_psnr_masked"] == perfect["image_cell_psnr_visible"] == float("inf")
    found = score(*samples)
    # 0.1 wrong everywhere is 20 dB, of pixels as of the means of cells; 0.2 is 6 dB worse.
    for name in ("image", "image_cell"):
        assert found[f"{name}_psnr_masked"] == pytest.approx(20.0, abs=1e-4)
        assert found[f"{name}_psnr_visible"] == pytest.approx(13.979, abs=1e-3)
    for sample in samples:
        mean = sample["target_image"].mean((-1, -2), keepdim=True)
        sample["rendered_image"] = mean.expand_as(sample["target_image"])
    found = score(*samples)
    for name in ("image_mse", "image_psnr_masked", "image_cell_mse", "image_cell_psnr_masked"):
        assert found[name] == pytest.approx(found[f"baseline_mean_{name}"], rel=1e-6), name


def test_cell_means_forgive_what_averages_out():
    # Pixels beside each other 0.3 too bright and too dark: the perspective view would not see it.
    sample = make_sample()
    sample["rendered_image"] += torch.tensor([0.3, -0.3]).repeat(4)
    found = score(sample)
    assert found["image_mse"] == pytest.approx(0.09, rel=1e-4)
    assert found["image_cell_mse"] == pytest.approx(0.0, abs=1e-10)


def test_panels_show_the_masked_image_the_prediction_and_the_target():
    sample = make_sample(0.1, 0.2) | {"camera_names": ["CAM"], "image_mean": MEAN}
    target = sample["target_image"] = sample["target_image"] * 0.8
    sample["rendered_image"] = target + 0.1
    sample |= {"image_std": STD, "masked_camera_imgs": torch.zeros(1, 3, 4, 8)}
    masked, predicted, filled_in, shown = MaskedImageHead.panels(sample)
    assert {one.sheet for one in (masked, predicted, filled_in, shown)} == {"CAM"}
    assert masked.title == "masked input: 50 % of the pixels hidden"
    assert (masked.values == MEAN.numpy()).all()
    assert predicted.title == "predicted: PSNR 20.00 dB hidden, 20.00 dB visible"
    assert (filled_in.values[:, :4] == predicted.values[:, :4]).all()
    assert (filled_in.values[:, 4:] == shown.values[:, 4:]).all()


def test_an_unknown_neck_is_refused():
    with pytest.raises(ConfigError, match=r"MaskedImageHead needs .* MODEL\.NECK\.NAME to Gener"):
        MaskedImageHead(EasyDict(NAME="MaskedImageHead"), Encoders(None, {}, GRID, RANGE))
