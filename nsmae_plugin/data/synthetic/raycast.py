"""Casts the rays of a sensor against the ground and boxes, one object at a time.

A sensor is a grid of rays; only the rays in the window that an object's bounding box covers are
tested against its parts. Everything happens in single precision in a frame whose axes are those of
the world and whose origin is the sensor, so that large map coordinates lose nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

GROUND, NOTHING = -1, -2
# Metres (or ray parameters) closer than this are the sensor's own mounting.
NEAR = 0.5
Window = tuple[slice, slice]


class RayGrid(Protocol):
    """A sensor: directions of its rays and where a convex body appears among them."""

    directions: np.ndarray  # (rows, columns, 3) float32 in the sensor frame

    def windows(self, corners: np.ndarray) -> Iterable[Window]:
        """Parts of the grid that hold every ray that can meet the hull of (n, 3) corners."""


@dataclass(frozen=True)
class Bodies:
    """Boxes, grouped into objects: what can be hit besides the ground. Global frame.

    ``centre`` (n, 3) and ``half`` (n, 3) metres, ``yaw`` (n,), ``colour`` (n, 3), ``texture`` (n,)
    and ``groups`` (objects + 1,): object i owns the boxes ``groups[i]:groups[i + 1]``.
    """

    centre: np.ndarray
    half: np.ndarray
    yaw: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Hits:
    """Where the rays of a grid end.

    ``distance`` (rows, columns) in units of the ray directions, inf for the sky; ``box`` the number
    of the box that was hit, or GROUND, or NOTHING; ``covered`` and ``visible`` (objects,) count
    each object's rays with and without everything else out of the way.
    """

    distance: np.ndarray
    box: np.ndarray
    covered: np.ndarray
    visible: np.ndarray


def cast(
    grid: RayGrid, rotation: np.ndarray, origin: np.ndarray, bodies: Bodies, reach: float
) -> Hits:
    """Nearest hit of every ray.

    Args:
        grid: the sensor.
        rotation, origin: (3, 3) and (3,), sensor frame to global frame.
        bodies: the boxes at the time of the exposure.
        reach: rays end here, in units of the ray directions.
    """
    directions = grid.directions @ rotation.T.astype(np.float32)
    distance = _ground_distance(directions[..., 2], origin[2], reach)
    box = np.where(np.isfinite(distance), GROUND, NOTHING).astype(np.int16)
    centres = (bodies.centre - origin).astype(np.float32)
    number = len(bodies.groups) - 1
    covered = np.zeros(number, np.int64)
    for index in range(number):
        members = range(bodies.groups[index], bodies.groups[index + 1])
        corners = np.concatenate(
            [_corners(centres[i], bodies.half[i], bodies.yaw[i]) for i in members]
        )
        for window in grid.windows(corners @ rotation):
            rays = directions[window]
            if rays.size == 0:
                continue
            near, which = _cast_object(rays, members, centres, bodies)
            covered[index] += np.count_nonzero(which >= 0)
            closer = near < distance[window]
            distance[window][closer] = near[closer]
            box[window][closer] = which[closer]
    owners = np.repeat(np.arange(number), np.diff(bodies.groups))
    distance[distance > reach] = np.inf
    box[~np.isfinite(distance)] = NOTHING
    visible = np.bincount(owners[box[box >= 0]], minlength=number)
    return Hits(distance, box, covered, visible)


def _ground_distance(down: np.ndarray, height: float, reach: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        distance = np.float32(-height) / down
    return np.where((distance > 0) & (distance < reach), distance, np.inf).astype(np.float32)


def _corners(centre: np.ndarray, half: np.ndarray, yaw: float) -> np.ndarray:
    """(8, 3) corners of a box."""
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    local = signs * half
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return local @ turn + centre


def _cast_object(rays, members, centres, bodies) -> tuple[np.ndarray, np.ndarray]:
    """Nearest distance and box number over the boxes of one object; inf and -2 where missed."""
    best = np.full(rays.shape[:-1], np.inf, np.float32)
    which = np.full(rays.shape[:-1], NOTHING, np.int16)
    for i in members:
        near = _slab(rays, centres[i], bodies.half[i], bodies.yaw[i])
        closer = near < best
        best[closer] = near[closer]
        which[closer] = i
    return best, which


def _slab(rays: np.ndarray, centre: np.ndarray, half: np.ndarray, yaw: float) -> np.ndarray:
    """Distance along each ray to a box turned by ``yaw``; inf for a miss (slab method)."""
    c, s = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    half = half.astype(np.float32)
    axes = (rays[..., 0] * c + rays[..., 1] * s, rays[..., 1] * c - rays[..., 0] * s, rays[..., 2])
    middles = (centre[0] * c + centre[1] * s, centre[1] * c - centre[0] * s, centre[2])
    enter, leave = np.float32(-np.inf), np.float32(np.inf)
    for axis, middle, extent in zip(axes, middles, half, strict=True):
        # A ray along the slab gives infinities of equal sign outside it, of both signs inside.
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / axis
            first, second = (middle - extent) * inverse, (middle + extent) * inverse
        enter = np.fmax(enter, np.fmin(first, second))
        leave = np.fmin(leave, np.fmax(first, second))
    return np.where((enter <= leave) & (enter > NEAR), enter, np.float32(np.inf))
