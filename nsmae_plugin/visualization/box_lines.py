"""Edges of boxes, projected into camera images and clipped."""

from __future__ import annotations

import numpy as np

from nsmae_plugin.geometry.boxes import CORNERS, Boxes, box_points

NEAR = 0.1  # metres; parts of a box closer to the camera plane are clipped
_BOTTOM_MIDDLE, _FRONT_MIDDLE = 8, 9
# Between corners, and on the bottom face from its centre to the middle of its front edge.
_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4)]
_EDGES += [(0, 4), (1, 5), (2, 6), (3, 7), (_BOTTOM_MIDDLE, _FRONT_MIDDLE)]
_POINTS = np.concatenate([CORNERS, [[0, 0, -1], [1, 0, -1]]])


def skeletons(boxes: Boxes) -> np.ndarray:
    """(n, 13, 2, 3) edges of every box, and on its bottom face a line to the front, metres."""
    return box_points(boxes.values, _POINTS)[:, np.array(_EDGES)]


def outlines(boxes: Boxes) -> np.ndarray:
    """(n, 5, 2, 2) x and y of every box seen from above: four sides and the line to the front."""
    return skeletons(boxes)[:, [0, 1, 2, 3, -1], :, :2]


def project(
    boxes: Boxes, lidar2image: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Lines of boxes in a camera image, clipped to the image and to what lies in front.

    Args:
        lidar2image: (4, 4), LiDAR point → (u * depth, v * depth, depth).
        size: width and height of the image in pixels.

    Returns:
        lines (k, 2, 2) in pixels u, v, and (k,) the index of the box of each line.
    """
    lines = skeletons(boxes).reshape(-1, 2, 3)
    owners = np.repeat(np.arange(len(boxes)), len(_EDGES))
    ones = np.ones((*lines.shape[:2], 1))
    # In (u * depth, v * depth, depth) every image border is a plane: u >= 0 is u * depth >= 0.
    points = np.concatenate([lines @ lidar2image[:3, :3].T + lidar2image[:3, 3], ones], axis=-1)
    width, height = size
    sides = [[1, 0, 0, 0], [-1, 0, width, 0], [0, 1, 0, 0], [0, -1, height, 0]]
    for plane in np.array([[0, 0, 1, -NEAR], *sides]):
        points, kept = _clip(points, plane)
        owners = owners[kept]
    return points[..., :2] / points[..., 2:3], owners


def _clip(lines: np.ndarray, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip lines (k, 2, 4) to the half-space ``line @ plane >= 0``.

    Returns:
        the remaining lines, and (k,) bool: true for the lines that remain.
    """
    side = lines @ plane
    kept = (side >= 0).any(axis=1)
    lines, side = lines[kept], side[kept]
    crosses = (side < 0).any(axis=1)
    share = side[crosses, 0] / (side[crosses, 0] - side[crosses, 1])
    first, last = lines[crosses, 0], lines[crosses, 1]
    border = (first + share[:, None] * (last - first))[:, None]
    lines[crosses] = np.where(side[crosses, :, None] < 0, border, lines[crosses])
    return lines, kept
