"""Procedural textures: the colours that cameras see and the LiDAR reflects."""

from dataclasses import dataclass

import numpy as np

from nsmae_plugin.synthetic import ground as materials
from nsmae_plugin.synthetic import shapes
from nsmae_plugin.synthetic.ground import Ground
from nsmae_plugin.synthetic.raycast import GROUND, Bodies

_TILE = 256
_GROUND_COLOURS = {
    materials.GRASS: (0.27, 0.38, 0.16),
    materials.ASPHALT: (0.25, 0.25, 0.26),
    materials.WALKWAY: (0.56, 0.54, 0.50),
    materials.CAR_PARK: (0.33, 0.32, 0.32),
    materials.WHITE: (0.88, 0.88, 0.86),
    materials.YELLOW: (0.85, 0.66, 0.12),
    materials.KERB: (0.68, 0.67, 0.65),
    materials.BIKE: (0.25, 0.25, 0.26),
}
_BIKE_COLOURS = ((0.25, 0.25, 0.26), (0.22, 0.42, 0.28), (0.46, 0.22, 0.18))
GLASS = np.array((0.10, 0.13, 0.16), np.float32)
_WHITE = np.array(shapes.WHITE, np.float32)


@dataclass(frozen=True)
class Samples:
    """Surface points: ``albedo`` (n, 3) in [0, 1] and unit ``normal`` (n, 3), global axes."""

    albedo: np.ndarray
    normal: np.ndarray


