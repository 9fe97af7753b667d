"""Streets of one scene: a main road that the ego vehicle follows and a street that crosses it."""

from dataclasses import dataclass, field

import numpy as np
from shapely.geometry import MultiPolygon, Polygon
from shapely.ops import unary_union

from nsmae_plugin.synthetic.road import Centreline, Piece

LANE = 3.5
BIKE_LANE = 1.6
PARKING = 3.1
WALKWAY = 4.0
CROSS_HALF_WIDTH = LANE + 0.8
CROSS_HALF_LENGTH = 90.0
CROSSING_GAP = 1.5
CROSSING_WIDTH = 3.5
STOP_LINE = 0.5
# From the edge of the junction to the stop line: traffic waits beyond it.
JUNCTION_MARGIN = CROSSING_GAP + CROSSING_WIDTH + 1.0 + STOP_LINE
ROAD_BEHIND = 110.0
ROAD_AHEAD = 130.0
CAR_PARK = (30.0, 16.0)
CAR_PARK_PITCH = 3.0
BLOCK_MARGIN = 120.0


@dataclass(frozen=True)
class Lane:
    """One direction of travel on a road between two arc lengths (``start`` < ``stop``).

    ``d`` is the offset of its middle; ``direction`` is +1 along the road's s, -1 against it;
    ``connector`` marks the stretch inside a junction; ``road`` is 'main' or 'cross'.
    """

    road: str
    start: float
    stop: float
    d: float
    direction: int
    connector: bool

    @property
    def entry(self) -> float:
        """Arc length at which traffic comes in."""
        return self.start if self.direction == 1 else self.stop

    @property
    def exit(self) -> float:
        """Arc length at which traffic leaves."""
        return self.stop if self.direction == 1 else self.start


@dataclass
class Crossing:
    """A pedestrian crossing over all lanes of a road, and the stop lines in front of it."""

    road: str
    start: float
    stop: float
    half_width: float
    signals: bool
    stop_lines: list[Polygon] = field(default_factory=list)


