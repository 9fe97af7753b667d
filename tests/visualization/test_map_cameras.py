"""The map on the ground of images: geometry against projection, and against what images show."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation

from nsmae_plugin.formats.image_files import load_image
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.formats.maps.map_labels import MapLabels
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.boxes import Boxes, make_boxes
from nsmae_plugin.geometry.calibration import camera_matrices
from nsmae_plugin.visualization.box_lines import project
from nsmae_plugin.visualization.frame import CameraImage, Frame
from nsmae_plugin.visualization.map_cameras import (
    LIDAR_HEIGHT,
    draw_map_cameras,
    ground_cells,
    ground_plane,
    overlay,
)

GRID = BEVGrid((-30.0, 30.0, 0.5), (-20.0, 20.0, 0.5))
# Looks along the LiDAR's y, from 0.3 m below it; 160 x 90 pixels.
AHEAD = np.array([[100.0, 80, 0, 0], [0, 45, -100, -30], [0, 1, 0, 0], [0, 0, 0, 1]])
GROUND = np.array([0.02, -0.01, -1.84])  # the LiDAR is mounted at a slant
FIRST = np.eye(4)


def camera(size=(160, 90)) -> CameraImage:
    return CameraImage("CAM_FRONT", Image.new("RGB", size, "grey"), AHEAD)


def projected(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 2) and depths (n,) of places (n, 2) on the ground."""
    height = places @ GROUND[:2] + GROUND[2]
    points = np.column_stack([places, height, np.ones(len(places))]) @ AHEAD.T
    return points[:, :2] / points[:, 2:3], points[:, 2]


def test_a_pixel_sees_the_cell_that_is_projected_to_it():
    """Every cell before the camera, wherever its pixel lies, also beyond the image."""
    centres = GRID.centres().reshape(-1, 2)
    pixels, depth = projected(centres)
    ahead = depth > 0.1
    seen, rows, columns = ground_cells(GRID, GROUND, AHEAD, pixels[ahead])
    assert seen.all()
    expected = np.argwhere(np.ones(GRID.shape))[ahead]
    np.testing.assert_array_equal(np.column_stack([rows, columns]), expected)


def test_cells_behind_the_camera_are_not_seen_where_they_would_be_mirrored():
    pixels, depth = projected(GRID.centres().reshape(-1, 2))
    seen, *_ = ground_cells(GRID, GROUND, AHEAD, pixels[depth < -0.1])
    assert not seen.any()


def test_the_sky_and_what_lies_beyond_the_map_see_nothing():
    # Rows of the ground 19.9 and 20.1 m ahead, where the map ends, and the sky.
    pixels, _ = projected(np.array([[0.0, 19.9], [0.0, 20.1]]))
    seen, *_ = ground_cells(GRID, GROUND, AHEAD, np.vstack([pixels, [[80.0, 10.0]]]))
    assert seen.tolist() == [True, False, False]


def test_the_ground_is_where_the_wheels_stand():
    lidar_from_car = np.eye(4)
    lidar_from_car[:3, :3] = Rotation.from_euler("zyx", [90, 2, -1], degrees=True).as_matrix()
    lidar_from_car[:3, 3] = [0.1, -0.9, -1.8]
    a, b, c = ground_plane({"ref_from_car": lidar_from_car})
    for place in ([0.0, 0, 0, 1], [10, 3, 0, 1], [-7, 20, 0, 1]):
        x, y, z, _ = lidar_from_car @ place
        assert a * x + b * y + c == pytest.approx(z, abs=1e-12)


@pytest.mark.parametrize("info", [{}, {"ref_from_car": np.eye(4)}])
def test_without_a_vehicle_the_lidar_stands_as_high_as_that_of_nuscenes(info):
    np.testing.assert_array_equal(ground_plane(info), [0, 0, -LIDAR_HEIGHT])


