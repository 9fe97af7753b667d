"""Growth of time and memory of the plugin's operations with each problem dimension.

Geometry (frustum points to cells, sorted), LiDAR depth maps and targets, and lift, pooling and
rendering with their backward pass; everything anew in every step, as under augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.depth_map import image_returns, z_buffer
from nsmae_plugin.geometry.projection import frustum_pixels, frustum_rays
from nsmae_plugin.models.lift_splat import GEOMETRY_KEYS
from nsmae_plugin.models.targets import depth_from_above
from nsmae_plugin.ops.pooling_plan import build_plan, frustum_cells
from nsmae_plugin.visualization.colours import CURVE_COLOURS
from nsmae_plugin.visualization.panels import save
from tools.benchmarks import frustum
from tools.benchmarks.inputs import ring_of_cameras, scan, stack_samples
from tools.benchmarks.measure import measure_calls

#: What varies, and the values: the middle of each is near the paper's.
AXES: dict[str, dict[str, tuple[int, ...]]] = {
    "full": {
        "cameras": (1, 2, 4, 6, 8, 12),
        "depth bins": (59, 118, 177, 236),
        "points": (10_000, 50_000, 250_000, 500_000),
        "batch": (1, 2, 4),
        "BEV cells": (180**2, 256**2, 360**2, 512**2),
    },
    "tiny": {
        "cameras": (1, 3),
        "depth bins": (10, 20),
        "points": (1000, 4000),
        "batch": (1, 2),
        "BEV cells": (16**2, 32**2),
    },
}
POINTS = {"full": 250_000, "tiny": 5000}
UNITS = {"seconds": "time", "mib": "memory"}


@dataclass(frozen=True)
class Case:
    """One point of the plot.

    Attributes:
        points: LiDAR returns of a sample.
    """

    size: frustum.Size
    batch: int = 1
    points: int = POINTS["full"]


def vary(case: Case, axis: str, value: int) -> Case:
    """The case with another value along an axis; ``BEV cells`` are those of one sample."""
    size = case.size
    if axis in ("points", "batch"):
        return replace(case, **{axis: value})
    if axis == "cameras":
        return replace(case, size=replace(size, cameras=value))
    if axis == "depth bins":
        return replace(case, size=replace(size, depth=_split(size.depth, value)))
    return replace(case, size=replace(size, bev=_split(size.bev, math.isqrt(value))))


def _split(bound: tuple[float, float, float], count: int) -> tuple[float, float, float]:
    """The same range in ``count`` steps."""
    return bound[0], bound[1], (bound[1] - bound[0]) / count


def make_step(case: Case, device: torch.device) -> Callable[[], None]:
    """A function that runs geometry, targets, forward and backward once."""
    size = case.size
    problem = frustum.make_problem(size, case.batch, device)
    rig = ring_of_cameras(case.batch, size.cameras, size.image, device)
    pixels = frustum_pixels(size.image, size.features).to(device)
    grid = BEVGrid.from_bounds({"x": size.bev, "y": size.bev, "z": (-10.0, 10.0, 20.0)})
    target_grid = _target_grid(size)
    points = torch.from_numpy(_points(case, target_grid)).to(device)

    def step() -> None:
        rays, origins = frustum_rays(pixels, *(rig[key] for key in GEOMETRY_KEYS))
        cells = frustum_cells(rays, origins, problem.centres, grid)
        plan = build_plan(cells, problem.num_cells)
        returns = image_returns(
            points, rig["lidar2image"], rig["img_aug_matrix"], rig["lidar_aug_matrix"], size.image
        )
        for stride in (1, 8):  # depth points of the network, and the target
            z_buffer(returns, case.batch * size.cameras, size.image, stride)
        depth_from_above(points, case.batch, target_grid)
        results = frustum.factorised(problem, plan)
        torch.autograd.grad(results, problem.leaves, problem.upstream)

    return step


def _target_grid(size: frustum.Size) -> BEVGrid:
    """Eight voxels a cell of the camera's grid after its downsampling by two, 40 levels."""
    start, stop, cell = size.bev
    bound = (start, stop, cell / 4)
    return BEVGrid(bound, bound, (-5.0, 3.0, 0.2), stride=8)


def _points(case: Case, grid: BEVGrid) -> np.ndarray:
    """(B * points, 6): scans, as many points of them as asked for."""
    rng = np.random.default_rng(0)
    upper = [-low for low in grid.lower[:2]]
    extent = [*grid.lower, *upper, 3.0]
    cloud = scan(1, extent, rng)
    samples = [cloud[rng.integers(len(cloud), size=case.points)] for _ in range(case.batch)]
    return stack_samples(samples)


def measure(
    axis: str, value: int, size: str, batch: int, device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds and MiB of one point of the plot."""
    # Once at tiny size, so that code that is loaded at its first use does not count as memory.
    make_step(Case(frustum.SIZES["tiny"], points=1000), device)()
    case = vary(Case(frustum.SIZES[size], batch, POINTS[size]), axis, value)
    return measure_calls(make_step(case, device), device, repeats)


def exponents(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The ``p`` of ``value ** p`` through the first and last row; at most 1 is linear or better."""
    span = math.log(rows[-1]["value"] / rows[0]["value"])
    result: dict[str, float | None] = {}
    for key in UNITS:
        ends = [_fastest(row[key]) for row in (rows[0], rows[-1])]
        result[key] = math.log(ends[1] / ends[0]) / span if all(ends) else None
    return result


def _fastest(values: list[float]) -> float:
    """The smallest value, which other programs disturbed least; 0 for an empty list."""
    return min(values, default=0.0)


def print_series(axis: str, series: dict[str, Any]) -> None:
    """A line per value, and how time and memory grow."""
    for row in series["rows"]:
        print(
            f"{axis:12}{row['value']:>10}{1e3 * _fastest(row['seconds']):12.1f} ms"
            f"{_fastest(row['mib']):12.1f} MiB"
        )
    words = [
        f"{UNITS[key]} as {axis}^{power:.2f}"
        for key, power in series["exponents"].items()
        if power is not None
    ]
    print(f"{'':12}grows: {', '.join(words)}")


def save_plot(series: dict[str, Any], path: Path) -> None:
    """Time and memory against every axis, relative to the first value; dotted: proportional."""
    figure = Figure(figsize=(3.2 * len(series), 3.4), layout="constrained")
    panels = figure.subplots(1, len(series), squeeze=False)[0]
    for panel, (axis, one) in zip(panels, series.items(), strict=True):
        _draw(panel, axis, one["rows"])
    panels[0].set_ylabel("relative to the first value")
    panels[0].legend(frameon=False)
    save(figure, path, dpi=150)


def _draw(panel: Axes, axis: str, rows: list[dict[str, Any]]) -> None:
    values = [row["value"] for row in rows]
    panel.plot(values, [value / values[0] for value in values], ":", color="0.5")
    for (key, name), colour, marker in zip(UNITS.items(), CURVE_COLOURS, "os", strict=False):
        heights = [_fastest(row[key]) for row in rows]
        if all(heights):
            relative = [height / heights[0] for height in heights]
            panel.plot(values, relative, marker=marker, color=colour, markersize=4, label=name)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_xlabel(axis)
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
