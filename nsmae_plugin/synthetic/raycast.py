"""Casts the rays of a sensor against the ground and boxes, one object at a time.

A sensor is a grid of rays; only the rays in the window that an object's bounding box covers are
tested against its parts. Everything happens in single precision in a frame with the global
axes and the sensor as its origin, so that large map coordinates lose nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

GROUND, NOTHING = -1, -2
# Hits closer than this, in units of the ray directions, would be the sensor's own mounting.
NEAR = 0.5
_SIGNS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
Window = tuple[slice, slice]


class RayGrid(Protocol):
    """A sensor: directions of its rays, their reach, and where a body appears among them.

    ``directions`` is (3, rows, columns) float32 in the sensor frame; ``reach`` is in units of them.
    """

    directions: np.ndarray
    reach: float

    def windows(self, corners: np.ndarray) -> Iterable[Window]:
        """Parts of the grid that hold every ray that can meet the hull of (n, 3) corners."""


@dataclass(frozen=True)
class Bodies:
    """Boxes, grouped into objects, that rays can hit besides the ground; global frame.

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

    ``directions`` (3, rows, columns) along the global axes; ``distance`` (rows, columns) in
    units of them, inf for the sky; ``box`` the number of the box that was hit, or GROUND, or
    NOTHING; ``covered`` and ``visible`` (objects,) count each object's rays with and without
    everything else out of the way.
    """

    directions: np.ndarray
    distance: np.ndarray
    box: np.ndarray
    covered: np.ndarray
    visible: np.ndarray


def cast(grid: RayGrid, rotation: np.ndarray, origin: np.ndarray, bodies: Bodies) -> Hits:
    """Nearest hit of every ray.

    Args:
        grid: the sensor.
        rotation, origin: (3, 3) and (3,), sensor frame to global frame.
        bodies: the boxes at the time of the exposure.
    """
    directions = np.einsum("ij,jrc->irc", rotation.astype(np.float32), grid.directions)
    distance = _ground_distance(directions[2], origin[2], grid.reach)
    box = np.where(np.isfinite(distance), GROUND, NOTHING).astype(np.int16)
    number = len(bodies.groups) - 1
    covered = np.zeros(number, np.int64)
    boxes = _Boxes(bodies, origin)
    in_sensor_frame = boxes.corners() @ rotation
    # Rays parallel to a face divide by zero, with the right infinities as results.
    with np.errstate(divide="ignore", invalid="ignore"):
        for index in range(number):
            members = range(bodies.groups[index], bodies.groups[index + 1])
            corners = in_sensor_frame[members.start : members.stop].reshape(-1, 3)
            for window in grid.windows(corners):
                near, which = boxes.hit([plane[window] for plane in directions], members)
                near[near > grid.reach] = np.inf
                covered[index] += np.count_nonzero(np.isfinite(near))
                closer = near < distance[window]
                distance[window][closer] = near[closer]
                box[window][closer] = which[closer]
    owners = np.repeat(np.arange(number), np.diff(bodies.groups))
    visible = np.bincount(owners[box[box >= 0]], minlength=number)
    return Hits(directions, distance, box, covered, visible)


def _ground_distance(down: np.ndarray, height: float, reach: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        distance = np.float32(-height) / down
    return np.where((distance > 0) & (distance < reach), distance, np.inf).astype(np.float32)


class _Boxes:
    """The boxes of some bodies as seen from a sensor at ``origin``."""

    def __init__(self, bodies: Bodies, origin: np.ndarray) -> None:
        self._centre = (bodies.centre - origin).astype(np.float32)
        self._half = bodies.half.astype(np.float32)
        self._cos = np.cos(bodies.yaw).astype(np.float32)
        self._sin = np.sin(bodies.yaw).astype(np.float32)
        x, y, z = self._centre.T
        turned = (x * self._cos + y * self._sin, y * self._cos - x * self._sin, z)
        # Each box in its own axes.
        self._low = np.stack(turned, axis=1) - self._half
        self._high = np.stack(turned, axis=1) + self._half

    def corners(self) -> np.ndarray:
        """(boxes, 8, 3) relative to the origin, along the global axes."""
        x, y, z = np.moveaxis(_SIGNS * self._half[:, None], -1, 0)
        c, s = self._cos[:, None], self._sin[:, None]
        return np.stack([x * c - y * s, x * s + y * c, z], axis=-1) + self._centre[:, None]

    def hit(self, rays: list[np.ndarray], members: range) -> tuple[np.ndarray, np.ndarray]:
        """Nearest distance to some boxes and the number of the box; inf and NOTHING for a miss."""
        best = np.full(rays[0].shape, np.inf, np.float32)
        which = np.full(rays[0].shape, NOTHING, np.int16)
        for i in members:
            near = self._slab(rays, i)
            closer = near < best
            best[closer] = near[closer]
            which[closer] = i
        return best, which

    def _slab(self, rays: list[np.ndarray], i: int) -> np.ndarray:
        """Distance along each ray to box ``i``; inf for a miss (slab method)."""
        x, y, z = rays
        c, s = self._cos[i], self._sin[i]
        enter, leave = np.float32(-np.inf), np.float32(np.inf)
        axes = (x * c + y * s, y * c - x * s, z)
        for axis, low, high in zip(axes, self._low[i], self._high[i], strict=True):
            inverse = 1 / axis
            first, second = low * inverse, high * inverse
            enter = np.fmax(enter, np.fmin(first, second))
            leave = np.fmin(leave, np.fmax(first, second))
        return np.where((enter <= leave) & (enter > NEAR), enter, np.float32(np.inf))
