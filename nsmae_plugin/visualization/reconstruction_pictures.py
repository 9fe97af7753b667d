"""Pictures of a reconstruction, from the panels of its render heads: sheets and an overview."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

from nsmae_plugin import host
from nsmae_plugin.errors import DataError
from nsmae_plugin.models.render_head import Panel
from nsmae_plugin.runtime import files
from nsmae_plugin.visualization import panels

SHEET_WIDTH, OVERVIEW_WIDTH = 13.0, 17.0  # inches
HEADINGS = {"bev": "View from above"}
Scale = tuple[str, bool]  # quantity with unit, and whether it is an error
Limits = dict[Scale, tuple[float, float]]


def sample_of(
    batch: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    index: int,
    point_cloud_range: Sequence[float],
) -> dict[str, Any]:
    """Sample ``index`` of a batch as the render heads draw it.

    Args:
        predictions: of the network in evaluation mode.

    Raises:
        DataError: nothing was rendered.
    """
    sample = dict(predictions[index])
    if not sample.get("render_heads"):
        raise DataError("the network rendered nothing: it has no MODEL.RENDER_HEADS")
    sample["point_cloud_range"] = tuple(point_cloud_range)
    if "camera_imgs" in batch:
        sample |= {key: batch[key][index] for key in ("camera_imgs", "image_mean", "image_std")}
        sample["camera_names"] = camera_names(batch, index)
    return sample


def camera_names(batch: Mapping[str, Any], index: int) -> list[str]:
    """Camera names: the folder of each image, as in nuScenes, or ``camera 0`` and so on."""
    count = batch["camera_imgs"].shape[1]
    paths = batch.get("image_paths")
    folders = (
        [PurePath(str(path)).parent.name for path in paths[index]] if paths is not None else []
    )
    if len(folders) == count and len(set(folders)) == count and all(folders):
        return folders
    return [f"camera {slot}" for slot in range(count)]


def save_pictures(sample: Mapping[str, Any], caption: str, folder: Path) -> list[Path]:
    """Draw the panels of all render heads of a sample.

    Args:
        sample: from :func:`sample_of`.
        caption: heading of every picture.
        folder: created if it does not exist.

    Returns:
        The paths of the pictures: ``<sheet>.png`` for every sheet, and ``overview.png``.
    """
    heads = [host.lookup("render_head", name) for name in sample["render_heads"]]
    files.make_folder(folder)
    groups = [(group, colour_limits(group)) for group in (head.panels(sample) for head in heads)]
    written = []
    for name in dict.fromkeys(panel.sheet for group, _ in groups for panel in group):
        figure = draw_sheet(name, groups)
        figure.suptitle(f"{HEADINGS.get(name, name)} · {caption}", fontsize=10)
        written.append(panels.save(figure, folder / f"{name.replace(' ', '_')}.png"))
    written.append(panels.save(overview(sample, caption), folder / "overview.png"))
    return written


def overview(sample: Mapping[str, Any], caption: str) -> Figure:
    """The main panels of all render heads of a sample, from :func:`sample_of`, in one figure."""
    heads = [host.lookup("render_head", name) for name in sample["render_heads"]]
    figure = draw_overview([head.overview(sample) for head in heads])
    figure.suptitle(caption, fontsize=10)
    return figure


def colour_limits(group: Iterable[Panel]) -> Limits:
    """Colour limits of every scale of a head, which all its panels share.

    From zero, or a negative minimum, to the maximum; for errors to the 98th percentile.
    """
    values: dict[Scale, list[np.ndarray]] = {}
    for panel in group:
        if panel.scale is not None:
            finite = panel.values[np.isfinite(panel.values)]
            values.setdefault((panel.scale, panel.error), []).append(finite)
    limits = {}
    for scale, parts in values.items():
        joined = np.concatenate(parts)
        if not joined.size:
            limits[scale] = (0.0, 1.0)
        elif scale[1]:
            limits[scale] = (0.0, float(np.percentile(joined, 98)))
        else:
            limits[scale] = (min(0.0, float(joined.min())), float(joined.max()))
    return limits


def draw_sheet(name: str, groups: Iterable[tuple[Sequence[Panel], Limits]]) -> Figure:
    """One sheet: the panels of every head that belong to it, two in a row.

    Args:
        groups: the panels of every head, and their colour limits.
    """
    blocks = [([one for one in group if one.sheet == name], limits) for group, limits in groups]
    blocks = [(block, limits) for block, limits in blocks if block]
    rows = sum(-(-len(block) // 2) for block, _ in blocks)
    height = max(_height(panel, (5.4, 0.3), (5.1, 0.6)) for block, _ in blocks for panel in block)
    figure = Figure(figsize=(SHEET_WIDTH, rows * height + 0.3), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    start = 0
    for block, limits in blocks:
        _draw_block(figure, [*axes[start : start + len(block)]], block, limits)
        start += len(block) + len(block) % 2
    for place in axes:
        if not place.has_data():
            place.remove()
    return figure


def _draw_block(
    figure: Figure, places: Sequence[Axes], block: Sequence[Panel], limits: Limits
) -> None:
    """The panels of one head, with colour bars: on the left, and for errors on the right."""
    drawn = _draw(places, block, limits)
    rows = sorted({index // 2 for index, one in enumerate(block) if one.scale is not None})
    for (scale, error), image in drawn.items():
        beside = [places[2 * row + error] for row in rows if 2 * row + error < len(block)]
        options = {"extend": "max"} if error else {"location": "left"}
        panels.colour_bar(figure, image, beside or places, scale, **options)


def draw_overview(groups: Iterable[Sequence[Panel]]) -> Figure:
    """The panels of all heads, a row per sheet."""
    rows = [_rows(group) for group in groups if group]
    heights = [sum(_row_height(row) for row in one) for one in rows]
    size = (OVERVIEW_WIDTH, sum(heights) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, one in zip(parts, rows, strict=True):
        _draw_rows(part, one)
    return figure


def _rows(group: Iterable[Panel]) -> list[list[Panel]]:
    rows: dict[str, list[Panel]] = {}
    for panel in group:
        rows.setdefault(panel.sheet, []).append(panel)
    return list(rows.values())


def _row_height(row: Sequence[Panel]) -> float:
    width = OVERVIEW_WIDTH / len(row)
    return max(_height(panel, (width, 0.25), (width - 2 / 3, 0.7)) for panel in row)


def _draw_rows(figure: SubFigure, rows: Sequence[Sequence[Panel]]) -> None:
    columns = max(map(len, rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    group = [panel for row in rows for panel in row]
    places = [place for line, row in zip(axes, rows, strict=True) for place in line[: len(row)]]
    drawn = _draw(places, group, colour_limits(group))
    for line, row in zip(axes, rows, strict=True):
        if row[0].extent is None:
            line[0].set_ylabel(row[0].sheet, fontsize=9)
        for place in line[len(row) :]:
            place.remove()
    for (scale, error), image in drawn.items():
        beside = [place for place, one in zip(places, group, strict=True) if one.scale == scale]
        panels.colour_bar(figure, image, beside, scale, **({"extend": "max"} if error else {}))


def _draw(places: Iterable[Axes], group: Iterable[Panel], limits: Limits) -> dict[Scale, AxesImage]:
    """Draw every panel; return one image per scale, for the colour bars."""
    drawn = {}
    for place, panel in zip(places, group, strict=True):
        if panel.scale is None:
            place.imshow(panel.values, interpolation="nearest", aspect="equal")
            panels.finish(place, panel.title)
        else:
            scale = (panel.scale, panel.error)
            colours = panels.ERROR_COLOURS if panel.error else panels.NUMBER_COLOURS
            drawn[scale] = panels.show_numbers(
                place, panel.values, panel.title, limits[scale], colours, panel.extent
            )
        if panel.extent is not None:
            panels.metre_axes(place)
    return drawn


def _height(panel: Panel, image: tuple[float, float], bev: tuple[float, float]) -> float:
    """Height of a panel in inches, from its width and the margins for title and axis labels.

    Args:
        image, bev: width and margin in inches, of images and of bird's-eye views.
    """
    if panel.extent is None:
        height, width = panel.values.shape[:2]
        return image[0] * height / width + image[1]
    x_min, x_max, y_min, y_max = panel.extent
    return bev[0] * (y_max - y_min) / (x_max - x_min) + bev[1]
