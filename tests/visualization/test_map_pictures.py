"""Pictures of made-up maps: colours, errors, panels."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.boxes import make_boxes
from nsmae_plugin.visualization.colours import MAP_COLOURS, map_colours
from nsmae_plugin.visualization.frame import CAMERA_ORDER, CameraImage, Frame
from nsmae_plugin.visualization.map_pictures import (
    compare,
    draw_map,
    paint,
)

GRID = BEVGrid((-20.0, 20.0, 1.0), (-10.0, 10.0, 1.0))
CLASSES = ("stop_line", "drivable_area", "walkway")


def a_map(labels: bool = True) -> BEVMap:
    """The road ahead; the walkway on its left is missed for the most part."""
    probabilities = np.zeros((3, *GRID.shape), dtype=np.float32)
    probabilities[1, :, 15:25] = 0.8
    probabilities[2, :5, 10:15] = 0.7
    truth = probabilities > 0.5
    truth[2, :, 10:15] = True
    return BEVMap(CLASSES, GRID, probabilities, truth if labels else None, 0.5)


def frame(names=("CAM_FRONT",), boxes=()) -> Frame:
    images = [CameraImage(name, Image.new("RGB", (160, 90), "grey"), np.eye(4)) for name in names]
    found = make_boxes(list(boxes), ["car"] * len(boxes), [0.9] * len(boxes))
    return Frame(tuple(images), None, found, None, (-50.0, 50.0, -50.0, 50.0))


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_what_lies_upon_something_is_painted_over_it():
    masks = np.zeros((3, 1, 4), dtype=bool)
    masks[1, 0, :3] = masks[2, 0, 1] = masks[0, 0, 2] = True
    picture = paint(masks, CLASSES, alpha=0.5)
    names = ["drivable_area", "walkway", "stop_line"]
    assert [to_hex(colour) for colour in picture[0, :3, :3]] == [MAP_COLOURS[one] for one in names]
    assert picture[0, :, 3].tolist() == [0.5, 0.5, 0.5, 0]


def test_found_missed_and_invented_cells_by_hand():
    mask, label = np.array([[1, 0, 1, 0]], dtype=bool), np.array([[1, 1, 0, 0]], dtype=bool)
    picture = compare(mask, label, to_rgb("red"))
    np.testing.assert_allclose(
        picture[0], [[1, 0, 0, 1], [0, 0, 0, 1], [0.62, 0.62, 0.62, 1], [0, 0, 0, 0]], atol=1e-7
    )


def test_prediction_vector_map_and_every_class_are_shown():
    figure = draw_map(frame(), a_map())
    assert titles(figure) == [
        "CAM_FRONT",
        "predicted: mean IoU 62.5 %, of this sample alone",  # of 100 % and 25 %
        "vector map",
        "stop_line: IoU –",
        "drivable_area: IoU 100.0 %",
        "walkway: IoU 25.0 %",
    ]
    _, predicted, truth, *parts = figure.axes
    view = a_map()
    np.testing.assert_array_equal(predicted.images[0].get_array(), paint(view.masks, CLASSES))
    np.testing.assert_array_equal(truth.images[0].get_array(), paint(view.labels, CLASSES))
    walkway = compare(view.masks[2], view.labels[2], map_colours(CLASSES)["walkway"])
    np.testing.assert_array_equal(parts[2].images[0].get_array(), walkway)


def test_maps_are_in_metres_of_the_lidar_frame_with_the_lowest_row_below():
    for axes in draw_map(frame(), a_map()).axes[1:]:
        assert axes.images[0].get_extent() == [-20, 20, -10, 10]
        assert axes.images[0].origin == "lower"
        assert axes.get_xlim() == (-20, 20)
        assert axes.get_ylim() == (-10, 10)
    assert draw_map(frame(), a_map()).axes[1].get_xlabel() == "x, LiDAR frame (m)"


def test_without_a_vector_map_there_is_nothing_to_compare_with():
    figure = draw_map(frame(), a_map(labels=False))
    assert titles(figure) == ["CAM_FRONT", "predicted", *CLASSES]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == list(CLASSES)


def test_the_legend_names_every_class_and_both_errors():
    shown = [text.get_text() for text in draw_map(frame(), a_map()).legends[0].get_texts()]
    assert shown == [*CLASSES, "one class: missed", "one class: predicted, but not there"]


def test_boxes_are_outlined_on_the_prediction_and_do_not_widen_it():
    boxes = [[0.0, 0, 0, 4, 2, 2, 0], [90.0, 0, 0, 4, 2, 2, 0]]
    _, predicted, truth, *_ = draw_map(frame(boxes=boxes), a_map()).axes
    assert len(predicted.collections[0].get_segments()) == 10  # four sides and the heading, each
    assert not truth.collections
    assert predicted.get_xlim() == (-20, 20)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_any_number_of_cameras_is_drawn_as_they_stand(count, tmp_path):
    names = [*CAMERA_ORDER, "CAM_X"][:count]
    figure = draw_map(frame(names[::-1]), a_map())
    assert titles(figure)[:count] == names
    figure.savefig(tmp_path / "map.png")
