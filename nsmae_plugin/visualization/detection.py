"""Pictures of detections: boxes in every camera, boxes and LiDAR from above, a film of a scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from PIL import Image

from nsmae_plugin.geometry.boxes import Boxes
from nsmae_plugin.runtime import files
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.boxes import Colour, project, skeletons

PANEL_WIDTH = 640  # pixels of one camera
COLUMNS = 3
DPI = 100
TITLE = 0.25  # inches above an image
FILM_WIDTH = 1600  # pixels
TRUTH_STYLE = {"linestyles": (0, (3, 2)), "linewidths": 1.0}
PREDICTION_STYLE = {"linestyles": "solid", "linewidths": 1.5}
# nuScenes' colours for cones and pedestrians are dark: in images they stand on a light ground.
GROUND_STYLE: dict[str, Any] = {
    "colors": "white",
    "alpha": 0.5,
    "linestyles": "solid",
    "linewidths": 2.5,
}
DARK, LUMINANCE = 0.35, np.array([0.2126, 0.7152, 0.0722])
SLOWEST = 0.5  # m/s; what is slower gets no arrow
# As they stand around the vehicle; others follow in the order of the data.
PLACES = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)


@dataclass(frozen=True)
class Photograph:
    """One camera's image, and where it stands.

    Attributes:
        lidar2image: (4, 4), LiDAR point → (u * depth, v * depth, depth), pixels of ``image``.
    """

    name: str
    image: Image.Image
    lidar2image: np.ndarray


@dataclass(frozen=True)
class Scenery:
    """What is known of a sample, to draw boxes into.

    Attributes:
        points: (P, 3) or more columns, LiDAR frame, metres; None without LiDAR.
        truth: annotated boxes; None when they are not known.
        extent: x_min, x_max, y_min, y_max of the view from above, LiDAR frame, metres.
    """

    photographs: tuple[Photograph, ...]
    points: np.ndarray | None
    predicted: Boxes
    truth: Boxes | None
    extent: panels.Extent


def draw_cameras(scenery: Scenery, colours: Mapping[str, Colour]) -> Figure:
    """All cameras, up to three in a row, with the boxes that they see."""

    def draw(axes: Axes, photograph: Photograph) -> None:
        _draw_boxes(axes, photograph, scenery, colours)

    figure = camera_figure(scenery.photographs, draw)
    _legend(figure, scenery, colours)
    return figure


def camera_figure(
    photographs: Sequence[Photograph], draw: Callable[[Axes, Photograph], None]
) -> Figure:
    """All images, up to three in a row, as they stand around the vehicle.

    Args:
        draw: adds to a panel; its axes are in pixels of the image.
    """
    columns = min(COLUMNS, len(photographs))
    width = PANEL_WIDTH / DPI
    figure = Figure(
        figsize=(columns * width, height_of(photographs, columns, width) + 0.7),
        dpi=DPI,
        layout="constrained",
    )
    draw_photographs(figure, photographs, columns, draw)
    return figure


def height_of(photographs: Sequence[Photograph], columns: int, width: float) -> float:
    """Inches that the rows of images take, each image ``width`` inches wide; 0 without any."""
    rows = -(-len(photographs) // columns)
    shape = max((one.image.height / one.image.width for one in photographs), default=0.0)
    return rows * (shape * width + TITLE)


def draw_photographs(
    figure: FigureBase,
    photographs: Sequence[Photograph],
    columns: int,
    draw: Callable[[Axes, Photograph], None] | None = None,
) -> None:
    """Fill a figure with images as they stand around the vehicle, each under its name."""
    rows = -(-len(photographs) // columns)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, photograph in zip(axes, sorted(photographs, key=_place), strict=False):
        size = photograph.image.size
        small = photograph.image.copy()
        small.thumbnail((PANEL_WIDTH, size[1]))
        extent = (0, size[0], size[1], 0)
        place.imshow(small, extent=extent, aspect="equal", interpolation="antialiased")
        panels.finish(place, photograph.name)
        if draw is not None:
            draw(place, photograph)
        place.set_xlim(0, size[0])
        place.set_ylim(size[1], 0)
    for place in axes[len(photographs) :]:
        place.remove()


def _place(photograph: Photograph) -> int:
    return PLACES.index(photograph.name) if photograph.name in PLACES else len(PLACES)


def _draw_boxes(
    axes: Axes, photograph: Photograph, scenery: Scenery, colours: Mapping[str, Colour]
) -> None:
    counts = []
    for boxes, style, what in _layers(scenery):
        lines, owners = project(boxes, photograph.lidar2image, photograph.image.size)
        chosen = np.array([colours[boxes.names[owner]] for owner in owners]).reshape(-1, 3)
        dark = chosen @ LUMINANCE < DARK
        axes.add_collection(LineCollection(list(lines[dark]), **GROUND_STYLE))
        axes.add_collection(LineCollection(list(lines), colors=chosen, **style))
        counts.append(f"{len(np.unique(owners))} {what}")
    panels.finish(axes, f"{photograph.name}: {', '.join(reversed(counts))}")


def _layers(scenery: Scenery) -> list[tuple[Boxes, dict[str, Any], str]]:
    """Boxes, their style and name; what is drawn last lies on top."""
    layers = [(scenery.predicted, PREDICTION_STYLE, "predicted")]
    if scenery.truth is not None:
        layers.insert(0, (scenery.truth, TRUTH_STYLE, "annotated"))
    return layers


def draw_above(scenery: Scenery, colours: Mapping[str, Colour]) -> Figure:
    """LiDAR and boxes from above, in metres of the LiDAR frame; arrows are a second of travel."""
    x_min, x_max, y_min, y_max = scenery.extent
    figure = Figure(
        figsize=(8.5, 8 * (y_max - y_min) / (x_max - x_min) + 1), dpi=DPI, layout="constrained"
    )
    axes = figure.subplots()
    if scenery.points is not None:
        axes.plot(*scenery.points[:, :2].T, ",", color="0.6", zorder=0)
    for boxes, style, _ in _layers(scenery):
        outlines = skeletons(boxes)[:, [0, 1, 2, 3, -1], :, :2]
        chosen = [colours[name] for name in boxes.names for _ in range(outlines.shape[1])]
        lines = list(outlines.reshape(-1, 2, 2))
        axes.add_collection(LineCollection(lines, colors=chosen, **style))
    _draw_velocities(axes, scenery.predicted, colours)
    panels.finish(axes, _numbers(scenery))
    panels.metre_axes(axes)
    axes.set_xlim(x_min, x_max)
    axes.set_ylim(y_min, y_max)
    axes.set_aspect("equal")
    _legend(figure, scenery, colours)
    return figure


def _draw_velocities(axes: Axes, boxes: Boxes, colours: Mapping[str, Colour]) -> None:
    moving = np.flatnonzero(np.linalg.norm(np.nan_to_num(boxes.values[:, 7:9]), axis=1) > SLOWEST)
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


def _numbers(scenery: Scenery) -> str:
    counts = [f"{len(boxes)} {what}" for boxes, _, what in reversed(_layers(scenery))]
    return f"from above: {', '.join(counts)}"


def _legend(figure: Figure, scenery: Scenery, colours: Mapping[str, Colour]) -> None:
    """Classes that occur, and what the line styles mean."""
    present = {name for boxes, _, _ in _layers(scenery) for name in boxes.names}
    handles = [
        Line2D([], [], color=colour, linewidth=4, label=name)
        for name, colour in colours.items()
        if name in present
    ]
    handles += [
        Line2D([], [], color="0.2", linestyle=style["linestyles"], label=what)
        for _, style, what in reversed(_layers(scenery))
    ]
    panels.legend_below(figure, handles, columns=max(3, round(figure.get_figwidth() / 1.6)))


def save_pictures(
    scenery: Scenery, colours: Mapping[str, Colour], caption: str, folder: Path
) -> list[Path]:
    """Write ``cameras.png``, where there are cameras, and ``bev.png``; returns their paths.

    Args:
        colours: of every class, as ``class_colours`` gives them.
        caption: what was detected by what, for the heading of every picture.
    """
    figures = {"bev": draw_above(scenery, colours)}
    if scenery.photographs:
        figures = {"cameras": draw_cameras(scenery, colours), **figures}
    return save_figures(figures, caption, folder)


def save_figures(figures: Mapping[str, Figure], caption: str, folder: Path) -> list[Path]:
    """Write every figure as ``<name>.png`` under the same heading; returns their paths."""
    files.make_folder(folder)
    paths = []
    for name, figure in figures.items():
        figure.suptitle(caption, fontsize=10, wrap=True)
        paths.append(panels.save(figure, folder / f"{name}.png", DPI))
    return paths


def film_frame(pictures: Sequence[Path], width: int = FILM_WIDTH) -> Image.Image:
    """The pictures of one sample side by side, equally high, together at most ``width`` wide."""
    images = []
    for path in pictures:
        with Image.open(path, formats=("PNG",)) as picture:
            images.append(picture.convert("RGB"))
    height = min(width / sum(one.width / one.height for one in images), images[0].height)
    sizes = [(round(height * one.width / one.height), round(height)) for one in images]
    frame = Image.new("RGB", (sum(size[0] for size in sizes), round(height)), "white")
    left = 0
    for image, size in zip(images, sizes, strict=True):
        frame.paste(image.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0]
    return frame


def save_film(frames: Sequence[Image.Image], seconds: float, path: Path) -> Path:
    """Write a GIF that shows every frame for ``seconds``, over and over."""
    size = (max(one.width for one in frames), max(one.height for one in frames))
    alike = [Image.new("RGB", size, "white") for _ in frames]
    for canvas, frame in zip(alike, frames, strict=True):
        canvas.paste(frame)
    timing = {"duration": 1000 * seconds, "loop": 0}
    with files.replacing(path) as file:
        alike[0].save(file, "GIF", save_all=True, append_images=alike[1:], **timing)
    return path