class Surface:
    """The textures of one scene.

    Args:
        ground: materials of the ground.
        generator: draws the noise and the colours of the ground.
    """

    def __init__(self, ground: Ground, generator: np.random.Generator) -> None:
        self.ground = ground
        self.noise = _noise_tile(generator)
        colours = np.array([_GROUND_COLOURS[i] for i in range(len(_GROUND_COLOURS))])
        colours[materials.BIKE] = _BIKE_COLOURS[generator.integers(len(_BIKE_COLOURS))]
        tint = generator.uniform(0.85, 1.15, (len(colours), 1)) * generator.uniform(
            0.95, 1.05, (len(colours), 3)
        )
        self.ground_colours = np.clip(colours * tint, 0, 1).astype(np.float32)

    def sample(
        self, points: np.ndarray, origin: np.ndarray, box: np.ndarray, bodies: Bodies
    ) -> Samples:
        """Look up points of the surface.

        Args:
            points: (n, 3) relative to the sensor, global axes, metres.
            origin: (3,) position of the sensor, global frame.
            box: (n,) box numbers or GROUND.
            bodies: the boxes.
        """
        albedo = np.empty(points.shape, np.float32)
        normal = np.zeros(points.shape, np.float32)
        on_ground = box == GROUND
        normal[on_ground, 2] = 1
        albedo[on_ground] = self._ground_albedo(points[on_ground], origin)
        on_box = ~on_ground
        albedo[on_box], normal[on_box] = self._box_samples(
            points[on_box], origin, box[on_box], bodies
        )
        return Samples(albedo, normal)

    def _noise_at(self, u: np.ndarray, v: np.ndarray, cell: float) -> np.ndarray:
        scale = 1 / cell
        row = (v * scale).astype(np.int32) & (_TILE - 1)
        column = (u * scale).astype(np.int32) & (_TILE - 1)
        return self.noise.ravel()[row * _TILE + column]

    def _ground_albedo(self, points: np.ndarray, origin: np.ndarray) -> np.ndarray:
        x, y = points[:, 0] + origin[0], points[:, 1] + origin[1]
        material = self.ground.at(x, y)
        # Fine grain fades with distance, where a pixel averages over it.
        grain = np.clip(6 / np.hypot(points[:, 0], points[:, 1]), 0, 1)
        fine = (self._noise_at(x, y, 0.04) - 0.5) * grain
        coarse = self._noise_at(x, y, 0.6) - 0.5
        rough = np.where(material == materials.GRASS, 0.8, 0.35).astype(np.float32)
        shade = 1 + rough * (fine + 0.6 * coarse)
        joints = (material == materials.WALKWAY) & ((x % 1.2 < 0.05) | (y % 1.2 < 0.05))
        shade = np.where(joints, shade * (1 - 0.3 * grain), shade)
        return self.ground_colours[material] * shade[:, None].astype(np.float32)

    def _box_samples(
        self, points: np.ndarray, origin: np.ndarray, box: np.ndarray, bodies: Bodies
    ) -> tuple[np.ndarray, np.ndarray]:
        yaw = bodies.yaw[box].astype(np.float32)
        c, s = np.cos(yaw), np.sin(yaw)
        offset = points - (bodies.centre - origin).astype(np.float32)[box]
        x, y, z = offset.T
        local = np.stack([x * c + y * s, y * c - x * s, z], axis=1)
        half = bodies.half.astype(np.float32)[box]
        relative = local / half
        face = np.abs(relative).argmax(1)
        sign = np.sign(np.take_along_axis(relative, face[:, None], 1)[:, 0])
        axes = [face == 0, face == 1]
        east = np.select(axes, [sign * c, -sign * s], 0)
        north = np.select(axes, [sign * s, sign * c], 0)
        normal = np.stack([east, north, np.where(face == 2, sign, 0)], axis=1)
        u = np.where(face == 0, local[:, 1], local[:, 0])
        v = np.where(face == 2, local[:, 1], local[:, 2])
        albedo = bodies.colour.astype(np.float32)[box]
        albedo *= (0.92 + 0.16 * self._noise_at(u + 50, v + 50, 0.1))[:, None]
        texture = bodies.texture[box]
        for number, paint in _PAINTERS.items():
            chosen = np.flatnonzero(texture == number)
            if len(chosen):
                face_uv = (u[chosen], v[chosen], relative[chosen], half[chosen], face[chosen] < 2)
                albedo[chosen] = paint(self, albedo[chosen], *face_uv, box[chosen])
        return albedo, normal

    def _paint_cabin(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        glass = side & (np.abs(relative[:, 2]) < 0.7)
        return np.where(glass[:, None], GLASS, albedo)

    def _paint_bus(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        glass = side & (relative[:, 2] > 0.0) & (relative[:, 2] < 0.7) & (u % 1.5 > 0.15)
        return np.where(glass[:, None], GLASS, albedo)

    def _paint_cargo(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        ribs = 1 - 0.15 * (u % 0.7 < 0.12)
        band = side & (np.abs(relative[:, 2] - 0.15) < 0.2) & (np.abs(relative[:, 0]) < 0.75)
        return np.where(band[:, None], albedo[:, ::-1] * 0.8, albedo) * ribs[:, None]

    def _paint_stripes(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        return np.where(((u + v) % 0.5 < 0.25)[:, None], _WHITE, albedo)

    def _paint_bands(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        return np.where((side & (np.abs(relative[:, 2]) < 0.4))[:, None], _WHITE, albedo)

    def _paint_facade(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        height = v + half[:, 2]
        row, column = np.floor(height / 3.2), np.floor(u / 2.8)
        in_row, in_column = height / 3.2 - row, u / 2.8 - column
        window = side & (np.abs(in_row - 0.55) < 0.25) & (np.abs(in_column - 0.5) < 0.27)
        lit = self._noise_at(column * 7 + box * 3 + 1000, row * 13 + 500, 1.0)[:, None]
        brick = 0.9 + 0.2 * self._noise_at(u + 100, v + 100, 0.35)[:, None]
        return np.where(window[:, None], GLASS * (0.7 + 2.2 * lit), albedo * brick)

    def _paint_foliage(self, albedo, u, v, relative, half, side, box) -> np.ndarray:
        return albedo * (0.45 + 1.1 * self._noise_at(u + 60, v + 60 + box % 7, 0.12))[:, None]


_PAINTERS = {
    shapes.CABIN: Surface._paint_cabin,
    shapes.BUS: Surface._paint_bus,
    shapes.CARGO: Surface._paint_cargo,
    shapes.STRIPES: Surface._paint_stripes,
    shapes.BANDS: Surface._paint_bands,
    shapes.FACADE: Surface._paint_facade,
    shapes.FOLIAGE: Surface._paint_foliage,
}


def _noise_tile(generator: np.random.Generator) -> np.ndarray:
    """(256, 256) periodic noise in [0, 1], a sum of octaves."""
    tile = np.zeros((_TILE, _TILE))
    for size, weight in ((8, 0.3), (32, 0.3), (128, 0.2), (256, 0.4)):
        repeat = _TILE // size
        tile += weight * np.kron(generator.random((size, size)), np.ones((repeat, repeat)))
    tile -= tile.min()
    return (tile / tile.max()).astype(np.float32)
