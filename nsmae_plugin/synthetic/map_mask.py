"""The bitmap of a location: where one can drive or walk, at 0.1 m a pixel, north up."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nsmae_plugin.synthetic.layout import Layout, polygons_of

RESOLUTION = 0.1
FOREGROUND = 255
# nuscenes-devkit looks for the bitmaps of its locations under these names.
_FILE_NAMES = {
    "singapore-onenorth": "53992ee3023e5494b90c316c183be829.png",
    "singapore-hollandvillage": "37819e65e09e5547b8a3ceaefba56bb2.png",
    "singapore-queenstown": "93406b464a165eaba6d9de76ca09f5da.png",
    "boston-seaport": "36092f0b03a857c6a3403e25b4b7aab3.png",
}


def mask_file_name(location: str) -> str:
    """Name of the bitmap of an official location."""
    return _FILE_NAMES[location]


def write_mask(path: Path, layouts: list[Layout], canvas: tuple[float, ...]) -> None:
    """Write the drivable and walkable area of the layouts on a map of ``canvas`` metres."""
    width, height = (round(metres / RESOLUTION) for metres in canvas)
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for layout in layouts:
        for polygon in [*layout.walkways, *polygons_of(layout.drivable)]:
            draw.polygon(_pixels(polygon.exterior.coords, height), fill=FOREGROUND)
    image.save(path)


def _pixels(coordinates, height: int) -> list[tuple[float, float]]:
    pixels = np.asarray(coordinates) / RESOLUTION
    return [(x, height - y) for x, y in pixels]