class Layout:
    """Geometry of one scene in global metres.

    Args:
        generator: decides curvature, number of lanes, where things are.
        travel: metres that the ego vehicle will drive.
        side: +1 where traffic keeps right, -1 where it keeps left.
        block: (x, y) of the south-west corner of the scene's square of the map.
    """

    def __init__(
        self,
        generator: np.random.Generator,
        travel: float,
        side: int,
        block: tuple[float, float],
    ) -> None:
        self.side = side
        self.lanes_per_direction = int(generator.integers(1, 3))
        self.half_width = self.lanes_per_direction * LANE + BIKE_LANE + PARKING
        self.ego_start = ROAD_BEHIND
        self.travel = travel
        pieces = _random_pieces(generator, ROAD_BEHIND + travel + ROAD_AHEAD)
        self.junction = ROAD_BEHIND + generator.uniform(22.0, 40.0 + travel)
        self._place(float(generator.uniform(-np.pi, np.pi)), pieces, block)
        self._add_crossings(generator)
        self._add_car_parks(generator)
        self._build_areas()

    def _place(self, yaw: float, pieces: list[Piece], block: tuple[float, float]) -> None:
        """Lay the two roads so that their bounding box is in the middle of the block."""
        origin = (0.0, 0.0)
        for _ in range(2):
            self.main = Centreline((*origin, yaw), pieces)
            x, y, heading = self.main.pose(self.junction, -CROSS_HALF_LENGTH)
            self.cross = Centreline((x, y, heading + np.pi / 2), [Piece(2 * CROSS_HALF_LENGTH, 0)])
            outline = np.concatenate(
                [self.main.points(0, self.main.length), self.cross.points(0, self.cross.length)]
            )
            middle = (outline.min(0) + outline.max(0)) / 2
            shift = np.array(block) + self.block_size(self.travel) / 2 - middle
            origin = (origin[0] + float(shift[0]), origin[1] + float(shift[1]))

    @staticmethod
    def block_size(travel: float) -> float:
        """Side of the square of the map, in whole metres, that a scene may need."""
        return float(np.ceil(ROAD_BEHIND + travel + ROAD_AHEAD + BLOCK_MARGIN))

    def road(self, name: str) -> Centreline:
        return self.main if name == "main" else self.cross

    def half(self, name: str) -> float:
        """Half of the paved width of a road."""
        return self.half_width if name == "main" else CROSS_HALF_WIDTH

    def junction_span(self, name: str, margin: float = JUNCTION_MARGIN) -> tuple[float, float]:
        """Arc lengths between which a road belongs to the junction."""
        middle, half = self.junction, CROSS_HALF_WIDTH
        if name == "cross":
            middle, half = CROSS_HALF_LENGTH, self.half_width
        return middle - half - margin, middle + half + margin

    def lane_count(self, name: str) -> int:
        """Lanes of each direction of a road."""
        return self.lanes_per_direction if name == "main" else 1

    def spans(self, name: str) -> list[tuple[float, float]]:
        """Arc lengths of a road before the junction, in it, and behind it."""
        before, after = self.junction_span(name)
        return [(0.0, before), (before, after), (after, self.road(name).length)]

    def lane_offset(self, direction: int, index: int) -> float:
        """Offset d of the middle of a lane; index 0 is next to the road divider."""
        return -self.side * direction * (index + 0.5) * LANE

    def lanes(self) -> list[Lane]:
        """All lanes, cut at the junction; connectors lead through it."""
        return [
            Lane(name, *span, self.lane_offset(direction, index), direction, connector=part == 1)
            for name in ("main", "cross")
            for direction in (1, -1)
            for index in range(self.lane_count(name))
            for part, span in enumerate(self.spans(name))
        ]

    def _add_crossings(self, generator: np.random.Generator) -> None:
        self.crossings: list[Crossing] = []
        for name in ("main", "cross"):
            low, high = self.junction_span(name, CROSSING_GAP)
            for start in (low - CROSSING_WIDTH, high):
                self._add_crossing(name, start, signals=name == "main", one_way=start < low)
        sign = generator.choice([-1, 1])
        middle = self.junction + sign * generator.uniform(50.0, 65.0)
        self._add_crossing("main", middle, signals=False, one_way=None)

    def _add_crossing(self, road: str, start: float, signals: bool, one_way: bool | None) -> None:
        """``one_way``: True/False when only traffic along/against s stops, None for both."""
        stop = start + CROSSING_WIDTH
        crossing = Crossing(road, start, stop, self.half(road), signals)
        for direction in (1, -1):
            if one_way is not None and one_way != (direction == 1):
                continue
            near = start - 1.0 if direction == 1 else stop + 1.0
            far = near - direction * STOP_LINE
            outer = -self.side * direction * self.lane_count(road) * LANE
            line = self.road(road).area(min(near, far), max(near, far), 0.0, outer)
            crossing.stop_lines.append(line)
        self.crossings.append(crossing)

    def _add_car_parks(self, generator: np.random.Generator) -> None:
        """(start of s, side of d) of each car park, off the junction and beyond the walkway."""
        low, high = self.junction_span("main")
        places = [(low - CAR_PARK[0] - generator.uniform(12, 25), int(generator.choice([-1, 1])))]
        places.append((high + generator.uniform(12, 25), int(generator.choice([-1, 1]))))
        self.car_parks = places

    def _build_areas(self) -> None:
        """The polygons of the surface: drivable area, walkways, car parks."""
        inner = self.half_width + WALKWAY
        self.car_park_areas, driveways = [], []
        for start, sign in self.car_parks:
            middle = start + CAR_PARK[0] / 2
            edges = sign * (self.half_width - 0.2), sign * (inner + 0.2)
            driveways.append(self.main.area(middle - 3.5, middle + 3.5, *edges))
            depth = sign * inner, sign * (inner + CAR_PARK[1])
            self.car_park_areas.append(self.main.area(start, start + CAR_PARK[0], *depth))
        roads = self._both_roads(0.0)
        self.drivable = unary_union([roads, *driveways, *self.car_park_areas])
        self.walkways = polygons_of(self._both_roads(WALKWAY).difference(self.drivable))

    def _both_roads(self, margin: float) -> Polygon:
        """The paved area of both roads, wider by ``margin`` on each side."""
        halves = {name: self.half(name) + margin for name in ("main", "cross")}
        return unary_union(
            [
                self.road(name).area(0, self.road(name).length, -half, half)
                for name, half in halves.items()
            ]
        )


def polygons_of(shape: Polygon | MultiPolygon) -> list[Polygon]:
    """The polygons of a shapely shape, slivers under a tenth of a square metre left out."""
    parts = getattr(shape, "geoms", [shape])
    return [part for part in parts if isinstance(part, Polygon) and part.area > 0.1]


def _random_pieces(generator: np.random.Generator, length: float) -> list[Piece]:
    """A straight road, a bend, or an S; the curve lies where the ego vehicle drives."""
    kind = generator.choice(["straight", "bend", "s"], p=[0.25, 0.5, 0.25])
    if kind == "straight":
        return [Piece(length, 0.0)]
    curvature = float(generator.choice([-1, 1]) / generator.uniform(130.0, 260.0))
    lead = ROAD_BEHIND - 20.0 + float(generator.uniform(0.0, 15.0))
    arc = 40.0 + (length - ROAD_BEHIND - ROAD_AHEAD) * (1.0 if kind == "bend" else 0.5)
    arc = min(arc, 1.2 / abs(curvature))
    arcs = [Piece(arc, sign * curvature) for sign in ((1,) if kind == "bend" else (1, -1))]
    return [Piece(lead, 0.0), *arcs, Piece(length - lead - sum(p.length for p in arcs), 0.0)]
