"""The map laid upon the ground in the images of the cameras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.geometry.map_grid import MapGrid
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.detection import (
    PANEL_WIDTH,
    Photograph,
    Scenery,
    camera_figure,
)
from nsmae_plugin.visualization.maps import class_patches, paint

ALPHA = 0.5
LIDAR_HEIGHT = 1.84  # metres above the road, where the vehicle's frame is not known; nuScenes'


def ground_plane(info: Mapping[str, Any]) -> np.ndarray:
    """(3,) a, b, c of the ground ``z = a x + b y + c`` in the LiDAR frame, metres.

    It is the plane z = 0 of the vehicle's frame, on which its wheels stand; slopes and kerbs
    beyond are not known.

    Args:
        info: entry of an info file; of a folder of one's own, where no vehicle is known (its frame
            is the LiDAR's), the ground is nuScenes' ``LIDAR_HEIGHT`` below.
    """
    lidar_from_car = np.asarray(info.get("ref_from_car", np.eye(4)), dtype=np.float64)
    normal, origin = lidar_from_car[:3, 2], lidar_from_car[:3, 3]
    if np.array_equal(lidar_from_car, np.eye(4)):
        return np.array([0.0, 0.0, -LIDAR_HEIGHT])
    return np.array([-normal[0], -normal[1], normal @ origin]) / normal[2]


def ground_cells(
    grid: MapGrid, ground: np.ndarray, lidar2image: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cell that each pixel sees when nothing stands on the ground.

    Args:
        ground: (3,), see :func:`ground_plane`.
        lidar2image: (4, 4), LiDAR point → (u * depth, v * depth, depth).
        pixels: (..., 2) u, v.

    Returns:
        (...) whether the ray meets the ground, before the camera and on the grid; and there
        row and column of the cell, (k,) each.
    """
    # (x, y, 1) of the ground → pixel * depth; its inverse gives (x, y, 1) / depth.
    matrix = np.asarray(lidar2image, dtype=np.float64)[:3]
    homography = matrix @ np.array([[1.0, 0, 0], [0, 1, 0], ground, [0, 0, 1]])
    ones = np.ones((*pixels.shape[:-1], 1))
    places = np.concatenate([pixels, ones], axis=-1) @ np.linalg.inv(homography).T
    seen = places[..., 2] > 0
    metres = places[..., :2] / np.where(seen, places[..., 2], 1.0)[..., None]
    columns, rows = (
        np.floor((metres[..., axis] - low) / step)
        for axis, (low, _, step) in enumerate((grid.x_bound, grid.y_bound))
    )
    seen &= (columns >= 0) & (columns < grid.shape[1]) & (rows >= 0) & (rows < grid.shape[0])
    return seen, rows[seen].astype(int), columns[seen].astype(int)


def overlay(
    picture: np.ndarray, grid: MapGrid, ground: np.ndarray, photograph: Photograph, width: int
) -> np.ndarray:
    """A picture of the ground as a camera sees it.

    Args:
        picture: (Y, X, 4) colours and opacity on the grid.
        width: of the result in pixels, for an image of any size.

    Returns:
        (height, width, 4), transparent where the camera does not see the grid.
    """
    scale = photograph.image.width / width
    height = round(photograph.image.height / scale)
    u, v = (np.arange(width) + 0.5) * scale, (np.arange(height) + 0.5) * scale
    pixels = np.stack(np.meshgrid(u, v), axis=-1)
    result = np.zeros((height, width, 4), dtype=np.float32)
    seen, rows, columns = ground_cells(grid, ground, photograph.lidar2image, pixels)
    result[seen] = picture[rows, columns]
    return result


def draw_map_cameras(
    scenery: Scenery, view: BEVMap, ground: np.ndarray, labels: bool = False
) -> Figure:
    """All cameras, up to three in a row, with the predicted map half-transparent on the ground.

    Args:
        ground: (3,), see :func:`ground_plane`.
        labels: lay the vector map there instead; ``view`` must have it.
    """
    masks = view.labels if labels else view.masks
    assert masks is not None
    picture = paint(masks, view.classes, ALPHA)

    def draw(axes: Axes, photograph: Photograph) -> None:
        size = photograph.image.size
        axes.imshow(
            overlay(picture, view.grid, ground, photograph, PANEL_WIDTH),
            extent=(0, size[0], size[1], 0),
            interpolation="nearest",
        )

    figure = camera_figure(scenery.photographs, draw)
    columns = max(3, round(figure.get_figwidth() / 1.8))
    panels.legend_below(figure, class_patches(view.classes), columns)
    return figure
