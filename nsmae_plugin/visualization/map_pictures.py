"""Pictures of a predicted map: with the camera images, the vector map and errors per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from nsmae_plugin.formats.maps.bev_map import BEVMap
from nsmae_plugin.geometry.boxes import Boxes
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.box_lines import outlines
from nsmae_plugin.visualization.colours import FALSE_POSITIVE, MISSED, Colour, map_colours
from nsmae_plugin.visualization.frame import COLUMNS, Frame, draw_images, rows_height

WIDTH = 16.0  # inches
MAP_HEIGHT = 6.3


def class_patches(classes: Sequence[str]) -> list[Patch]:
    """Legend entries, one per class."""
    colours = map_colours(classes)
    return [Patch(color=colours[name], label=name) for name in classes]


def paint(masks: np.ndarray, classes: Sequence[str], alpha: float = 1.0) -> np.ndarray:
    """Draw all classes into one image, each over those below it.

    Args:
        masks: (C, Y, X) bool.
        alpha: opacity of a cell that belongs to any class; the others are transparent.

    Returns:
        (Y, X, 4) red, green, blue, opacity in [0, 1], float32.
    """
    picture = np.zeros((*masks.shape[1:], 4), dtype=np.float32)
    for name, colour in map_colours(classes).items():
        picture[masks[list(classes).index(name)]] = (*colour, alpha)
    return picture


def compare(mask: np.ndarray, label: np.ndarray, colour: Colour) -> np.ndarray:
    """(Y, X, 4) true positives in the given colour, missed cells black, false positives grey."""
    picture = np.zeros((*mask.shape, 4), dtype=np.float32)
    picture[mask & label] = (*colour, 1.0)
    picture[label & ~mask] = (*MISSED, 1.0)
    picture[mask & ~label] = (*FALSE_POSITIVE, 1.0)
    return picture


def draw_map(frame: Frame, view: BEVMap) -> Figure:
    """The camera images; below them the predicted map, the vector map and every class alone."""
    cameras = rows_height(frame.images, COLUMNS, WIDTH / COLUMNS)
    size = (WIDTH, cameras + MAP_HEIGHT + 0.8)
    figure = Figure(figsize=size, dpi=panels.DPI, layout="constrained")
    heights = [cameras, MAP_HEIGHT] if frame.images else [MAP_HEIGHT]
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    if frame.images:
        draw_images(parts[0], frame.images, COLUMNS)
    _draw_maps(parts[-1], frame, view)
    _legend(figure, view)
    return figure


def _draw_maps(figure: SubFigure, frame: Frame, view: BEVMap) -> None:
    whole: list[tuple[str, np.ndarray, Boxes | None]]
    whole = [(_heading(view), view.masks, frame.predicted)]
    if view.labels is not None:
        whole.append(("vector map", view.labels, frame.truth))
    columns = 4 - len(whole)  # of single classes, together as tall as a whole map
    rows = -(-len(view.classes) // columns)
    ratios = [*[1.0] * len(whole), columns / rows]
    grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
    for column, (title, masks, boxes) in enumerate(whole):
        axes = figure.add_subplot(grid[0, column])
        _show(axes, paint(masks, view.classes), view, title)
        panels.metre_axes(axes)
        _mark_vehicle(axes)
        if boxes is not None:
            _outline(axes, boxes)
    parts = grid[0, len(whole)].subgridspec(rows, columns)
    for number in range(len(view.classes)):
        _draw_class(figure.add_subplot(parts[divmod(number, columns)]), view, number)


def _draw_class(axes: Axes, view: BEVMap, number: int) -> None:
    title, mask, iou = view.classes[number], view.masks[number], view.iou()
    label = mask if view.labels is None else view.labels[number]
    if iou is not None:
        title += f": IoU {percentage(iou[number])}"
    colour = map_colours(view.classes)[view.classes[number]]
    _show(axes, compare(mask, label, colour), view, title)
    _mark_vehicle(axes, size=4)


def _heading(view: BEVMap) -> str:
    iou = view.iou()
    if iou is None or np.isnan(iou).all():
        return "predicted"
    return f"predicted: mean IoU {percentage(np.nanmean(iou))}, of this sample alone"


def percentage(share: float) -> str:
    """An IoU for a title; a dash for NaN, where a class is neither labelled nor predicted."""
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def _show(axes: Axes, picture: np.ndarray, view: BEVMap, title: str) -> None:
    extent = (*view.grid.x_bound[:2], *view.grid.y_bound[:2])
    axes.imshow(picture, origin="lower", extent=extent, interpolation="nearest", aspect="equal")
    panels.finish(axes, title)
    axes.set_autoscale_on(False)  # boxes may lie beyond the map


def _mark_vehicle(axes: Axes, size: int = 8) -> None:
    """Mark the LiDAR; the triangle points along y, ahead in nuScenes' LiDAR frame."""
    axes.plot(0, 0, marker="^", color="white", markeredgecolor="black", markersize=size)


def _outline(axes: Axes, boxes: Boxes) -> None:
    lines = list(outlines(boxes).reshape(-1, 2, 2))
    axes.add_collection(LineCollection(lines, colors="0.15", linewidths=0.9))


def _legend(figure: Figure, view: BEVMap) -> None:
    handles = class_patches(view.classes)
    if view.labels is not None:
        handles += [
            Patch(color=MISSED, label="one class: missed"),
            Patch(color=FALSE_POSITIVE, label="one class: predicted, but not there"),
        ]
    panels.legend_below(figure, handles, columns=len(handles))
