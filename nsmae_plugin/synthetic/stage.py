"""One scene in memory: streets, actors, background and light over time."""

from dataclasses import replace
from functools import cached_property, reduce

import numpy as np

from nsmae_plugin.geometry.rotations import multiply, quaternion_about, yaw_matrix
from nsmae_plugin.synthetic.actors import Actor, Speed
from nsmae_plugin.synthetic.background import Block, make_background
from nsmae_plugin.synthetic.ground import RESOLUTION, paint_ground
from nsmae_plugin.synthetic.layout import Layout
from nsmae_plugin.synthetic.lighting import Lighting, Shadows
from nsmae_plugin.synthetic.population import Population, ego_motion
from nsmae_plugin.synthetic.raycast import Bodies
from nsmae_plugin.synthetic.shapes import PLAIN
from nsmae_plugin.synthetic.surface import Surface

# Actors' boxes float this high, so that noisy returns from the road stay below them.
GROUND_CLEARANCE = 0.02
# Height in metres of boxes that nobody can see.
OUT_OF_SIGHT = -1e4
# Mean over a scene, in metres per second: bounds the length of its road.
MAXIMUM_SPEED = 11.0
# Amplitudes (radians) and periods (seconds) of the ego vehicle's pitching and rolling.
_PITCH, _ROLL = (0.006, 1.7), (0.008, 2.3)


class Stage:
    """A scene that sensors can be pointed at; times are seconds after the first keyframe.

    Args:
        generators: independent generators for layout, population, background and looks.
        duration: seconds from the first keyframe to the last.
        side: +1 where traffic keeps right, -1 where it keeps left.
        block: south-west corner of the scene's square of the map, global metres.
    """

    def __init__(
        self,
        generators: list[np.random.Generator],
        duration: float,
        side: int,
        block: tuple[float, float],
    ) -> None:
        streets, people, things, looks = generators
        speed, self.layout = make_streets(streets, duration, side, block)
        self.ego = ego_motion(self.layout, speed, people)
        self.actors: list[Actor] = Population(self.layout, self.ego, people).actors
        self.background = make_background(self.layout, self.actors, things)
        self.ground = paint_ground(self.layout)
        self.surface = Surface(self.ground, looks)
        self.lighting = Lighting.random(looks)
        self._phase = looks.uniform(0, 2 * np.pi, 2)

    def ego_pose(self, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Position on the ground, and attitude as a quaternion, ego frame to global frame."""
        x, y, yaw = self.ego.pose(seconds)
        angles = [
            amplitude * np.sin(2 * np.pi * seconds / period + phase)
            for (amplitude, period), phase in zip((_PITCH, _ROLL), self._phase, strict=True)
        ]
        turns = zip("zyx", (yaw, *angles), strict=True)
        return np.array([x, y, 0.0]), reduce(multiply, (quaternion_about(*one) for one in turns))

    def actor_box(self, actor: Actor, seconds: float) -> tuple[np.ndarray, float]:
        """Centre (3,) and yaw of an actor's box, global frame."""
        x, y, yaw = actor.motion.pose(seconds)
        return np.array([x, y, GROUND_CLEARANCE + actor.size[2] / 2]), yaw

    def bodies(self, seconds: float) -> Bodies:
        """All boxes; the actors are the first objects, in the order of :attr:`actors`."""
        centre, yaw = self._standing.centre.copy(), self._standing.yaw.copy()
        for index, actor in enumerate(self.actors):
            members = slice(*self._standing.groups[index : index + 2])
            if not actor.motion.is_on_road(seconds):
                centre[members, 2] = OUT_OF_SIGHT
            elif actor.moving:
                centre[members], yaw[members] = self._parts_at(actor, seconds)
        return replace(self._standing, centre=centre, yaw=yaw)

    def _parts_at(self, actor: Actor, seconds: float) -> tuple[np.ndarray, float]:
        """Centres (parts, 3) of an actor's boxes and their common yaw, global frame."""
        centre, yaw = self.actor_box(actor, seconds)
        local, _ = actor.part_boxes()
        turned = np.column_stack([local[:, :2] @ yaw_matrix(yaw).T, local[:, 2]])
        return turned + centre, yaw

    @cached_property
    def _standing(self) -> Bodies:
        """All boxes at time 0."""
        actors, things = self.actors, self.background
        parts = [self._parts_at(actor, 0.0) for actor in actors]
        counts = [len(actor.parts) for actor in actors] + [1] * len(things)
        yaws = [np.full(len(centres), yaw) for centres, yaw in parts]
        halves = [actor.part_boxes()[1] for actor in actors]
        textures = [part.texture for actor in actors for part in actor.parts]
        return Bodies(
            centre=np.concatenate([c for c, _ in parts] + [[b.centre for b in things]]),
            half=np.concatenate([*halves, [np.array(b.size) / 2 for b in things]]),
            yaw=np.concatenate([*yaws, [b.yaw for b in things]]),
            colour=np.concatenate([*(a.colours for a in actors), [b.colour for b in things]]),
            texture=np.array(textures + [b.texture for b in things]),
            groups=np.concatenate([[0], np.cumsum(counts)]),
        )

    @cached_property
    def shadows(self) -> Shadows:
        """Shadows of what stands; those of movers are added for each exposure."""
        height, width = self.ground.material.shape
        standing = [self._as_block(actor, 0.0) for actor in self.actors if not actor.moving]
        extent = (width * RESOLUTION, height * RESOLUTION)
        return Shadows(self.ground.origin, extent, self.lighting.sun, [*self.background, *standing])

    def moving_blocks(self, seconds: float) -> list[Block]:
        """The boxes of the actors that move, as casters of shadow."""
        return [
            self._as_block(actor, seconds)
            for actor in self.actors
            if actor.moving and actor.motion.is_on_road(seconds)
        ]

    def _as_block(self, actor: Actor, seconds: float) -> Block:
        centre, yaw = self.actor_box(actor, seconds)
        length, width, height = actor.size
        return Block(tuple(centre), (length, width, height), yaw, actor.colours[0], PLAIN)


def make_streets(
    generator: np.random.Generator, duration: float, side: int, block: tuple[float, float]
) -> tuple[Speed, Layout]:
    """Speed of the ego vehicle, and streets long enough for it; arguments as :class:`Stage`.

    Town traffic: the vehicle is steady, speeds up gently, or brakes to half its speed.
    """
    start = float(generator.uniform(4.0, MAXIMUM_SPEED / 1.25))
    change = float(generator.choice([0.0, 0.4, -0.5]))
    speed = Speed(start, change * start / max(duration, 4.0))
    return speed, Layout(generator, speed.travel(duration), side, block)
