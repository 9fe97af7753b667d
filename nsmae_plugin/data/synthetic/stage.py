"""One scene in memory: streets, actors, scenery and light, and where they are at a time."""

from functools import cached_property

import numpy as np
from pyquaternion import Quaternion

from nsmae_plugin.data.synthetic.actors import Actor, Speed
from nsmae_plugin.data.synthetic.ground import RESOLUTION, paint_ground
from nsmae_plugin.data.synthetic.layout import Layout
from nsmae_plugin.data.synthetic.lighting import Lighting, Shadows
from nsmae_plugin.data.synthetic.population import Population, ego_motion
from nsmae_plugin.data.synthetic.raycast import Bodies
from nsmae_plugin.data.synthetic.scenery import Block, make_scenery
from nsmae_plugin.data.synthetic.shapes import PLAIN
from nsmae_plugin.data.synthetic.surface import Surface

# Actors' boxes float this high, so that noisy returns from the road stay below them.
GROUND_CLEARANCE = 0.02
# Mean over a scene, in metres per second: bounds the length of its road.
MAXIMUM_SPEED = 11.0
# Amplitudes (radians) and periods (seconds) of the ego vehicle's pitching and rolling.
_PITCH, _ROLL = (0.006, 1.7), (0.008, 2.3)


class Stage:
    """A scene that sensors can be pointed at; times are seconds after the first keyframe.

    Args:
        generators: independent generators for layout, population, scenery and looks.
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
        self.scenery = make_scenery(self.layout, self.actors, things)
        self.ground = paint_ground(self.layout)
        self.surface = Surface(self.ground, looks)
        self.lighting = Lighting.random(looks)
        self._phase = looks.uniform(0, 2 * np.pi, 2)

    def ego_pose(self, seconds: float) -> tuple[np.ndarray, Quaternion]:
        """Position on the ground and attitude, ego frame to global frame."""
        x, y, yaw = self.ego.pose(seconds)
        angles = [
            amplitude * np.sin(2 * np.pi * seconds / period + phase)
            for (amplitude, period), phase in zip((_PITCH, _ROLL), self._phase, strict=True)
        ]
        rotation = (
            Quaternion(axis=(0, 0, 1), radians=yaw)
            * Quaternion(axis=(0, 1, 0), radians=angles[0])
            * Quaternion(axis=(1, 0, 0), radians=angles[1])
        )
        return np.array([x, y, 0.0]), rotation

    def actor_box(self, actor: Actor, seconds: float) -> tuple[np.ndarray, float]:
        """Centre (3,) and yaw of an actor's box, global frame."""
        x, y, yaw = actor.motion.pose(seconds)
        return np.array([x, y, GROUND_CLEARANCE + actor.size[2] / 2]), yaw

    def bodies(self, seconds: float) -> Bodies:
        """All boxes; the actors are the first objects, in the order of :attr:`actors`."""
        centres, yaws = [], []
        for actor, (local, _) in zip(self.actors, self._actor_parts, strict=True):
            centre, yaw = self.actor_box(actor, seconds)
            c, s = np.cos(yaw), np.sin(yaw)
            centres.append(local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + centre)
            yaws += [yaw] * len(local)
        things = self.scenery
        return Bodies(
            centre=np.concatenate([*centres, [block.centre for block in things]]),
            yaw=np.array(yaws + [block.yaw for block in things]),
            **self._fixed,
        )

    @cached_property
    def _actor_parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [actor.part_boxes() for actor in self.actors]

    @cached_property
    def _fixed(self) -> dict[str, np.ndarray]:
        """The columns of :class:`Bodies` that do not depend on time."""
        things = self.scenery
        counts = [len(actor.parts) for actor in self.actors] + [1] * len(things)
        textures = [part.texture for actor in self.actors for part in actor.parts]
        return {
            "half": np.concatenate(
                [*(half for _, half in self._actor_parts), [np.array(b.size) / 2 for b in things]]
            ),
            "colour": np.concatenate(
                [*(actor.colours for actor in self.actors), [block.colour for block in things]]
            ),
            "texture": np.array(textures + [block.texture for block in things]),
            "groups": np.concatenate([[0], np.cumsum(counts)]),
        }

    @cached_property
    def shadows(self) -> Shadows:
        """Shadows of what stands; those of movers are added for each exposure."""
        height, width = self.ground.material.shape
        standing = [self._as_block(actor, 0.0) for actor in self.actors if not actor.moving]
        extent = (width * RESOLUTION, height * RESOLUTION)
        return Shadows(self.ground.origin, extent, self.lighting.sun, [*self.scenery, *standing])

    def moving_blocks(self, seconds: float) -> list[Block]:
        """The boxes of the actors that move, as casters of shadow."""
        return [self._as_block(actor, seconds) for actor in self.actors if actor.moving]

    def _as_block(self, actor: Actor, seconds: float) -> Block:
        centre, yaw = self.actor_box(actor, seconds)
        length, width, height = actor.size
        return Block(tuple(centre), (length, width, height), yaw, actor.colours[0], PLAIN)


def make_streets(
    generator: np.random.Generator, duration: float, side: int, block: tuple[float, float]
) -> tuple[Speed, Layout]:
    """Speed of the ego vehicle, and streets long enough for it; arguments as :class:`Stage`."""
    speed = _ego_speed(generator, duration)
    return speed, Layout(generator, speed.travel(duration), side, block)


def _ego_speed(generator: np.random.Generator, duration: float) -> Speed:
    """Town traffic: steady, speeding up gently, or braking to half the speed."""
    start = float(generator.uniform(4.0, MAXIMUM_SPEED / 1.25))
    change = float(generator.choice([0.0, 0.4, -0.5]))
    return Speed(start, change * start / max(duration, 4.0))
