"""Pictures of a made-up batch: arrays, numbers in the titles, colour scales, files."""

import math

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import DataError
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.reconstruction import (
    draw_bev,
    draw_camera,
    draw_overview,
    error_numbers,
    save_pictures,
)
from nsmae_plugin.visualization.sample import DepthView, extract_sample

RANGE = [-8.0, -4.0, -5.0, 8.0, 4.0, 3.0]
STRIDE = 8


def camera_part(batch: int, cameras: int, height: int, width: int) -> dict:
    """A road under a sky: colours and depths that a reader of the picture can check."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, height // STRIDE)[:, None].expand(-1, width // STRIDE)
    depth = torch.where(rows > 0, 1.6 / rows.clamp(min=0.03), torch.tensor(60.0)).clamp(max=60)
    depth = depth.expand(batch, cameras, -1, -1).clone()
    colour = torch.stack([0.3 + 0.1 * rows, 0.5 - 0.2 * rows, 0.5 - 0.3 * rows])
    colour = colour.expand(batch, cameras, -1, -1, -1).clone()
    mean, std = torch.full((batch, 3), 0.5), torch.full((batch, 3), 0.25)
    pixels = colour.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)
    clean = (pixels - 0.5) / 0.25
    hidden = torch.rand(depth.shape, generator=generator) < 0.5
    painted = hidden.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)[:, :, None]
    valid = depth < 50
    return {
        "camera_imgs": clean,
        "masked_camera_imgs": torch.where(painted, torch.zeros(()), clean),
        "image_patch_mask": hidden,
        "image_mean": mean,
        "image_std": std,
        "image_paths": [[f"samples/CAM_{slot}/a.jpg" for slot in range(cameras)]] * batch,
        "target_rgb": colour,
        "target_rgb_mask": torch.ones_like(valid),
        "rendered_rgb": (colour + 0.1).clamp(0, 1),
        "target_depth": depth,
        "target_depth_mask": valid,
        "target_depth_hidden": valid & (torch.rand(depth.shape, generator=generator) < 0.9),
        "rendered_depth": depth + 2,
        "rendered_opacity": torch.ones_like(depth),
    }


def bev_part(batch: int, height: int, width: int) -> dict:
    generator = torch.Generator().manual_seed(1)
    depth = torch.full((batch, height, width), 7.0)
    depth[:, : height // 4, : width // 2] = 1.0  # something tall at the lower left
    valid = torch.rand(depth.shape, generator=generator) < 0.6
    return {
        "target_bev_depth": depth,
        "target_bev_mask": valid,
        "target_bev_hidden": valid & (torch.rand(depth.shape, generator=generator) < 0.8),
        "rendered_bev_depth": depth - 0.5,
        "rendered_bev_opacity": torch.ones_like(depth),
    }


def made_up_batch(cameras: int = 2, bev: bool = True, size: tuple[int, int] = (64, 160)) -> dict:
    batch = {"batch_size": 2, "metadata": [{"token": "first"}, {"token": "second"}]}
    if cameras:
        batch |= camera_part(2, cameras, *size)
    if bev:
        batch |= bev_part(2, 16, 32)
    return batch


def view_of(batch: dict, index: int):
    """The sample of a batch that holds what a network rendered of it as well."""
    given = ("batch_size", "metadata", "camera_imgs", "image_mean", "image_std", "image_paths")
    rendered = [{k: v[one] for k, v in batch.items() if k not in given} for one in (0, 1)]
    return extract_sample({k: batch[k] for k in given if k in batch}, rendered, index, RANGE)


def test_images_are_back_in_colours_and_the_masked_one_shows_the_mask():
    batch = made_up_batch()
    view = view_of(batch, 1).cameras[0]
    pixels = view.target_rgb.repeat(STRIDE, 0).repeat(STRIDE, 1)
    np.testing.assert_allclose(view.image, pixels, atol=1e-6)
    hidden = view.hidden.repeat(STRIDE, 0).repeat(STRIDE, 1)
    assert (view.masked_image[hidden] == 0.5).all()
    np.testing.assert_array_equal(view.masked_image[~hidden], view.image[~hidden])


def test_the_sample_asked_for_is_drawn():
    batch = made_up_batch()
    batch["rendered_depth"][1] += 1
    samples = [view_of(batch, index) for index in (0, 1)]
    assert [sample.token for sample in samples] == ["first", "second"]
    assert samples[0].cameras[1].depth.mean_error(hidden=True) == pytest.approx(2, abs=1e-5)
    assert samples[1].cameras[1].depth.mean_error(hidden=True) == pytest.approx(3, abs=1e-5)


def test_cameras_are_named_by_folder_or_else_by_number():
    batch = made_up_batch()
    assert [view.name for view in view_of(batch, 0).cameras] == ["CAM_0", "CAM_1"]
    batch["image_paths"] = [["a.jpg", "b.jpg"]] * 2
    names = [view.name for view in view_of(batch, 0).cameras]
    assert names == ["camera 0", "camera 1"]


def test_errors_of_a_depth_view():
    nan = float("nan")
    view = DepthView(
        rendered=np.array([[1.0, 2.0], [3.0, 9.0]], dtype=np.float32),
        target=np.array([[2.0, 2.5], [5.0, nan]], dtype=np.float32),
        hidden=np.array([[True, False], [True, False]]),
    )
    assert view.mean_error(hidden=True) == pytest.approx(1.5)
    assert view.mean_error(hidden=False) == pytest.approx(0.5)
    np.testing.assert_array_equal(view.seen, np.array([[nan, 2.5], [nan, nan]]))
    assert error_numbers(view) == "error 1.50 m hidden, 0.50 m visible"


def test_numbers_that_do_not_exist_are_dashes():
    blank = DepthView(np.ones((2, 2)), np.full((2, 2), np.nan), np.ones((2, 2), dtype=bool))
    assert error_numbers(blank) == "error – hidden, – visible"
    assert panels.error_limits([blank]) == (0.0, 1.0)


def test_camera_sheet_gives_the_colour_error_and_shares_one_depth_scale():
    sample = view_of(made_up_batch(), 0)
    view = sample.cameras[0]
    figure = draw_camera(view, (0.0, 62.0), (0.0, 3.0))
    titles = [axes.get_title() for axes in figure.axes]
    # 0.1 wrong in every channel of every cell is 20 dB.
    assert view.psnr(hidden=True) == pytest.approx(20.0, abs=1e-4)
    assert any("rendered: PSNR 20.00 dB hidden" in title for title in titles)
    assert any("error 2.00 m hidden, 2.00 m visible" in title for title in titles)
    scales = [axes.images[0].get_clim() for axes in figure.axes[4:7]]
    assert scales == [(0.0, 62.0)] * 3
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert any("(m)" in label for label in labels)


def test_colour_errors_of_hidden_and_visible_patches_are_told_apart():
    batch = made_up_batch()
    hidden = batch["image_patch_mask"][:, :, None]
    batch["rendered_rgb"] = torch.where(hidden, batch["target_rgb"] + 0.1, batch["target_rgb"])
    view = view_of(batch, 0).cameras[0]
    assert view.psnr(hidden=True) == pytest.approx(20.0, abs=1e-4)
    assert view.psnr(hidden=False) == math.inf


def test_cells_without_target_stay_blank():
    view = view_of(made_up_batch(), 0).cameras[0]
    drawn = draw_camera(view, (0.0, 62.0), (0.0, 3.0)).axes[4].images[0]
    blank = np.array(drawn.get_cmap().get_bad())
    colours = drawn.to_rgba(drawn.get_array())
    assert (colours[~view.depth.valid] == blank).all()
    assert (colours[view.depth.valid] != blank).any(-1).all()


def test_view_from_above_has_y_up_and_metres_on_its_axes():
    sample = view_of(made_up_batch(), 0)
    target = draw_bev(sample.bev, sample.bev_extent).axes[0]
    assert target.images[0].get_extent() == [-8.0, 8.0, -4.0, 4.0]
    assert target.images[0].origin == "lower"
    assert target.get_xlabel().endswith("(m)")
    assert target.get_ylim() == (-4.0, 4.0)


@pytest.mark.parametrize(
    ("cameras", "bev", "expected"),
    [
        (2, True, ["CAM_0.png", "CAM_1.png", "bev.png", "overview.png"]),
        (1, False, ["CAM_0.png", "overview.png"]),
        (0, True, ["bev.png", "overview.png"]),
    ],
)
def test_files_of_every_modality(tmp_path, cameras, bev, expected):
    sample = view_of(made_up_batch(cameras, bev), 0)
    files = save_pictures(sample, "made up", tmp_path / "new")
    assert [file.name for file in files] == expected
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_cameras_without_any_lidar_are_drawn_without_numbers(tmp_path):
    batch = made_up_batch(cameras=1, bev=False)
    for key in ("target_depth", "target_depth_mask", "target_depth_hidden"):
        del batch[key]
    sample = view_of(batch, 0)
    assert math.isnan(sample.cameras[0].depth.mean_error(hidden=True))
    assert save_pictures(sample, "made up", tmp_path)


def test_seven_cameras_fit_the_overview():
    sample = view_of(made_up_batch(cameras=7), 0)
    figure = draw_overview(sample, (0.0, 62.0))
    assert sum(axes.get_title() == "target depth" for axes in figure.axes) == 7


def test_nothing_rendered_is_an_error():
    with pytest.raises(DataError, match="rendered nothing"):
        extract_sample({"metadata": [{"token": "a"}]}, [{}], 0, RANGE)
