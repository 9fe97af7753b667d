"""Areas of a map rasterised by the winding number of their outlines around cell centres.

A ray through a row of centres crosses the outline of an area upwards or downwards; the signed sum
of the crossings on one side of a centre is the winding number there. With outer rings and holes of
opposite orientation it counts the areas that contain the centre. Outlines are never clipped, and
rotating, mirroring or scaling the whole map changes at most the sign, so the result is exact in any
pose.
"""

from dataclasses import dataclass

import numpy as np

from nsmae_plugin.geometry.bev_grid import BEVGrid


@dataclass(frozen=True)
class Rings:
    """Outlines of areas, concatenated; outer rings and holes have opposite orientation.

    Args:
        points: (V, 2) float64 metres; the last point of a ring repeats its first one.
        last: (V,) bool, true at the last point of each ring.
        channel: (V,) integers, the class that the ring belongs to.
    """

    points: np.ndarray
    last: np.ndarray
    channel: np.ndarray


def rasterise(rings: Rings, to_grid: np.ndarray, grid: BEVGrid, channels: int) -> np.ndarray:
    """The cells whose centre lies in an area.

    Args:
        to_grid: (2, 3), from the frame of the points to the one of the grid: x' = M [x, y, 1].
        channels: number of classes.

    Returns:
        (channels, rows, columns) bool.
    """
    (rows, columns), (x_axis, y_axis) = grid.shape, grid.axes()
    x, y = (m[0] * rings.points[:, 0] + m[1] * rings.points[:, 1] + m[2] for m in to_grid)
    # First row at or above each point. An edge crosses the rows between those of its end points, so
    # that edges that share a point neither share a row nor skip one.
    row = _first_at_or_above(y, y_axis[0], grid.y_bound[2], rows)
    start = np.flatnonzero((row[1:] != row[:-1]) & ~rings.last[:-1])
    end = start + 1
    low, count = np.minimum(row[start], row[end]), np.abs(row[end] - row[start])
    crossed = _ranges(low, count)
    slope = (x[end] - x[start]) / (y[end] - y[start])
    start_x, start_y, slope, turn, channel = (
        np.repeat(values, count)
        for values in (
            x[start],
            y[start],
            slope,
            np.sign(row[end] - row[start]).astype(np.int32),
            rings.channel[start],
        )
    )
    crossing = start_x + (y_axis[crossed] - start_y) * slope
    column = _first_at_or_above(crossing, x_axis[0], grid.x_bound[2], columns)
    turns = np.zeros((channels, rows, columns + 1), np.int32)  # one more column, right of the grid
    # Flat indices: three of them are slow here.
    np.add.at(turns.reshape(-1), (channel * rows + crossed) * (columns + 1) + column, turn)
    winding = np.cumsum(turns, axis=-1, out=turns)
    return winding[..., :columns] != 0


def _first_at_or_above(values: np.ndarray, first: float, step: float, count: int) -> np.ndarray:
    """Index of the first of ``count`` centres that is not below the value; ``count`` for none."""
    return np.clip(np.ceil((values - first) / step), 0, count).astype(np.intp)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``start, start + 1, ...`` of ``count`` numbers each, one range after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)
