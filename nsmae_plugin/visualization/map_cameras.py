"""A map projected onto the ground in the camera images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.frame import PANEL_WIDTH, CameraImage, Frame, camera_figure
from nsmae_plugin.visualization.map_pictures import class_patches, paint

ALPHA = 0.5
LIDAR_HEIGHT = 1.84  # metres above the road, as in nuScenes; where the vehicle frame is unknown


def ground_plane(info: Mapping[str, Any]) -> np.ndarray:
    """(3,) a, b, c of the ground plane ``z = a x + b y + c`` in the LiDAR frame, metres.

    It is the plane z = 0 of the vehicle frame, on which the wheels stand. Slopes and kerbs are not
    modelled.

    Args:
        info: entry of an info file. Without a vehicle frame (as in a frame folder) the ground lies
            ``LIDAR_HEIGHT`` below the LiDAR.
    """
    lidar_from_car = np.asarray(info.get("ref_from_car", np.eye(4)), dtype=np.float64)
    normal, origin = lidar_from_car[:3, 2], lidar_from_car[:3, 3]
    if np.array_equal(lidar_from_car, np.eye(4)):
        return np.array([0.0, 0.0, -LIDAR_HEIGHT])
    return np.array([-normal[0], -normal[1], normal @ origin]) / normal[2]


def ground_cells(
    grid: BEVGrid, ground: np.ndarray, lidar2image: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map cells seen at pixels, if nothing stands on the ground.

    Args:
        ground: (3,), see :func:`ground_plane`.
        lidar2image: (4, 4), LiDAR point → (u * depth, v * depth, depth).
        pixels: (..., 2) u, v.

    Returns:
        seen (...) bool: the ray meets the ground in front of the camera and within the grid; and
        for those pixels row and column of the cell, (k,) each.
    """
    # (x, y, 1) of the ground → pixel * depth; its inverse gives (x, y, 1) / depth.
    matrix = np.asarray(lidar2image, dtype=np.float64)[:3]
    homography = matrix @ np.array([[1.0, 0, 0], [0, 1, 0], ground, [0, 0, 1]])
    ones = np.ones((*pixels.shape[:-1], 1))
    ground_points = np.concatenate([pixels, ones], axis=-1) @ np.linalg.inv(homography).T
    seen = ground_points[..., 2] > 0
    metres = ground_points[..., :2] / np.where(seen, ground_points[..., 2], 1.0)[..., None]
    cells, inside = (one.numpy() for one in grid.voxels(torch.from_numpy(metres[seen])))
    seen[seen] = inside
    columns, rows = cells[inside].T
    return seen, rows, columns


def overlay(
    picture: np.ndarray, grid: BEVGrid, ground: np.ndarray, camera: CameraImage, width: int
) -> np.ndarray:
    """Warp a picture of the ground into a camera image.

    Args:
        picture: (Y, X, 4) colours and opacity on the grid.
        ground: (3,), see :func:`ground_plane`.
        width: width of the result in pixels; its height follows from the image.

    Returns:
        (height, width, 4), transparent where the camera does not see the grid.
    """
    scale = camera.image.width / width
    height = round(camera.image.height / scale)
    u, v = (np.arange(width) + 0.5) * scale, (np.arange(height) + 0.5) * scale
    pixels = np.stack(np.meshgrid(u, v), axis=-1)
    result = np.zeros((height, width, 4), dtype=np.float32)
    seen, rows, columns = ground_cells(grid, ground, camera.lidar2image, pixels)
    result[seen] = picture[rows, columns]
    return result


def draw_map_cameras(
    frame: Frame, view: BEVMap, ground: np.ndarray, labels: bool = False
) -> Figure:
    """All camera images, up to three in a row, with the map semi-transparent on the ground.

    Args:
        ground: (3,), see :func:`ground_plane`.
        labels: draw the vector map instead of the predicted one; ``view`` must have it.
    """
    masks = view.labels if labels else view.masks
    assert masks is not None
    picture = paint(masks, view.classes, ALPHA)

    def draw(axes: Axes, camera: CameraImage) -> None:
        size = camera.image.size
        axes.imshow(
            overlay(picture, view.grid, ground, camera, PANEL_WIDTH),
            extent=(0, size[0], size[1], 0),
            interpolation="nearest",
        )

    figure = camera_figure(frame.images, draw)
    columns = max(3, round(figure.get_figwidth() / 1.8))
    panels.legend_below(figure, class_patches(view.classes), columns)
    return figure
