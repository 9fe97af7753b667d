"""Annotated objects: their looks and their motion."""

from dataclasses import dataclass

import numpy as np

from nsmae_plugin.synthetic.road import Centreline
from nsmae_plugin.synthetic.shapes import INSET, LOOKS, Look, Part, palette


@dataclass(frozen=True)
class Speed:
    """Constant acceleration until standstill: metres per second, metres per second squared."""

    start: float
    acceleration: float = 0.0

    def travel(self, seconds: float) -> float:
        """Metres driven since time 0; a braking vehicle stays where it came to rest."""
        if self.acceleration < 0:
            seconds = min(seconds, -self.start / self.acceleration)
        return self.start * seconds + 0.5 * self.acceleration * seconds**2


STANDING = Speed(0.0)


@dataclass(frozen=True)
class Motion:
    """Travel along a road at a fixed offset.

    Args:
        road: the line to follow.
        start: arc length at time 0, in metres.
        d: offset to the left of the line, in metres.
        direction: +1 along the line, -1 against it.
        speed: how far the object has come at a time.
        turn: yaw of the object relative to its direction of travel, in radians.
    """

    road: Centreline
    start: float
    d: float
    direction: int = 1
    speed: Speed = STANDING
    turn: float = 0.0

    def is_on_road(self, seconds: float) -> bool:
        """True between the ends of its road; beyond them the object does not exist."""
        s = self.start + self.direction * self.speed.travel(seconds)
        return 0.0 <= s <= self.road.length

    def pose(self, seconds: float) -> tuple[float, float, float]:
        """(x, y, yaw) in the global frame."""
        s = self.start + self.direction * self.speed.travel(seconds)
        x, y, yaw = self.road.pose(s, self.d)
        facing = yaw + (0.0 if self.direction == 1 else np.pi) + self.turn
        return float(x), float(y), float(facing)


@dataclass(frozen=True)
class Actor:
    """One annotated object.

    ``size`` is (length, width, height) in metres, ``attribute`` a nuScenes attribute or '',
    ``parts`` and ``colours`` (len(parts), 3) say what it looks like.
    """

    category: str
    attribute: str
    size: np.ndarray
    motion: Motion
    parts: tuple[Part, ...]
    colours: np.ndarray

    @property
    def moving(self) -> bool:
        return self.motion.speed.start > 0

    def part_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres and half sizes (parts, 3) in metres in the object's frame, its middle at 0."""
        inner = self.size - 2 * INSET
        centres = np.array([part.centre for part in self.parts]) * inner
        halves = np.array([part.size for part in self.parts]) * inner / 2
        return centres, halves


def make_actor(
    kind: str, attribute: str, motion: Motion, size: np.ndarray, generator: np.random.Generator
) -> Actor:
    """An object of a class of :data:`shapes.LOOKS` with colours of its own."""
    look = LOOKS[kind]
    colours = palette(look, generator)
    return Actor(
        category=look.category,
        attribute=attribute,
        size=size,
        motion=motion,
        parts=look.parts,
        colours=np.stack([colours[part.colour] for part in look.parts]),
    )


def random_size(look: Look, generator: np.random.Generator) -> np.ndarray:
    """(length, width, height) in metres around the typical size of the class."""
    return np.round(np.array(look.size) * (1 + look.spread * generator.uniform(-1, 1, 3)), 3)
