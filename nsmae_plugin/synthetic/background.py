"""The background, which is not annotated: buildings, trees and lamp posts."""

from dataclasses import dataclass

import numpy as np
from shapely.geometry import Polygon
from shapely.ops import unary_union
from shapely.prepared import prep

from nsmae_plugin.geometry.rotations import yaw_matrix
from nsmae_plugin.synthetic import layout as roads
from nsmae_plugin.synthetic.actors import Actor
from nsmae_plugin.synthetic.layout import Layout
from nsmae_plugin.synthetic.road import Centreline
from nsmae_plugin.synthetic.shapes import FACADE, FOLIAGE, PLAIN

WALLS = (
    (0.72, 0.62, 0.5),
    (0.6, 0.32, 0.25),
    (0.75, 0.74, 0.72),
    (0.5, 0.52, 0.56),
    (0.66, 0.56, 0.62),
    (0.55, 0.6, 0.48),
)
BARK = (0.3, 0.22, 0.15)
LEAVES = ((0.16, 0.36, 0.12), (0.26, 0.42, 0.14), (0.42, 0.4, 0.12))
STEEL = (0.35, 0.36, 0.38)


@dataclass(frozen=True)
class Block:
    """A box that stands on the ground or above it. Metres and radians, global frame."""

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    colour: np.ndarray
    texture: int

    def footprint(self) -> Polygon:
        return Polygon(rectangle(self.centre[:2], self.size[:2], self.yaw))


def rectangle(centre, size, yaw: float) -> np.ndarray:
    """(4, 2) corners of a rectangle turned by ``yaw``."""
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.asarray(size) / 2
    return corners @ yaw_matrix(yaw).T + np.asarray(centre)


def make_background(
    layout: Layout, actors: list[Actor], generator: np.random.Generator
) -> list[Block]:
    """Buildings along both roads and at their ends, trees and lamp posts along the kerbs."""
    streets = prep(unary_union([layout.drivable, *layout.walkways]))
    buildings: list[Block] = []
    taken: list[Polygon] = []
    for road, half in ((layout.main, layout.half_width), (layout.cross, roads.CROSS_HALF_WIDTH)):
        row = _building_row(road, half + roads.WALKWAY, generator)
        for building in (*row, *_end_buildings(road, generator)):
            footprint = building.footprint()
            blocked = streets.intersects(footprint) or any(map(footprint.intersects, taken))
            if not blocked:
                buildings.append(building)
                taken.append(footprint.buffer(0.5))
    return buildings + _kerb_row(layout, actors, generator)


def _building_row(road: Centreline, inner: float, generator: np.random.Generator) -> list[Block]:
    """Candidates on both sides; the caller drops obstructing ones."""
    row = []
    for sign in (-1, 1):
        s = float(generator.uniform(0, 8))
        while s < road.length:
            length, depth = generator.uniform(9, 24), generator.uniform(8, 14)
            storeys = generator.choice([4.0, 7.0, 10.0, 16.0, 28.0])
            height = storeys * generator.uniform(0.8, 1.2)
            d = sign * (inner + generator.uniform(0.5, 6.0) + depth / 2)
            x, y, yaw = road.pose(s + length / 2, d)
            row.append(_building((x, y), (length, depth, height), yaw, generator))
            s += length + float(generator.choice([0.8, 3.0, 9.0]))
    return row


def _end_buildings(road: Centreline, generator: np.random.Generator) -> list[Block]:
    """A house across each end of a road."""
    ends = []
    for s in (-14.0, road.length + 14.0):
        x, y, yaw = road.pose(s)
        ends.append(_building((x, y), (12.0, 50.0, generator.uniform(8, 25)), yaw, generator))
    return ends


def _building(place, size, yaw: float, generator: np.random.Generator) -> Block:
    colour = np.array(WALLS[generator.integers(len(WALLS))]) * generator.uniform(0.75, 1.15)
    return Block((*place, size[2] / 2), size, yaw, np.clip(colour, 0, 1), FACADE)


def _kerb_row(layout: Layout, actors: list[Actor], generator: np.random.Generator) -> list[Block]:
    """Trees and lamp posts at the kerb, off walkers and traffic."""
    standing = np.array([actor.motion.pose(0.0)[:2] for actor in actors if not actor.moving])
    drivable = prep(layout.drivable.buffer(0.25))
    # Walkers of the main road cross the side street's kerbs here.
    low, high = layout.junction_span("main", roads.WALKWAY)
    blocks = []
    for sign in (-1, 1):
        for s in np.arange(4.0, layout.main.length, 9.0):
            s = s + generator.uniform(-2, 2)
            x, y, yaw = layout.main.pose(s, sign * (layout.half_width + 0.55))
            near = np.hypot(*(standing - (x, y)).T).min()
            spot = Polygon(rectangle((x, y), (0.4, 0.4), yaw))
            if low < s < high or near < 1.6 or drivable.intersects(spot):
                continue
            make = _tree if generator.random() < 0.6 else _lamp_post
            blocks += make(x, y, yaw, generator)
    return blocks


def _tree(x: float, y: float, yaw: float, generator: np.random.Generator) -> list[Block]:
    # Crowns begin above the tallest vehicle: none may reach into the box of one.
    trunk = generator.uniform(4.0, 4.6)
    crown = generator.uniform((1.8, 1.8, 1.6), (3.2, 3.2, 3.2))
    leaves = np.array(LEAVES[generator.integers(len(LEAVES))]) * generator.uniform(0.8, 1.2)
    return [
        Block((x, y, trunk / 2), (0.32, 0.32, trunk), yaw, np.array(BARK), PLAIN),
        Block((x, y, trunk + crown[2] / 2), tuple(crown), yaw + 0.6, leaves, FOLIAGE),
    ]


def _lamp_post(x: float, y: float, yaw: float, _: np.random.Generator) -> list[Block]:
    steel = np.array(STEEL)
    return [
        Block((x, y, 3.25), (0.18, 0.18, 6.5), yaw, steel, PLAIN),
        Block((x, y, 6.45), (0.25, 1.2, 0.14), yaw, steel, PLAIN),
    ]
