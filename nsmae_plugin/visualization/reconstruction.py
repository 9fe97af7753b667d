"""Pictures of a reconstruction: one sheet per camera, one from above, and an overview."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nsmae_plugin.runtime import files
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.panels import number, percent
from nsmae_plugin.visualization.sample import Array, CameraView, DepthView, SampleView

CAMERA_DEPTH = "depth along the optical axis (m)"
BEV_DEPTH = "depth below the top of the range (m)"
ERROR = "|rendered − target| (m)"
Limits = tuple[float, float]


def save_pictures(sample: SampleView, caption: str, folder: Path) -> list[Path]:
    """Write all pictures of a sample.

    Args:
        sample: the views to draw; those that are absent (no camera, no BEV head) are skipped.
        caption: what was rendered by what, for the heading of every picture.
        folder: made when it does not exist.

    Returns:
        The files, PNG: ``<camera>.png`` for each camera, ``bev.png``, ``overview.png``.
    """
    files.make_folder(folder)
    depths = [view.depth for view in sample.cameras if view.depth is not None]
    limits, errors = panels.depth_limits(depths), panels.error_limits(depths)
    written = []
    for view in sample.cameras:
        figure = draw_camera(view, limits, errors)
        figure.suptitle(f"{view.name} · {caption}", fontsize=10)
        written.append(panels.save(figure, folder / f"{view.name.replace(' ', '_')}.png"))
    if sample.bev is not None:
        figure = draw_bev(sample.bev, sample.bev_extent)
        figure.suptitle(f"View from above · {caption}", fontsize=10)
        written.append(panels.save(figure, folder / "bev.png"))
    figure = draw_overview(sample, limits)
    figure.suptitle(caption, fontsize=10)
    written.append(panels.save(figure, folder / "overview.png"))
    return written


def draw_camera(view: CameraView, limits: Limits, errors: Limits) -> Figure:
    """Panels of one camera, two to a row.

    Input and masked input; target and rendered colour; target and rendered depth; depth points and
    depth error.

    Args:
        view: the camera.
        limits: metres at both ends of the depth colours, shared by all cameras of a sample.
        errors: the same for the depth errors.
    """
    rows = 2 if view.depth is None else 4
    height, width = view.image.shape[:2]
    panel = (5.4 if view.depth is not None else 6.3) * height / width
    figure = Figure(figsize=(13, rows * (panel + 0.3) + 0.3), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    panels.show_image(axes[0, 0], view.image, f"input image ({height}×{width} pixels)")
    hidden = f"masked input: {percent(view.hidden)} of the cells in hidden patches"
    panels.show_image(axes[0, 1], view.masked_image, hidden)
    cells = "{}×{} cells".format(*view.target_rgb.shape[:2])
    panels.show_image(axes[1, 0], view.target_rgb, f"target colour ({cells})")
    panels.show_image(axes[1, 1], view.rendered_rgb, colour_title(view))
    if view.depth is not None:
        _draw_camera_depth(figure, axes[2:], view.depth, limits, errors)
    return figure


def _draw_camera_depth(
    figure: Figure, axes: np.ndarray, depth: DepthView, limits: Limits, errors: Limits
) -> None:
    target = f"target depth: LiDAR in {percent(depth.valid)} of the cells"
    panels.show_depth(axes[0, 0], depth.target, target, limits)
    drawn = panels.show_depth(axes[0, 1], depth.rendered, depth_title(depth), limits)
    panels.show_depth(axes[1, 0], depth.seen, seen_title(depth, "a visible LiDAR hint"), limits)
    panels.colour_bar(figure, drawn, axes[:, 0], CAMERA_DEPTH, location="left")
    wrong = panels.show_depth(
        axes[1, 1], depth.error, "error of the rendered depth", errors, panels.ERROR_COLOURS
    )
    panels.colour_bar(figure, wrong, axes[:, 1], ERROR, extend="max")


def draw_bev(bev: DepthView, extent: panels.Extent) -> Figure:
    """Target and rendered depth from above; what the network saw of the target; the error."""
    figure = Figure(figsize=(13, 2 * (5.1 * _aspect(extent) + 0.6) + 0.3), layout="constrained")
    axes = figure.subplots(2, 2)
    limits, errors = panels.depth_limits([bev]), panels.error_limits([bev])
    maps: list[tuple[Array, str]] = [
        (bev.target, f"target: LiDAR in {percent(bev.valid)} of the cells"),
        (bev.rendered, f"rendered: {error_numbers(bev)}"),
        (bev.seen, seen_title(bev, "a visible voxel")),
    ]
    for place, (values, title) in zip(axes.flat, maps, strict=False):
        drawn = panels.show_depth(place, values, title, limits, extent=extent)
    panels.colour_bar(figure, drawn, axes[:, 0], BEV_DEPTH, location="left")
    wrong = panels.show_depth(
        axes[1, 1], bev.error, "error at the target cells", errors, panels.ERROR_COLOURS, extent
    )
    panels.colour_bar(figure, wrong, axes[:, 1], ERROR, extend="max")
    for place in axes.flat:
        panels.metre_axes(place)
    return figure


def draw_overview(sample: SampleView, limits: Limits) -> Figure:
    """All cameras, a row each, above the view from above.

    Args:
        sample: the views to draw.
        limits: metres at both ends of the depth colours of the cameras.
    """
    count, below = len(sample.cameras), sample.bev is not None
    row = 3.4 * sample.cameras[0].image.shape[0] / sample.cameras[0].image.shape[1] if count else 0
    cameras_height = count * (row + 0.25)
    bev_height = (5.0 * _aspect(sample.bev_extent) + 0.7) * below
    figure = Figure(figsize=(17, cameras_height + bev_height + 0.5), layout="constrained")
    heights = [part for part in (cameras_height, bev_height) if part]
    parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if count:
        _overview_of_cameras(next(parts), sample, limits)
    if sample.bev is not None:
        _overview_of_bev(next(parts), sample.bev, sample.bev_extent)
    return figure


def _overview_of_cameras(figure: Figure, sample: SampleView, limits: Limits) -> None:
    columns = 3 if sample.cameras[0].depth is None else 5
    axes = figure.subplots(len(sample.cameras), columns, squeeze=False)
    for row, view in zip(axes, sample.cameras, strict=True):
        panels.show_image(row[0], view.masked_image, "masked input")
        row[0].set_ylabel(view.name, fontsize=9)
        panels.show_image(row[1], view.target_rgb, "target colour")
        panels.show_image(row[2], view.rendered_rgb, colour_title(view))
        if view.depth is not None:
            panels.show_depth(row[3], view.depth.target, "target depth", limits)
            drawn = panels.show_depth(row[4], view.depth.rendered, depth_title(view.depth), limits)
    if columns == 5:
        panels.colour_bar(figure, drawn, axes[:, -1], CAMERA_DEPTH)


def _overview_of_bev(figure: Figure, bev: DepthView, extent: panels.Extent) -> None:
    axes = figure.subplots(1, 3)
    limits = panels.depth_limits([bev])
    titles = (
        seen_title(bev, "a visible voxel"),
        "target from above",
        f"rendered: {error_numbers(bev)}",
    )
    for place, values, title in zip(
        axes, (bev.seen, bev.target, bev.rendered), titles, strict=True
    ):
        drawn = panels.show_depth(place, values, title, limits, extent=extent)
        panels.metre_axes(place)
    panels.colour_bar(figure, drawn, axes, BEV_DEPTH)


def colour_title(view: CameraView) -> str:
    """``rendered: PSNR …`` on hidden and visible patches."""
    hidden, visible = (number(view.psnr(hidden), "dB") for hidden in (True, False))
    return f"rendered: PSNR {hidden} hidden, {visible} visible"


def depth_title(depth: DepthView) -> str:
    """``rendered: …`` with the errors."""
    return f"rendered: {error_numbers(depth)}"


def seen_title(depth: DepthView, what: str) -> str:
    """Which share of the cells has a target of which the network saw ``what``."""
    return f"target cells with {what}: {percent(np.isfinite(depth.seen))} of all cells"


def error_numbers(depth: DepthView) -> str:
    """Mean absolute errors on hidden and visible target cells."""
    hidden, visible = (number(depth.mean_error(hidden), "m") for hidden in (True, False))
    return f"error {hidden} hidden, {visible} visible"


def _aspect(extent: panels.Extent) -> float:
    x_min, x_max, y_min, y_max = extent
    return (y_max - y_min) / (x_max - x_min)
