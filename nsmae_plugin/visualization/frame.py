"""A frame to draw predictions on: its camera images, LiDAR points and boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from PIL import Image

from nsmae_plugin.geometry.boxes import Boxes
from nsmae_plugin.visualization import panels

PANEL_WIDTH = 640  # pixels of one camera image
COLUMNS = 3
TITLE = 0.25  # inches above an image
# In the order of their positions around the vehicle; other cameras follow in the order of the data.
CAMERA_ORDER = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)


@dataclass(frozen=True)
class CameraImage:
    """The image of one camera, with its projection.

    Attributes:
        lidar2image: (4, 4), LiDAR point → (u * depth, v * depth, depth), in pixels of ``image``.
    """

    name: str
    image: Image.Image
    lidar2image: np.ndarray


@dataclass(frozen=True)
class Frame:
    """Images, points and boxes of one frame to draw.

    Attributes:
        images: one per camera; may be empty.
        points: (P, 3 or more), LiDAR frame, metres; None without LiDAR.
        predicted: predicted boxes.
        truth: annotated boxes; None where there are no annotations.
        extent: x_min, x_max, y_min, y_max of the bird's-eye view, LiDAR frame, metres.
    """

    images: tuple[CameraImage, ...]
    points: np.ndarray | None
    predicted: Boxes
    truth: Boxes | None
    extent: panels.Extent


def camera_figure(
    images: Sequence[CameraImage], draw: Callable[[Axes, CameraImage], None]
) -> Figure:
    """A figure of all camera images, up to three in a row.

    Args:
        draw: draws into the panel of an image, in its pixel coordinates.
    """
    columns = min(COLUMNS, len(images))
    width = PANEL_WIDTH / panels.DPI
    size = (columns * width, rows_height(images, columns, width) + 0.7)
    figure = Figure(figsize=size, dpi=panels.DPI, layout="constrained")
    draw_images(figure, images, columns, draw)
    return figure


def rows_height(images: Sequence[CameraImage], columns: int, width: float) -> float:
    """Height in inches of all rows of images, each image ``width`` inches wide; 0 without any."""
    rows = -(-len(images) // columns)
    shape = max((one.image.height / one.image.width for one in images), default=0.0)
    return rows * (shape * width + TITLE)


def draw_images(
    figure: FigureBase,
    images: Sequence[CameraImage],
    columns: int,
    draw: Callable[[Axes, CameraImage], None] | None = None,
) -> None:
    """Fill a figure with camera images in the order of ``CAMERA_ORDER``, titled by name."""
    rows = -(-len(images) // columns)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, camera in zip(axes, sorted(images, key=_position), strict=False):
        width, height = camera.image.size
        small = camera.image.copy()
        small.thumbnail((PANEL_WIDTH, height))
        extent = (0, width, height, 0)
        panel.imshow(small, extent=extent, aspect="equal", interpolation="antialiased")
        panels.finish(panel, camera.name)
        if draw is not None:
            draw(panel, camera)
        panel.set_xlim(0, width)
        panel.set_ylim(height, 0)
    for panel in axes[len(images) :]:
        panel.remove()


def _position(camera: CameraImage) -> int:
    known = camera.name in CAMERA_ORDER
    return CAMERA_ORDER.index(camera.name) if known else len(CAMERA_ORDER)
