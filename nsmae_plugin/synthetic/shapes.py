"""Looks of the ten detection classes: sizes, colours, and the boxes that each is made of.

A part is a box given in units of the object's own box: centre and size as fractions of (length,
width, height), x forward, y left, z up, the origin in the middle. Parts stay inside the object's
box, so that a LiDAR return from the object lies inside its annotation.
"""

from dataclasses import dataclass

import numpy as np

# How a part is painted; see surface.py.
PLAIN, CABIN, BUS, CARGO, STRIPES, BANDS, FACADE, FOLIAGE = range(8)
# Metres that every part keeps from the faces of the object's box: more than the range noise.
INSET = 0.03

DARK = (0.07, 0.07, 0.08)
SKIN = [(0.87, 0.66, 0.53), (0.62, 0.42, 0.30), (0.36, 0.24, 0.17)]
WHITE = (0.9, 0.9, 0.88)


@dataclass(frozen=True)
class Part:
    """One box of an object; ``colour`` names an entry of the object's palette."""

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    colour: str
    texture: int = PLAIN


@dataclass(frozen=True)
class Look:
    """A class: nuScenes category, (length, width, height) in metres and their relative spread."""

    category: str
    size: tuple[float, float, float]
    spread: float
    parts: tuple[Part, ...]
    colours: tuple[tuple[float, float, float], ...]


def _wheels(x: tuple[float, ...], length: float, height: float) -> tuple[Part, ...]:
    z = -0.5 + height / 2
    return tuple(
        Part((at, side * 0.42, z), (length, 0.15, height), "dark") for at in x for side in (-1, 1)
    )


_RIDER = (
    Part((-0.05, 0.0, 0.12), (0.22, 0.75, 0.36), "cloth"),
    Part((0.0, 0.0, 0.40), (0.14, 0.32, 0.19), "skin"),
)


def _cycle(thickness: float, body: float) -> tuple[Part, ...]:
    """Two wheels, a frame and handlebars, up to ``body`` of the height."""
    top = -0.5 + body
    return (
        Part((0.33, 0.0, -0.5 + 0.36 * body), (0.32, thickness, 0.72 * body), "dark"),
        Part((-0.33, 0.0, -0.5 + 0.36 * body), (0.32, thickness, 0.72 * body), "dark"),
        Part((0.0, 0.0, -0.5 + 0.62 * body), (0.5, thickness * 1.4, 0.34 * body), "body"),
        Part((0.28, 0.0, top - 0.06 * body), (0.06, 0.95, 0.12 * body), "dark"),
    )


CAR = (
    Part((0.0, 0.0, -0.13), (1.0, 1.0, 0.42), "body"),
    Part((-0.06, 0.0, 0.29), (0.56, 0.86, 0.42), "body", CABIN),
    *_wheels((-0.31, 0.31), 0.14, 0.38),
)
TRUCK = (
    Part((0.38, 0.0, -0.06), (0.24, 0.94, 0.68), "body", CABIN),
    Part((-0.13, 0.0, 0.12), (0.74, 1.0, 0.76), "second", CARGO),
    Part((0.0, 0.0, -0.32), (0.96, 0.6, 0.12), "dark"),
    *_wheels((-0.36, -0.2, 0.36), 0.12, 0.30),
)
BUS_PARTS = (
    Part((0.0, 0.0, 0.05), (1.0, 1.0, 0.9), "body", BUS),
    *_wheels((-0.3, 0.33), 0.08, 0.28),
)
TRAILER = (
    Part((0.0, 0.0, 0.13), (1.0, 1.0, 0.74), "body", CARGO),
    Part((0.0, 0.0, -0.28), (0.98, 0.5, 0.08), "dark"),
    Part((0.3, 0.0, -0.41), (0.03, 0.7, 0.18), "dark"),
    *_wheels((-0.4, -0.3), 0.08, 0.25),
)
EXCAVATOR = (
    Part((-0.12, 0.36, -0.36), (0.62, 0.28, 0.28), "dark"),
    Part((-0.12, -0.36, -0.36), (0.62, 0.28, 0.28), "dark"),
    Part((-0.2, 0.0, -0.04), (0.58, 0.9, 0.34), "body"),
    Part((-0.05, 0.2, 0.31), (0.26, 0.45, 0.38), "body", CABIN),
    Part((0.27, -0.15, 0.2), (0.44, 0.14, 0.14), "body"),
    Part((0.45, -0.15, -0.1), (0.1, 0.2, 0.7), "body"),
    Part((0.42, -0.15, -0.4), (0.15, 0.45, 0.2), "dark"),
)
PEDESTRIAN = (
    Part((0.06, 0.16, -0.27), (0.30, 0.26, 0.46), "second"),
    Part((-0.06, -0.16, -0.27), (0.30, 0.26, 0.46), "second"),
    Part((0.0, 0.0, 0.15), (0.42, 0.7, 0.38), "cloth"),
    Part((0.0, 0.42, 0.1), (0.26, 0.16, 0.40), "cloth"),
    Part((0.0, -0.42, 0.1), (0.26, 0.16, 0.40), "cloth"),
    Part((0.0, 0.0, 0.42), (0.36, 0.32, 0.15), "skin"),
)
BARRIER = (
    Part((0.0, 0.0, 0.16), (0.4, 1.0, 0.66), "body", STRIPES),
    Part((0.0, 0.36, -0.33), (1.0, 0.14, 0.34), "dark"),
    Part((0.0, -0.36, -0.33), (1.0, 0.14, 0.34), "dark"),
)
CONE = (
    Part((0.0, 0.0, -0.46), (1.0, 1.0, 0.08), "dark"),
    Part((0.0, 0.0, -0.27), (0.66, 0.66, 0.3), "body", BANDS),
    Part((0.0, 0.0, 0.03), (0.48, 0.48, 0.3), "body", BANDS),
    Part((0.0, 0.0, 0.32), (0.3, 0.3, 0.36), "body", BANDS),
)

