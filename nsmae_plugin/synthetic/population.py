"""Places actors on the lanes, parking strips and walkways of a layout.

Everything that moves along one track has the same speed, and tracks do not overlap, so nothing
ever collides. Each scene shows all ten classes standing and, but for barriers and cones, moving,
close to where the ego vehicle drives.
"""

import numpy as np

from nsmae_plugin.synthetic import layout as roads
from nsmae_plugin.synthetic.actors import STANDING, Actor, Motion, Speed, make_actor, random_size
from nsmae_plugin.synthetic.layout import Layout
from nsmae_plugin.synthetic.shapes import LOOKS

EGO_LENGTH = 4.8
# Metres ahead of and behind the ego vehicle's path that are populated.
VIEW = 70.0
DRIVING = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle")
PARKED = ("truck", "bus", "trailer", "construction_vehicle", "car")
AT_KERB = ("pedestrian", "motorcycle", "bicycle")
TRAFFIC_MIX = {"car": 0.6, "truck": 0.12, "bus": 0.08, "motorcycle": 0.1, "trailer": 0.1}
PARKED_MIX = {"car": 0.8, "truck": 0.12, "construction_vehicle": 0.04, "trailer": 0.04}
KERB_MIX = {"pedestrian": 0.6, "bicycle": 0.25, "motorcycle": 0.15}
ATTRIBUTES = {
    # name: (attribute when moving, attribute when standing)
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "barrier": ("", ""),
    "traffic_cone": ("", ""),
}
VEHICLE_ATTRIBUTES = ("vehicle.moving", "vehicle.parked")


