"""The surface of the ground as a raster of materials, painted from the polygons of the layout."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from shapely.geometry import Polygon

from nsmae_plugin.synthetic import layout as roads
from nsmae_plugin.synthetic.layout import Layout, polygons_of

GRASS, ASPHALT, WALKWAY, CAR_PARK, WHITE, YELLOW, KERB, BIKE = range(8)
RESOLUTION = 0.05
# Metres around the path of the ego vehicle that the raster covers; grass beyond.
REACH = 115.0
STRIPE = 0.5


@dataclass(frozen=True)
class Ground:
    """Materials by place: ``material[row, column]``, row 0 in the south. Global metres."""

    material: np.ndarray
    origin: tuple[float, float]

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Material numbers (uint8) at global positions; :data:`GRASS` outside the raster."""
        column = ((x - self.origin[0]) * (1 / RESOLUTION)).astype(np.int32)
        row = ((y - self.origin[1]) * (1 / RESOLUTION)).astype(np.int32)
        height, width = self.material.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = np.where(inside, row * width + column, 0)
        return np.where(inside, self.material.ravel()[index], GRASS).astype(np.uint8)


class _Painter:
    """Draws polygons and lines given in global metres."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low = low
        width, height = np.ceil((high - low) / RESOLUTION).astype(int)
        self.image = Image.new("L", (int(width), int(height)), GRASS)
        self.draw = ImageDraw.Draw(self.image)

    def _pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        # Pixel i covers [i, i + 1): its middle is what PIL calls i.
        return [tuple(p) for p in (np.asarray(points) - self.low) / RESOLUTION - 0.5]

    def area(self, polygon: Polygon, material: int) -> None:
        """Paint a polygon; its holes stay what they are."""
        mask = Image.new("1", self.image.size) if polygon.interiors else None
        draw = ImageDraw.Draw(mask) if mask else self.draw
        draw.polygon(self._pixels(polygon.exterior.coords), fill=1 if mask else material)
        for ring in polygon.interiors:
            draw.polygon(self._pixels(ring.coords), fill=0)
        if mask:
            self.image.paste(material, mask=mask)

    def line(self, points: np.ndarray, width: float, material: int) -> None:
        pixels = max(1, round(width / RESOLUTION))
        self.draw.line(self._pixels(points), fill=material, width=pixels, joint="curve")


def paint_ground(layout: Layout) -> Ground:
    """Paint the layout around the ego vehicle's path, in the order in which things lie."""
    path = layout.main.points(layout.ego_start, layout.ego_start + layout.travel)
    low = np.floor(path.min(0) - REACH)
    painter = _Painter(low, np.ceil(path.max(0) + REACH))
    for polygon in layout.walkways:
        painter.area(polygon, WALKWAY)
    for polygon in polygons_of(layout.drivable):
        painter.area(polygon, ASPHALT)
        for ring in (polygon.exterior, *polygon.interiors):
            painter.line(np.array(ring.coords), 0.2, KERB)
    for polygon in layout.car_park_areas:
        painter.area(polygon, CAR_PARK)
    _paint_main_road(painter, layout)
    for start, stop in layout.spans("cross")[::2]:
        painter.line(layout.cross.points(start, stop), 0.15, YELLOW)
    for crossing in layout.crossings:
        _paint_crossing(painter, layout, crossing)
    for place in layout.car_parks:
        _paint_car_park(painter, layout, *place)
    return Ground(np.asarray(painter.image), (float(low[0]), float(low[1])))


def _paint_main_road(painter: _Painter, layout: Layout) -> None:
    main = layout.main
    edge = layout.lanes_per_direction * roads.LANE
    for start, stop in layout.spans("main")[::2]:
        for sign in (-1, 1):
            painter.area(main.area(start, stop, sign * edge, sign * (edge + 1.6)), BIKE)
            painter.line(main.points(start, stop, sign * edge), 0.15, WHITE)
            painter.line(main.points(start, stop, sign * (edge + roads.BIKE_LANE)), 0.15, WHITE)
            painter.line(main.points(start, stop, sign * 0.18), 0.15, YELLOW)
            for index in range(1, layout.lanes_per_direction):
                _paint_dashes(painter, main, start, stop, sign * index * roads.LANE)


def _paint_dashes(painter: _Painter, road, start: float, stop: float, d: float) -> None:
    for s in np.arange(start, stop - 3.0, 7.0):
        painter.line(road.points(s, s + 3.0, d), 0.15, WHITE)


def _paint_crossing(painter: _Painter, layout: Layout, crossing) -> None:
    road = layout.road(crossing.road)
    edge = crossing.half_width - 0.2  # the kerb
    painter.area(road.area(crossing.start, crossing.stop, -edge, edge), ASPHALT)
    for d in np.arange(-crossing.half_width + 0.3, crossing.half_width - STRIPE, 2 * STRIPE):
        painter.area(road.area(crossing.start, crossing.stop, d, d + STRIPE), WHITE)
    for polygon in crossing.stop_lines:
        painter.area(polygon, WHITE)


def _paint_car_park(painter: _Painter, layout: Layout, start: float, sign: int) -> None:
    length, depth = roads.CAR_PARK
    inner = layout.half_width + roads.WALKWAY
    for s in np.arange(start, start + length + 0.1, roads.CAR_PARK_PITCH):
        line = layout.main.pose(np.full(2, s), sign * (inner + depth - np.array([5.2, 0.0])))
        painter.line(line[:, :2], 0.12, WHITE)
