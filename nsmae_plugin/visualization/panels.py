"""Panels of figures: images, maps of numbers, axes in metres, legends, colour bars, files.

Figures are created without pyplot, hence without a display and without global state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.ticker import AutoLocator

from nsmae_plugin.runtime import files
from nsmae_plugin.visualization.fitting import fit

NUMBER_COLOURS = "turbo"
ERROR_COLOURS = "magma"
BLANK = "0.93"
DPI = 100
Extent = tuple[float, float, float, float]


def show_numbers(
    axes: Axes,
    values: np.ndarray,
    title: str,
    limits: tuple[float, float],
    colours: str = NUMBER_COLOURS,
    extent: Extent | None = None,
) -> AxesImage:
    """Draw numbers (h, w) in false colours, NaN blank; with an extent, row 0 is at the bottom."""
    drawn = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=colormaps[colours].with_extremes(bad=BLANK),
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
        aspect="equal",
        origin="upper" if extent is None else "lower",
        extent=extent,
    )
    finish(axes, title)
    return drawn


def finish(axes: Axes, title: str) -> None:
    """Set the title and remove the ticks."""
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def metre_axes(axes: Axes) -> None:
    """Label a bird's-eye view in metres of the LiDAR frame, and mark the LiDAR at the origin."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(AutoLocator())
        axis.set_tick_params(labelsize=7)
    axes.set_xlabel("x, LiDAR frame (m)", fontsize=8)
    axes.set_ylabel("y, LiDAR frame (m)", fontsize=8)
    axes.plot(0, 0, marker="o", color="white", markeredgecolor="black", markersize=5)


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Add a legend below all panels, ``columns`` entries in a row, or fewer if they do not fit."""
    style: dict[str, Any] = {"loc": "outside lower center", "fontsize": 9, "frameon": False}
    legend = figure.legend(handles=handles, ncols=columns, **style)
    while columns > 1 and legend.get_window_extent().width > figure.bbox.width:
        columns -= 1
        legend.remove()
        legend = figure.legend(handles=handles, ncols=columns, **style)


def colour_bar(
    figure: FigureBase, drawn: Any, axes: Iterable[Axes], label: str, **options: Any
) -> None:
    """Add a colour bar beside ``axes``, labelled with quantity and unit."""
    bar = figure.colorbar(drawn, ax=list(axes), aspect=40, **options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def save_figures(figures: Mapping[str, Figure], caption: str, folder: Path) -> list[Path]:
    """Write every figure as ``<name>.png`` with the same heading; return the paths."""
    files.make_folder(folder)
    paths = []
    for name, figure in figures.items():
        figure.suptitle(caption, fontsize=10)
        paths.append(save(figure, folder / f"{name}.png", DPI))
    return paths


def pixels(figure: Figure) -> np.ndarray:
    """Draw a figure into an image, (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path, dpi: int = 110) -> Path:
    """Write a figure in the format of the file's suffix (without one: PNG); return ``path``.

    Titles and labels that are too wide are broken into lines first.
    """
    fit(figure)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix[1:] or "png")
    return path
