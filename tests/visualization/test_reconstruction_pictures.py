"""Pictures from the panels of render heads: sheets, scales, colour bars, files."""

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.errors import DataError
from nsmae_plugin.models.render_head import Panel, RenderHead
from nsmae_plugin.visualization.reconstruction_pictures import (
    camera_names,
    colour_limits,
    draw_overview,
    draw_sheet,
    sample_of,
    save_pictures,
)

HEIGHT, ERROR = "height (m)", "|rendered − target| (m)"
EXTENT = (-8.0, 8.0, -4.0, 4.0)


def numbers(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(1, -1)


def two_sheets() -> list[Panel]:
    """A camera with an image and its height, and the heights and errors of a view from above."""
    nan = float("nan")
    return [
        Panel("CAM_FRONT", "input", np.zeros((2, 4, 3), dtype=np.float32)),
        Panel("CAM_FRONT", "height of the camera", numbers(1, nan), HEIGHT),
        Panel("bev", "target", numbers(2, nan), HEIGHT, extent=EXTENT),
        Panel("bev", "rendered", numbers(5, 3), HEIGHT, extent=EXTENT),
        Panel("bev", "error", numbers(3, nan), ERROR, error=True, extent=EXTENT),
    ]


def sheet(name: str, *groups: list[Panel]):
    return draw_sheet(name, [(group, colour_limits(group)) for group in groups])


def test_a_scale_reaches_from_zero_to_its_largest_number_in_all_sheets():
    assert colour_limits(two_sheets())[HEIGHT, False] == (0.0, 5.0)
    below = [Panel("bev", "", numbers(-2, 1), HEIGHT)]
    assert colour_limits(below)[HEIGHT, False] == (-2.0, 1.0)


def test_a_scale_of_errors_leaves_out_the_worst_two_per_cent():
    panel = Panel("bev", "", numbers(*range(101)), ERROR, error=True)
    assert colour_limits([panel])[ERROR, True] == (0.0, pytest.approx(98.0))


def test_a_scale_without_numbers_has_limits_all_the_same():
    panel = Panel("bev", "", numbers(float("nan")), HEIGHT)
    assert colour_limits([panel])[HEIGHT, False] == (0.0, 1.0)


def test_a_sheet_holds_its_own_panels_and_a_colour_bar_for_every_scale():
    figure = sheet("bev", two_sheets())
    assert [axes.get_title() for axes in figure.axes] == ["target", "rendered", "error", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes[3:]] == [HEIGHT, ERROR]
    scales = [axes.images[0].get_clim() for axes in figure.axes[:2]]
    assert scales == [(0.0, 5.0)] * 2


def test_panels_of_two_heads_share_a_sheet_and_keep_their_own_limits():
    other = [Panel("bev", "of another head", numbers(40), HEIGHT, extent=EXTENT)]
    figure = sheet("bev", two_sheets(), other)
    limits = {axes.get_title(): axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert limits["rendered"] == (0.0, 5.0)
    assert limits["of another head"] == (0.0, 40.0)


def test_cells_without_a_number_stay_blank():
    drawn = sheet("bev", two_sheets()).axes[0].images[0]
    blank = np.array(drawn.get_cmap().get_bad())
    filled, empty = drawn.to_rgba(drawn.get_array())[0]
    np.testing.assert_array_equal(empty, blank)
    assert (filled != blank).any()


def test_a_view_from_above_has_y_up_and_metres_on_its_axes():
    axes = sheet("bev", two_sheets()).axes[0]
    assert axes.images[0].get_extent() == [-8.0, 8.0, -4.0, 4.0]
    assert axes.images[0].origin == "lower"
    assert axes.get_xlabel().endswith("(m)")
    assert axes.get_ylim() == (-4.0, 4.0)


def test_the_overview_has_a_row_per_sheet_named_by_the_camera():
    figure = draw_overview([two_sheets()])
    assert figure.axes[0].get_ylabel() == "CAM_FRONT"
    assert [axes.get_title() for axes in figure.axes if axes.images] == [
        panel.title for panel in two_sheets()
    ]


class OwnHead(RenderHead):
    """A user's own head, of which the package knows nothing."""

    @classmethod
    def panels(cls, sample):
        return [Panel("CAM FRONT", "mine", sample["rendered_mine"].numpy(), HEIGHT)]


def test_a_registered_head_gets_its_pictures(tmp_path):
    host.register("render_head", "PicturedHead", OwnHead)
    prediction = {"render_heads": ["PicturedHead"], "rendered_mine": torch.ones(2, 3)}
    sample = sample_of({}, [prediction], 0, [0.0] * 6)
    paths = save_pictures(sample, "caption", tmp_path / "new")
    assert [path.name for path in paths] == ["CAM_FRONT.png", "overview.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_images_of_the_sample_asked_for_are_handed_to_the_heads():
    batch = {"camera_imgs": torch.zeros(2, 1, 3, 4, 4), "image_paths": [["CAM_A/0.jpg"]] * 2}
    batch |= {"image_mean": torch.zeros(2, 3), "image_std": torch.tensor([[1.0] * 3, [2.0] * 3])}
    predictions = [{"render_heads": ["any"], "rendered_x": index} for index in (0, 1)]
    sample = sample_of(batch, predictions, 1, [0.0] * 6)
    assert sample["rendered_x"] == 1
    assert sample["image_std"].tolist() == [2.0] * 3
    assert sample["camera_names"] == ["CAM_A"]


def test_cameras_are_named_by_folder_or_else_by_number():
    batch = {"camera_imgs": torch.zeros(1, 2, 3, 4, 4)}
    assert camera_names(batch, 0) == ["camera 0", "camera 1"]
    batch["image_paths"] = [["samples/CAM_A/a.jpg", "samples/CAM_B/a.jpg"]]
    assert camera_names(batch, 0) == ["CAM_A", "CAM_B"]
    batch["image_paths"] = [["a.jpg", "b.jpg"]]
    assert camera_names(batch, 0) == ["camera 0", "camera 1"]


def test_nothing_rendered_is_an_error():
    with pytest.raises(DataError, match="rendered nothing"):
        sample_of({}, [{}], 0, [0.0] * 6)
