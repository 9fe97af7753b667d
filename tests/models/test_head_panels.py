"""Panels of the stock render heads on a made-up sample: arrays, and the numbers in the titles."""

import math

import numpy as np
import pytest
import torch

from nsmae_plugin.models.bev_head import BEVRenderHead
from nsmae_plugin.models.head_panels import DepthView, depth_view
from nsmae_plugin.models.perspective_head import PerspectiveRenderHead

RANGE = [-8.0, -4.0, -5.0, 8.0, 4.0, 3.0]
STRIDE = 8
GREY = 0.5


def camera_sample(cameras: int = 2, rows: int = 8, columns: int = 20) -> dict:
    """Random colours and depths; colours rendered 0.1 too bright, depths 2 m too far."""
    generator = torch.Generator().manual_seed(0)
    grid = (cameras, rows, columns)
    depth = 60 * torch.rand(grid, generator=generator)
    colour = 0.9 * torch.rand((cameras, 3, rows, columns), generator=generator)
    hidden = torch.rand(grid, generator=generator) < 0.5
    pixels = colour.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)
    painted = hidden.repeat_interleave(STRIDE, -1).repeat_interleave(STRIDE, -2)[:, None]
    clean, valid = (pixels - GREY) / 0.25, depth < 50
    return {
        "point_cloud_range": RANGE,
        "camera_names": [f"CAM_{slot}" for slot in range(cameras)],
        "camera_imgs": clean,
        "masked_camera_imgs": torch.where(painted, torch.zeros(()), clean),
        "image_patch_mask": hidden,
        "image_mean": torch.full((3,), GREY),
        "image_std": torch.full((3,), 0.25),
        "target_rgb": colour,
        "target_rgb_mask": torch.ones_like(valid),
        "rendered_rgb": colour + 0.1,
        "target_depth": depth,
        "target_depth_mask": valid,
        "target_depth_hidden": valid & (torch.rand(grid, generator=generator) < 0.9),
        "rendered_depth": depth + 2,
    }


def bev_sample() -> dict:
    """Half a metre too near in two of three cells; the network saw a voxel in one of them."""
    return {
        "point_cloud_range": RANGE,
        "target_bev_depth": torch.tensor([[1.0, 7.0, 9.0]]),
        "target_bev_mask": torch.tensor([[True, True, False]]),
        "target_bev_hidden": torch.tensor([[False, True, False]]),
        "rendered_bev_depth": torch.tensor([[0.5, 6.5, 8.5]]),
    }


def by_title(panels) -> dict:
    return {panel.title.split(":")[0]: panel for panel in panels}


def enlarge(cells: np.ndarray) -> np.ndarray:
    return cells.repeat(STRIDE, 0).repeat(STRIDE, 1)


def test_every_camera_has_a_sheet_of_eight_panels_and_a_row_of_five():
    sample = camera_sample()
    sheets = [panel.sheet for panel in PerspectiveRenderHead.panels(sample)]
    rows = [panel.sheet for panel in PerspectiveRenderHead.overview(sample)]
    assert sheets == ["CAM_0"] * 8 + ["CAM_1"] * 8
    assert rows == ["CAM_0"] * 5 + ["CAM_1"] * 5


def test_images_are_back_in_colours_and_the_masked_one_shows_the_mask():
    sample = camera_sample()
    image, masked, target, *_ = PerspectiveRenderHead.panels(sample)[8:]
    np.testing.assert_allclose(image.values, enlarge(target.values), atol=1e-6)
    hidden = enlarge(sample["image_patch_mask"][1].numpy())
    assert (masked.values[hidden] == GREY).all()
    np.testing.assert_array_equal(masked.values[~hidden], image.values[~hidden])


def test_the_titles_of_a_camera_give_sizes_shares_and_errors():
    sample = camera_sample(cameras=1)
    hidden = 100 * sample["image_patch_mask"].double().mean()
    valid = 100 * sample["target_depth_mask"].double().mean()
    titles = [panel.title for panel in PerspectiveRenderHead.panels(sample)]
    # 0.1 wrong in every channel of every cell is 20 dB.
    assert titles[:6] == [
        "input image (64×160 pixels)",
        f"masked input: {hidden:.0f} % of the cells in hidden patches",
        "target colour (8×20 cells)",
        "rendered: PSNR 20.00 dB hidden, 20.00 dB visible",
        f"target depth: LiDAR in {valid:.0f} % of the cells",
        "rendered: error 2.00 m hidden, 2.00 m visible",
    ]
    assert titles[6].startswith("target cells with a visible LiDAR point: ")


def test_colour_errors_of_hidden_and_visible_patches_are_told_apart():
    sample = camera_sample(cameras=1)
    hidden = sample["image_patch_mask"][:, None]
    sample["rendered_rgb"] = torch.where(hidden, sample["target_rgb"] + 0.1, sample["target_rgb"])
    rendered = PerspectiveRenderHead.panels(sample)[3]
    assert rendered.title == "rendered: PSNR 20.00 dB hidden, inf dB visible"
    sample["image_patch_mask"][:] = False
    assert "PSNR – hidden" in PerspectiveRenderHead.panels(sample)[3].title


def test_the_view_from_above_by_hand():
    sheet, row = (by_title(make(bev_sample())) for make in _BEV)
    assert {panel.sheet for panel in (*sheet.values(), *row.values())} == {"bev"}
    assert {panel.extent for panel in sheet.values()} == {(-8.0, 8.0, -4.0, 4.0)}
    assert sheet["target"].title == "target: LiDAR in 67 % of the cells"
    assert sheet["rendered"].title == "rendered: error 0.50 m hidden, 0.50 m visible"
    seen = sheet["target cells with a visible voxel"]
    assert seen.title.endswith(": 33 % of all cells")
    nan = math.nan
    np.testing.assert_array_equal(seen.values, [[1.0, nan, nan]])
    np.testing.assert_array_equal(sheet["error at the target cells"].values, [[0.5, 0.5, nan]])
    assert [*row] == ["target cells with a visible voxel", "target from above", "rendered"]


_BEV = (BEVRenderHead.panels, BEVRenderHead.overview)


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
    assert view.title() == "rendered: error 1.50 m hidden, 0.50 m visible"


def test_numbers_that_do_not_exist_are_dashes():
    blank = DepthView(np.ones((2, 2)), np.full((2, 2), np.nan), np.ones((2, 2), dtype=bool))
    assert blank.title() == "rendered: error – hidden, – visible"


def test_the_camera_asked_for_is_taken():
    sample = camera_sample()
    sample["rendered_depth"][1] += 1
    errors = [depth_view(sample, "depth", slot).mean_error(hidden=True) for slot in (0, 1)]
    assert errors == [pytest.approx(2, abs=1e-5), pytest.approx(3, abs=1e-5)]