_CAR_COLOURS = (
    (0.85, 0.85, 0.86),
    (0.55, 0.57, 0.6),
    (0.13, 0.13, 0.15),
    (0.7, 0.08, 0.08),
    (0.1, 0.2, 0.55),
    (0.1, 0.4, 0.45),
)
_TRUCK_COLOURS = ((0.88, 0.88, 0.9), (0.15, 0.3, 0.6), (0.75, 0.2, 0.12), (0.2, 0.45, 0.25))
_BUS_COLOURS = ((0.9, 0.72, 0.1), (0.75, 0.12, 0.12), (0.2, 0.5, 0.75))
_CYCLE_COLOURS = ((0.75, 0.1, 0.1), (0.1, 0.15, 0.2), (0.1, 0.5, 0.7), (0.2, 0.65, 0.3))
_TRAILER_COLOURS = ((0.62, 0.64, 0.66), (0.35, 0.5, 0.4), (0.55, 0.45, 0.35))
_CLOTH = ((0.75, 0.15, 0.2), (0.15, 0.3, 0.65), (0.85, 0.75, 0.3), (0.25, 0.55, 0.3), WHITE)

# Detection class -> its looks; a cycle has one with a rider and one without.
LOOKS: dict[str, Look] = {
    "car": Look("vehicle.car", (4.6, 1.95, 1.7), 0.06, CAR, _CAR_COLOURS),
    "truck": Look("vehicle.truck", (7.0, 2.5, 2.9), 0.06, TRUCK, _TRUCK_COLOURS),
    "bus": Look("vehicle.bus.rigid", (11.0, 2.8, 3.4), 0.03, BUS_PARTS, _BUS_COLOURS),
    "trailer": Look("vehicle.trailer", (9.5, 2.6, 3.6), 0.05, TRAILER, _TRAILER_COLOURS),
    "construction_vehicle": Look(
        "vehicle.construction", (6.4, 2.7, 3.1), 0.05, EXCAVATOR, ((0.95, 0.6, 0.05),)
    ),
    "motorcycle": Look(
        "vehicle.motorcycle", (2.1, 0.8, 1.2), 0.06, _cycle(0.3, 1.0), _CYCLE_COLOURS
    ),
    "motorcycle_rider": Look(
        "vehicle.motorcycle", (2.1, 0.8, 1.75), 0.05, (*_cycle(0.3, 0.6), *_RIDER), _CYCLE_COLOURS
    ),
    "bicycle": Look("vehicle.bicycle", (1.75, 0.6, 1.15), 0.05, _cycle(0.2, 1.0), _CYCLE_COLOURS),
    "bicycle_rider": Look(
        "vehicle.bicycle", (1.75, 0.6, 1.75), 0.05, (*_cycle(0.2, 0.6), *_RIDER), _CYCLE_COLOURS
    ),
    "pedestrian": Look(
        "human.pedestrian.adult", (0.7, 0.7, 1.75), 0.08, PEDESTRIAN, ((0.2, 0.2, 0.25),)
    ),
    "barrier": Look("movable_object.barrier", (0.5, 2.4, 1.0), 0.05, BARRIER, ((0.85, 0.15, 0.1),)),
    "traffic_cone": Look(
        "movable_object.trafficcone", (0.42, 0.42, 0.95), 0.08, CONE, ((0.95, 0.4, 0.05),)
    ),
}


def palette(look: Look, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Colours of one object, RGB in [0, 1], by the names that its parts use."""

    def pick(colours) -> np.ndarray:
        colour = np.array(colours[generator.integers(len(colours))])
        return np.clip(colour * generator.uniform(0.8, 1.1), 0.02, 1.0)

    return {
        "body": pick(look.colours),
        "second": pick(_TRUCK_COLOURS if "truck" in look.category else _TRAILER_COLOURS),
        "cloth": pick(_CLOTH),
        "skin": pick(SKIN),
        "dark": np.array(DARK),
    }
