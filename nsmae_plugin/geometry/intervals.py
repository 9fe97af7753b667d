"""Ranges that are divided into steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nsmae_plugin.errors import ConfigError

TOLERANCE = 1e-3  # of a step: bounds are typed in decimals, and ranges pass through float32
MOST_CELLS = 10**9  # of a grid; nuScenes' voxels of 7.5 cm are 83 million
VOXELS = "VOXEL_SIZE and DATA_CONFIG.POINT_CLOUD_RANGE"  # the keys of the grid of voxels


def is_whole(count: float) -> bool:
    """True for a whole number, up to :data:`TOLERANCE`."""
    return abs(count - round(count)) <= TOLERANCE


def count_steps(bound: Sequence[float], name: str) -> int:
    """Number of steps in ``[min, max, step]``.

    Rounded, not truncated: (50.4 - -50.4) / 0.4 is 251.99... in floating point and means 252.

    Args:
        name: key of the configuration, for messages.

    Raises:
        ConfigError: the range is empty or no whole number of steps.
    """
    low, high, step = (float(value) for value in bound)
    if not (all(map(math.isfinite, (low, high, step))) and step > 0 and low < high):
        raise ConfigError(
            f"{name} must be [min, max, step] in metres with min < max and step > 0, "
            f"not {[low, high, step]}"
        )
    count = (high - low) / step
    if round(count) < 1 or not is_whole(count):
        raise ConfigError(
            f"{name} {[low, high, step]} is {count:.6g} steps; {high - low:g} m must be a whole "
            "number of steps"
        )
    return round(count)


def count_cells(bounds: Iterable[Sequence[float]], names: str) -> tuple[int, ...]:
    """Number of cells of a grid along each axis, of which the bounds are ``[min, max, step]``.

    Args:
        names: keys of the configuration, for messages.

    Raises:
        ConfigError: no cell along an axis, or too many altogether.
    """
    counts = [(float(high) - float(low)) / float(step) for low, high, step in bounds]
    if not (min(counts) > 0.5 and math.prod(counts) <= MOST_CELLS):
        raise ConfigError(
            f"{names} make a grid of {' x '.join(f'{count:.6g}' for count in counts)} cells, but "
            f"there must be 1 or more along each axis and at most {MOST_CELLS:g} altogether"
        )
    return tuple(map(round, counts))
