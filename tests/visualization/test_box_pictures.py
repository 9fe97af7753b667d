"""Pictures of made-up detections: counts, styles, order of the cameras, films."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.quiver import Quiver
from PIL import Image

from nsmae_plugin.geometry.boxes import make_boxes
from nsmae_plugin.visualization.box_pictures import draw_bev, draw_cameras, save_pictures
from nsmae_plugin.visualization.colours import class_colours
from nsmae_plugin.visualization.film import film_frame, save_film
from nsmae_plugin.visualization.frame import CAMERA_ORDER, CameraImage, Frame

CLASSES = ["car", "pedestrian", "tram"]
COLOURS = class_colours(CLASSES)
CAR, WALKER = [20.0, 0, 0, 4, 2, 2, 0, 5, 0], [12.0, 3, 0, 1, 1, 2, 1, np.nan, np.nan]
BEHIND = [-20.0, 0, 0, 4, 2, 2, 0, 0.1, 0]


def camera(name: str) -> CameraImage:
    """Looks along the LiDAR's x."""
    matrix = np.array([[100.0, -100, 0, 0], [50, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    return CameraImage(name, Image.new("RGB", (200, 100), "grey"), matrix)


def frame(names=("CAM_FRONT",), truth=True, points=True) -> Frame:
    return Frame(
        images=tuple(camera(name) for name in names),
        points=np.random.default_rng(0).normal(size=(50, 4)) if points else None,
        predicted=make_boxes([CAR, WALKER, BEHIND], ["car", "pedestrian", "car"], [0.9, 0.8, 0.7]),
        truth=make_boxes([CAR], ["car"]) if truth else None,
        extent=(-50.0, 50.0, -25.0, 25.0),
    )


def collections(axes) -> list[LineCollection]:
    return [one for one in axes.collections if isinstance(one, LineCollection)]


def test_a_camera_counts_the_boxes_that_it_sees():
    (axes,) = draw_cameras(frame(), COLOURS).axes
    assert axes.get_title() == "CAM_FRONT: 2 predicted, 1 annotated"
    (axes,) = draw_cameras(frame(truth=False), COLOURS).axes
    assert axes.get_title() == "CAM_FRONT: 2 predicted"


def test_the_picture_keeps_to_the_pixels_of_the_file():
    (axes,) = draw_cameras(frame(), COLOURS).axes
    assert axes.get_xlim() == (0, 200)
    assert axes.get_ylim() == (100, 0)
    assert axes.images[0].get_extent() == [0, 200, 100, 0]


def test_annotations_are_dashed_and_lie_below_the_predictions():
    axes = draw_bev(frame(), COLOURS).axes[0]
    truth, predicted = collections(axes)
    assert truth.get_linestyle()[0][1] is not None
    assert predicted.get_linestyle()[0][1] is None
    assert len(predicted.get_segments()) == 3 * len(truth.get_segments()) == 15


def test_boxes_have_the_colours_of_their_classes():
    _, predicted = collections(draw_bev(frame(), COLOURS).axes[0])
    colours = [tuple(colour[:3]) for colour in predicted.get_colors()]
    assert colours == [COLOURS["car"]] * 5 + [COLOURS["pedestrian"]] * 5 + [COLOURS["car"]] * 5


def test_arrows_are_a_second_of_travel_of_what_moves():
    axes = draw_bev(frame(), COLOURS).axes[0]
    (arrows,) = [one for one in axes.collections if isinstance(one, Quiver)]
    np.testing.assert_array_equal(arrows.get_offsets(), [CAR[:2]])
    assert (arrows.U.tolist(), arrows.V.tolist(), arrows.scale) == ([5.0], [0.0], 1)


def test_the_view_from_above_is_in_metres_of_the_lidar_frame():
    axes = draw_bev(frame(), COLOURS).axes[0]
    assert axes.get_xlim() == (-50, 50)
    assert axes.get_ylim() == (-25, 25)
    assert axes.get_xlabel() == "x, LiDAR frame (m)"
    points = axes.lines[0].get_xydata()
    np.testing.assert_array_equal(points, frame().points[:, :2])


def test_the_legend_names_what_occurs_and_both_styles():
    figure = draw_bev(frame(), COLOURS)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["car", "pedestrian", "predicted", "annotated"]


def test_cameras_stand_as_around_the_vehicle_and_strangers_follow():
    names = ["CAM_X", *reversed(CAMERA_ORDER), "CAM_A"]
    titles = [axes.get_title().split(":")[0] for axes in draw_cameras(frame(names), COLOURS).axes]
    assert titles == [*CAMERA_ORDER, "CAM_X", "CAM_A"]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
def test_any_number_of_cameras_is_drawn(count, tmp_path):
    names = [f"camera {number}" for number in range(count)]
    paths = save_pictures(frame(names), COLOURS, "caption", tmp_path)
    assert [path.name for path in paths] == ["cameras.png", "bev.png"][0 if count else 1 :]
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_nothing_found_and_no_lidar_is_a_picture_too(tmp_path):
    nothing = make_boxes([], [], [])
    empty = Frame((camera("CAM_FRONT"),), None, nothing, None, (-10.0, 10.0, -10.0, 10.0))
    assert len(save_pictures(empty, COLOURS, "caption", tmp_path)) == 2


def test_a_film_shows_each_frame_for_its_time(tmp_path):
    for name, size in (("wide", (900, 300)), ("square", (400, 400))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    both = film_frame([tmp_path / "wide.png", tmp_path / "square.png"])
    assert both.size == (1200, 300)  # side by side, no larger than the first
    one = film_frame([tmp_path / "square.png"])
    path = save_film([both, one, both], 0.25, tmp_path / "film.gif")
    with Image.open(path) as film:
        assert film.size == (1200, 400)
        assert film.n_frames == 3
        assert film.info["duration"] == 250
        assert film.info["loop"] == 0