def test_the_overlay_is_the_same_at_any_size():
    """A pixel of the small picture is the middle one of three by three of the large one."""
    picture = np.random.default_rng(0).random((*GRID.shape, 4)).astype(np.float32)
    small = overlay(picture, GRID, GROUND, camera(), 160)
    large = overlay(picture, GRID, GROUND, camera(), 480)
    assert (small.shape, large.shape) == ((90, 160, 4), (270, 480, 4))
    assert (small[..., 3] > 0).any()
    np.testing.assert_array_equal(small, large[1::3, 1::3])


def test_prediction_or_vector_map_is_laid_upon_the_images():
    probabilities = np.zeros((1, *GRID.shape), dtype=np.float32)
    labels = np.zeros_like(probabilities, dtype=bool)
    probabilities[0, :, :60], labels[0, :, 60:] = 1, True  # left, right
    view = BEVMap(("walkway",), GRID, probabilities, labels, 0.5)
    frame = Frame((camera(),), None, make_boxes([], [], []), None, (-1.0, 1.0, -1.0, 1.0))
    for which, side in ((False, slice(None, 320)), (True, slice(320, None))):
        (axes,) = draw_map_cameras(frame, view, GROUND, labels=which).axes
        covered = axes.images[1].get_array()[..., 3]
        assert covered[:, side].any()
        assert covered[:, side].sum() == covered.sum()
        assert covered.max() == 0.5


def yellow_places(grid: BEVGrid, root, info, name) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the ground where a camera sees the yellow paint between the directions."""
    camera = info["cams"][name]
    image = np.asarray(load_image(root / camera["data_path"], info["token"]), dtype=float)
    red, green, blue = np.moveaxis(image, -1, 0)
    yellow = (red > 1.2 * blue + 40) & (green > 1.1 * blue + 20) & (red < 1.6 * green)
    matrix = camera_matrices(camera)["lidar2image"]
    yellow &= ~covered(make_boxes(info["gt_boxes"], info["gt_names"]), matrix, yellow.shape)
    u, v = (np.arange(size) + 0.5 for size in image.shape[1::-1])
    pixels = np.stack(np.meshgrid(u, v), axis=-1)[yellow]
    _, rows, columns = ground_cells(grid, ground_plane(info), matrix, pixels)
    return rows, columns


def covered(boxes: Boxes, lidar2image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels around the objects: there are yellow vehicles."""
    result = np.zeros(shape, dtype=bool)
    lines, owners = project(boxes, lidar2image, shape[::-1])
    for owner in np.unique(owners):
        ends = lines[owners == owner].reshape(-1, 2)
        (left, top), (right, bottom) = np.floor(ends.min(axis=0)), np.ceil(ends.max(axis=0))
        result[int(top) : int(bottom), int(left) : int(right)] = True
    return result


def test_labels_lie_where_the_cameras_see_the_paint(synthetic_root):
    """Yellow paint of the images within 0.75 m of the road dividers of the map lies within 0.3 m of
    them, and no longer when the map is moved by 0.6 m to either side.

    The rest is due to the pixels: up to 0.15 m wide on the ground.
    """
    root = synthetic_root / "v1.0-mini"
    infos = read_infos(root / "nuscenes_infos_3sweeps_train.pkl")
    bounds = {"XBOUND": [-12.0, 12.0, 0.1], "YBOUND": [-12.0, 12.0, 0.1]}
    config = {"CLASSES": ["road_divider"], **bounds, "LINE_WIDTH": 0.6}
    labels = MapLabels(config, infos, root, "v1.0-mini")
    shares = {shift: [] for shift in (-6, 0, 6)}
    for info in infos:
        (band,) = labels.masks(info, FIRST)
        near = binary_dilation(band, iterations=5)
        for name in ("CAM_FRONT", "CAM_BACK"):
            rows, columns = yellow_places(labels.grid, root, info, name)
            kept = near[rows, columns]
            for shift, hits in shares.items():
                moved = np.roll(band, shift, axis=1)  # the roads run along y here
                hits.append(moved[rows[kept], columns[kept]])
    inside = {shift: np.concatenate(hits).mean() for shift, hits in shares.items()}
    assert len(np.concatenate(shares[0])) > 200
    assert inside[0] > 0.85
    assert max(inside[-6], inside[6]) < 0.2