class Population:
    """The actors of one scene.

    Args:
        layout: the streets.
        ego: the motion of the ego vehicle along the main road.
        generator: decides who is where.
    """

    def __init__(self, layout: Layout, ego: Motion, generator: np.random.Generator) -> None:
        self.layout = layout
        self.ego = ego
        self.generator = generator
        self.actors: list[Actor] = []
        self._middle = ego.start + layout.travel / 2
        self._fill_lanes()
        self._fill_cross_street()
        self._fill_bike_lanes()
        self._fill_parking()
        self._fill_walkways()
        self._fill_car_parks()

    def add(self, kind: str, motion: Motion, size: np.ndarray | None = None, stopped=False) -> None:
        """Put one object of a detection class; cycles get a rider when they move."""
        moving = motion.speed.start > 0
        look = f"{kind}_rider" if moving and f"{kind}_rider" in LOOKS else kind
        if size is None:
            size = random_size(LOOKS[look], self.generator)
        attribute = ATTRIBUTES.get(kind, VEHICLE_ATTRIBUTES)[0 if moving else 1]
        if stopped:
            attribute = "vehicle.stopped"
        self.actors.append(make_actor(look, attribute, motion, size, self.generator))

    def _choose(self, mix: dict[str, float]) -> str:
        return str(self.generator.choice(list(mix), p=list(mix.values())))

    def _fill_lanes(self) -> None:
        """Traffic on the main road: the classes that drive first, near the ego vehicle."""
        wanted = self.generator.permutation(DRIVING)
        tracks = [
            self._lane_track(direction, index)
            for index in range(self.layout.lanes_per_direction)
            for direction in (1, -1)
        ]
        for track, kinds in zip(tracks, np.array_split(wanted, len(tracks)), strict=True):
            self._drive(*track, list(kinds))

    def _lane_track(self, direction: int, index: int) -> tuple[Motion, tuple[float, float]]:
        """Motion of a lane's traffic, and (start, end) of s that the ego vehicle leaves free."""
        d = self.layout.lane_offset(direction, index)
        if d == self.ego.d:
            free = (self.ego.start - EGO_LENGTH / 2 - 8, self.ego.start + EGO_LENGTH / 2 + 7)
            return self.ego, free
        speed = Speed(float(self.generator.uniform(5.0, 10.0)))
        motion = Motion(self.layout.main, 0.0, d, direction, speed)
        start = self.ego.start + (0.0 if direction == 1 else 25.0)
        return motion, (start, start)

    def _drive(self, lane: Motion, free: tuple[float, float], kinds: list[str]) -> None:
        """Queue vehicles ahead of and behind the free stretch, the wanted kinds first."""
        queue = {1: kinds[::2], -1: kinds[1::2]}
        # Oncoming traffic meets the ego vehicle from as far away as both will have driven.
        travel = self.layout.travel
        ahead = VIEW + (2.5 * travel if lane.direction == -1 else travel)
        for side, edge, reach in ((1, free[1], ahead), (-1, free[0], VIEW + travel)):
            s = edge + side * float(self.generator.uniform(1, 5))
            while abs(s - edge) < reach:
                wanted = queue[side].pop(0) if queue[side] else None
                kind = wanted or self._choose(TRAFFIC_MIX)
                length = self._join(kind, lane, s, side)
                s += side * (length + float(self.generator.uniform(4, 12 if wanted else 30)))

    def _join(self, kind: str, lane: Motion, s: float, side: int) -> float:
        """Put a vehicle with its near end at ``s``; a trailer comes with a truck. Its length."""
        kinds = [kind]
        if kind == "trailer":
            kinds = ["truck", "trailer"] if lane.direction * side < 0 else ["trailer", "truck"]
        length = 0.0
        for one in kinds:
            look = LOOKS.get(f"{one}_rider", LOOKS[one])
            size = random_size(look, self.generator)
            start = s + side * (length + size[0] / 2)
            motion = Motion(lane.road, start, lane.d, lane.direction, lane.speed)
            self.add(one, motion, size)
            length += size[0] + 0.6
        return length

    def _fill_cross_street(self) -> None:
        """Cars that wait at the junction; the walkers of the walkways cross before them."""
        low, high = self.layout.junction_span("cross")
        for direction, stop in ((1, low), (-1, high)):
            s = stop - direction * 1.0
            for _ in range(int(self.generator.integers(1, 4))):
                size = random_size(LOOKS["car"], self.generator)
                d = self.layout.lane_offset(direction, 0)
                start = s - direction * size[0] / 2
                motion = Motion(self.layout.cross, start, d, direction)
                self.add("car", motion, size, stopped=True)
                s -= direction * (size[0] + self.generator.uniform(1.0, 3.0))

    def _fill_bike_lanes(self) -> None:
        edge = self.layout.lanes_per_direction * roads.LANE + roads.BIKE_LANE / 2
        for direction in (1, -1):
            speed = Speed(float(self.generator.uniform(2.5, 5.0)))
            d = -self.layout.side * direction * edge
            s = self.ego.start + self.generator.uniform(-20, 8)
            while s < self.ego.start + self.layout.travel + 20:
                self.add("bicycle", Motion(self.layout.main, s, d, direction, speed))
                s += self.generator.uniform(8, 25)

    def _fill_parking(self) -> None:
        """Parked vehicles on both strips, and road works on one."""
        edge = self.layout.half_width - roads.PARKING / 2
        works_side = int(self.generator.choice([-1, 1]))
        works = self._middle + float(self.generator.uniform(-6, 6))
        wanted = list(self.generator.permutation(PARKED))
        for sign, kinds in ((works_side, wanted[::2]), (-works_side, wanted[1::2])):
            blocked = [self.layout.junction_span("main"), *self._driveways(sign)]
            blocked += [
                (c.start - 4, c.stop + 4) for c in self.layout.crossings if c.road == "main"
            ]
            if sign == works_side:
                works = _nearest_free(works, 6.0, blocked)
                self._add_works(works, sign * edge, sign)
                blocked.append((works - 7.0, works + 7.0))
            self._park_row(sign * edge, kinds, blocked)

    def _park_row(self, d: float, kinds: list[str], blocked: list[tuple[float, float]]) -> None:
        """Park outwards from the middle of the ego vehicle's path."""
        facing = -int(np.sign(d)) * self.layout.side
        for side in (1, -1):
            queue = list(kinds[::2] if side == 1 else kinds[1::2])
            s = self._middle + side * 0.8
            while abs(s - self._middle) < VIEW + self.layout.travel / 2:
                kind = queue[0] if queue else self._choose(PARKED_MIX)
                size = random_size(LOOKS[kind], self.generator)
                middle = s + side * size[0] / 2
                if _is_free(middle, size[0] / 2 + 0.5, blocked):
                    self.add(kind, Motion(self.layout.main, middle, d, facing), size)
                    skip = 0.0 if queue or self.generator.random() < 0.6 else 8.0
                    queue = queue[1:]
                    s += side * (size[0] + skip + self.generator.uniform(1.2, 2.4))
                else:
                    s += side * 1.0

    def _add_works(self, s: float, d: float, sign: int) -> None:
        """Road works of 12 m: barriers along the kerb side, cones along the traffic side."""
        main = self.layout.main
        for at in np.arange(-4.5, 4.6, 3.0):
            self.add("barrier", Motion(main, s + at, d + sign * 0.7, 1, turn=np.pi / 2))
        for at in np.arange(-6.0, 6.1, 2.0):
            self.add("traffic_cone", Motion(main, s + at, d - sign * 1.1, 1))

    def _fill_walkways(self) -> None:
        """Walkers beside the houses; people, cycles and motorcycles that stand at the kerb."""
        low, high = self.layout.junction_span("main", 6.0)
        for sign in (-1, 1):
            for direction, inward in ((1, 0.8), (-1, 1.7)):
                d = sign * (self.layout.half_width + roads.WALKWAY - inward)
                speed = Speed(float(self.generator.uniform(0.9, 1.6)))
                s = self.ego.start + self.generator.uniform(-15, 5)
                while s < self.ego.start + self.layout.travel + 20:
                    self.add("pedestrian", Motion(self.layout.main, s, d, direction, speed))
                    s += self.generator.uniform(2.5, 18)
            self._stand_at_kerb(sign, [(low, high), *self._driveways(sign)])

    def _driveways(self, sign: int) -> list[tuple[float, float]]:
        parks = [start for start, side in self.layout.car_parks if side == sign]
        middles = [start + roads.CAR_PARK[0] / 2 for start in parks]
        return [(middle - 5.0, middle + 5.0) for middle in middles]

    def _stand_at_kerb(self, sign: int, blocked: list[tuple[float, float]]) -> None:
        queue = list(self.generator.permutation(AT_KERB))
        s = self.ego.start - 5.0
        while s < self.ego.start + self.layout.travel + 35.0:
            kind = queue.pop() if queue else self._choose(KERB_MIX)
            if _is_free(s, 1.3, blocked):
                d = sign * (self.layout.half_width + float(self.generator.uniform(1.0, 1.3)))
                turn = float(self.generator.uniform(-3, 3)) if kind == "pedestrian" else 0.0
                self.add(kind, Motion(self.layout.main, s, d, 1, STANDING, turn))
            else:
                queue.append(kind)
            s += float(self.generator.uniform(3.0, 9.0))

    def _fill_car_parks(self) -> None:
        length, depth = roads.CAR_PARK
        for start, sign in self.layout.car_parks:
            d = sign * (self.layout.half_width + roads.WALKWAY + depth - 2.7)
            for s in np.arange(start + 1.5, start + length, roads.CAR_PARK_PITCH):
                if self.generator.random() < 0.6:
                    turn = float(self.generator.choice([-1, 1]) * np.pi / 2)
                    size = np.minimum(random_size(LOOKS["car"], self.generator), (4.9, 2.0, 2.0))
                    self.add("car", Motion(self.layout.main, s, d, 1, turn=turn), size)


def _is_free(s: float, half: float, blocked: list[tuple[float, float]]) -> bool:
    return all(s + half < low or s - half > high for low, high in blocked)


def _nearest_free(s: float, half: float, blocked: list[tuple[float, float]]) -> float:
    """The free place nearest to ``s``, searched in half metres."""
    steps = np.arange(0, 80, 0.5)
    candidates = s + np.stack([steps, -steps], axis=1).ravel()
    return next(float(c) for c in candidates if _is_free(c, half, blocked))


def ego_motion(layout: Layout, speed: Speed, generator: np.random.Generator) -> Motion:
    """The ego vehicle drives along the main road in a lane of its direction."""
    index = int(generator.integers(layout.lanes_per_direction))
    return Motion(layout.main, layout.ego_start, layout.lane_offset(1, index), 1, speed)
