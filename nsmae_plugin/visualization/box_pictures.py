"""Pictures of detected boxes: in every camera image, and with the LiDAR points from above."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from nsmae_plugin.geometry.boxes import Boxes
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.box_lines import outlines, project
from nsmae_plugin.visualization.colours import POINTS, Colour
from nsmae_plugin.visualization.frame import CameraImage, Frame, camera_figure

TRUTH_STYLE = {"linestyles": (0, (3, 2)), "linewidths": 1.3}
PREDICTION_STYLE = {"linestyles": "solid", "linewidths": 2.0}
# In images a border sets lines off from what is as bright as they are: a light one around dark
# colours, a dark one around light colours.
BORDER = 0.8  # points that it is wider than the line
DARK, LUMINANCE = 0.25, np.array([0.2126, 0.7152, 0.0722])
POINT_SIZE = 1.3  # of LiDAR points from above, in points
MIN_SPEED = 0.5  # m/s; slower boxes get no arrow


def save_pictures(
    frame: Frame, colours: Mapping[str, Colour], caption: str, folder: Path
) -> list[Path]:
    """Write ``cameras.png`` (if there are cameras) and ``bev.png``; return their paths.

    Args:
        colours: of every class, as ``class_colours`` gives them.
        caption: heading of both pictures.
    """
    figures = {"bev": draw_bev(frame, colours)}
    if frame.images:
        figures = {"cameras": draw_cameras(frame, colours), **figures}
    return panels.save_figures(figures, caption, folder)


def draw_cameras(frame: Frame, colours: Mapping[str, Colour]) -> Figure:
    """All camera images, up to three in a row, with the boxes in view."""

    def draw(axes: Axes, camera: CameraImage) -> None:
        _draw_boxes(axes, camera, frame, colours)

    figure = camera_figure(frame.images, draw)
    _legend(figure, frame, colours)
    return figure


def draw_bev(frame: Frame, colours: Mapping[str, Colour]) -> Figure:
    """LiDAR points and boxes from above, in the LiDAR frame; arrows show one second of motion."""
    x_min, x_max, y_min, y_max = frame.extent
    size = (8.5, 8 * (y_max - y_min) / (x_max - x_min) + 1)
    figure = Figure(figsize=size, dpi=panels.DPI, layout="constrained")
    axes = figure.subplots()
    if frame.points is not None:
        x, y = frame.points[:, :2].T
        axes.plot(x, y, "o", color=POINTS, markersize=POINT_SIZE, markeredgewidth=0, zorder=0)
    for boxes, style, _ in _layers(frame):
        lines = outlines(boxes)
        chosen = [colours[name] for name in boxes.names for _ in range(lines.shape[1])]
        axes.add_collection(LineCollection(list(lines.reshape(-1, 2, 2)), colors=chosen, **style))
    _draw_velocities(axes, frame.predicted, colours)
    counts = [f"{len(boxes)} {name}" for boxes, _, name in reversed(_layers(frame))]
    panels.finish(axes, f"from above: {', '.join(counts)}")
    panels.metre_axes(axes)
    axes.set_xlim(x_min, x_max)
    axes.set_ylim(y_min, y_max)
    axes.set_aspect("equal")
    _legend(figure, frame, colours)
    return figure


def _layers(frame: Frame) -> list[tuple[Boxes, dict[str, Any], str]]:
    """Boxes with line style and name, in drawing order."""
    layers = [(frame.predicted, PREDICTION_STYLE, "predicted")]
    if frame.truth is not None:
        layers.insert(0, (frame.truth, TRUTH_STYLE, "annotated"))
    return layers


def _draw_boxes(
    axes: Axes, camera: CameraImage, frame: Frame, colours: Mapping[str, Colour]
) -> None:
    counts = []
    for boxes, style, name in _layers(frame):
        lines, owners = project(boxes, camera.lidar2image, camera.image.size)
        chosen = np.array([colours[boxes.names[owner]] for owner in owners]).reshape(-1, 3)
        dark = chosen @ LUMINANCE < DARK
        for border, bordered in (("black", ~dark), ("white", dark)):
            stroke = withStroke(linewidth=style["linewidths"] + BORDER, foreground=border)
            part = [line for line, within in zip(lines, bordered, strict=True) if within]
            axes.add_collection(
                LineCollection(part, colors=chosen[bordered], path_effects=[stroke], **style)
            )
        counts.append(f"{len(np.unique(owners))} {name}")
    panels.finish(axes, f"{camera.name}: {', '.join(reversed(counts))}")


def _draw_velocities(axes: Axes, boxes: Boxes, colours: Mapping[str, Colour]) -> None:
    speeds = np.linalg.norm(np.nan_to_num(boxes.values[:, 7:9]), axis=1)
    moving = np.flatnonzero(speeds > MIN_SPEED)
    if not len(moving):
        return
    axes.quiver(
        *boxes.values[moving][:, [0, 1, 7, 8]].T,
        color=[colours[boxes.names[one]] for one in moving],
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.0022,
    )


def _legend(figure: Figure, frame: Frame, colours: Mapping[str, Colour]) -> None:
    """The classes in the frame, and the line styles."""
    present = {name for boxes, _, _ in _layers(frame) for name in boxes.names}
    handles = [
        Line2D([], [], color=colour, linewidth=4, label=name)
        for name, colour in colours.items()
        if name in present
    ]
    handles += [
        Line2D([], [], color="0.2", linestyle=style["linestyles"], label=name)
        for _, style, name in reversed(_layers(frame))
    ]
    panels.legend_below(figure, handles, columns=max(3, round(figure.get_figwidth() / 1.6)))
