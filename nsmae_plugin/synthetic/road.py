"""Reference lines of roads: chains of straight pieces and circular arcs, in closed form."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from shapely.geometry import Polygon


@dataclass(frozen=True)
class Piece:
    """``length`` metres of constant ``curvature`` (1/m, positive to the left)."""

    length: float
    curvature: float


class Centreline:
    """A planar curve by arc length s; d is the offset to its left. Metres, radians, global frame.

    Args:
        start: (x, y, yaw) at s = 0.
        pieces: the chain; beyond its ends the curve goes on straight.
    """

    def __init__(self, start: tuple[float, float, float], pieces: list[Piece]) -> None:
        self.pieces = pieces
        self.breaks = np.concatenate([[0.0], np.cumsum([piece.length for piece in pieces])])
        self._curvature = np.array([piece.curvature for piece in pieces] + [0.0])
        poses = [start]
        for piece in pieces:
            poses.append(_advance(poses[-1], piece.length, piece.curvature))
        self._poses = np.array(poses)

    @property
    def length(self) -> float:
        return float(self.breaks[-1])

    def pose(self, s: ArrayLike, d: ArrayLike = 0.0) -> np.ndarray:
        """(x, y, yaw) at arc length ``s`` and offset ``d``; broadcasts, (..., 3)."""
        s, d = np.broadcast_arrays(np.asarray(s, float), np.asarray(d, float))
        index = np.clip(np.searchsorted(self.breaks, s, side="right") - 1, 0, len(self.pieces))
        before = s < 0
        step = np.where(before, s, s - self.breaks[index])
        curvature = np.where(before, 0.0, self._curvature[index])
        x, y, yaw = np.moveaxis(self._poses[index], -1, 0)
        turn = curvature * step
        # The chord of an arc: length step * sinc(turn / 2), in the direction half-way.
        chord = step * np.sinc(turn / 2 / np.pi)
        end = yaw + turn
        x = x + chord * np.cos(yaw + turn / 2) - d * np.sin(end)
        y = y + chord * np.sin(yaw + turn / 2) + d * np.cos(end)
        return np.stack([x, y, end], axis=-1)

    def points(self, start: float, stop: float, d: float = 0.0, step: float = 2.0) -> np.ndarray:
        """(n, 2) samples of the line at offset ``d``, at most ``step`` metres of s apart."""
        number = max(2, math.ceil(abs(stop - start) / step) + 1)
        return self.pose(np.linspace(start, stop, number), d)[:, :2]

    def area(self, start: float, stop: float, d0: float, d1: float) -> Polygon:
        """The area between two arc lengths and two offsets."""
        return Polygon([*self.points(start, stop, d0), *self.points(start, stop, d1)[::-1]])

    def arcs(self, start: float, stop: float) -> list[tuple[float, float, float]]:
        """The pieces between two arc lengths as (s at the start, length, curvature)."""
        inner = self.breaks[(self.breaks > start) & (self.breaks < stop)]
        edges = np.concatenate([[start], inner, [stop]])
        middles = (edges[:-1] + edges[1:]) / 2
        index = np.searchsorted(self.breaks, middles, side="right") - 1
        inside = (middles > 0) & (middles < self.length)
        curvature = np.where(inside, self._curvature[np.clip(index, 0, None)], 0.0)
        return [
            (float(s), float(e - s), float(k))
            for s, e, k in zip(edges[:-1], edges[1:], curvature, strict=True)
        ]


def _advance(pose: tuple[float, float, float], length: float, curvature: float):
    x, y, yaw = pose
    turn = curvature * length
    chord = length * float(np.sinc(turn / 2 / np.pi))
    return (
        x + chord * math.cos(yaw + turn / 2),
        y + chord * math.sin(yaw + turn / 2),
        yaw + turn,
    )
