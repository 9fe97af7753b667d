"""Texts stay inside figures: their extents are those that matplotlib draws."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nsmae_plugin.geometry.boxes import make_boxes
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.box_pictures import draw_bev, draw_cameras
from nsmae_plugin.visualization.colours import BOX_COLOURS, class_colours
from nsmae_plugin.visualization.fitting import fit
from nsmae_plugin.visualization.frame import CameraImage, Frame

CAPTION = (
    "fb0ca208dbe7192648242c50f80ebf05 · bevfusion_det, after 6 epochs, 192 steps · score ≥ 0.1"
)


def extents(figure: Figure) -> dict[str, object]:
    """Boxes in pixels of all titles, labels, headings and legends."""
    figure.draw_without_rendering()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    boxes = {text.get_text(): text.get_window_extent() for text in texts if text.get_text()}
    return boxes | {f"legend {i}": one.get_window_extent() for i, one in enumerate(figure.legends)}


def assert_fits(figure: Figure) -> None:
    """No text leaves the canvas, and no two texts overlap."""
    boxes = extents(figure)
    for text, box in boxes.items():
        assert min(box.x0, box.y0) >= 0, text
        assert (box.max <= figure.bbox.max).all(), text
    for (one, first), (other, second) in combinations(boxes.items(), 2):
        assert not first.overlaps(second), (one, other)


def frame(count: int) -> Frame:
    """Cameras that look along x, and a box of every class ahead."""
    matrix = np.array([[100.0, -100, 0, 0], [50, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    image = Image.new("RGB", (200, 100), "grey")
    names = [f"CAM_NUMBER_{number}_OF_A_LONG_NAME" for number in range(count)]
    images = tuple(CameraImage(name, image, matrix) for name in names)
    values = [[20.0, place - 5, 0, 1, 1, 2, 0, 0, 0] for place in range(len(BOX_COLOURS))]
    found = make_boxes(values, list(BOX_COLOURS), [0.9] * len(values))
    return Frame(images, None, found, found, (-50.0, 50.0, -50.0, 50.0))


@pytest.mark.parametrize("count", [1, 7])
def test_texts_fit_at_any_number_of_cameras(count, tmp_path):
    colours = class_colours(list(BOX_COLOURS))
    figures = {"cameras": draw_cameras(frame(count), colours), "bev": draw_bev(frame(0), colours)}
    panels.save_figures(figures, CAPTION, tmp_path)
    for figure in figures.values():
        assert_fits(figure)


def test_a_heading_breaks_between_words_and_keeps_them_all():
    figure = Figure(figsize=(4, 2), dpi=100, layout="constrained")
    figure.subplots()
    heading = figure.suptitle(CAPTION, fontsize=10)
    fit(figure)
    assert len(heading.get_text().splitlines()) == 2
    assert heading.get_text().split() == CAPTION.split()
    assert_fits(figure)


def test_titles_of_neighbours_do_not_touch():
    figure = Figure(figsize=(6, 2), dpi=100, layout="constrained")
    for axes in figure.subplots(1, 3):
        axes.set_title("rendered: PSNR 28.35 dB hidden, 30.98 dB visible")
    fit(figure)
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_what_fits_stays_as_it_is():
    figure = Figure(figsize=(6, 2), dpi=100, layout="constrained")
    for axes in figure.subplots(1, 2):
        axes.set_title("a short title")
    fit(figure)
    assert [axes.get_title() for axes in figure.axes] == ["a short title"] * 2


def test_a_legend_takes_the_rows_that_it_needs():
    figure = Figure(figsize=(4, 3), dpi=100, layout="constrained")
    axes = figure.subplots()
    lines = [axes.plot([0], label=name)[0] for name in BOX_COLOURS]
    panels.legend_below(figure, lines, columns=len(lines))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= 400
    assert len(legend.get_texts()) == len(BOX_COLOURS)
