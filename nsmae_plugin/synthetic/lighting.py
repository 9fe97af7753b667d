"""Sun, sky and shadows of one scene."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from shapely.geometry import MultiPoint

from nsmae_plugin.synthetic.background import Block, rectangle

SHADOW_RESOLUTION = 0.1
_SKIES = (
    # zenith, horizon
    ((0.30, 0.50, 0.85), (0.78, 0.85, 0.93)),
    ((0.62, 0.66, 0.70), (0.80, 0.81, 0.82)),
    ((0.38, 0.45, 0.72), (0.95, 0.80, 0.66)),
)


@dataclass(frozen=True)
class Lighting:
    """Weather of a scene. ``sun`` points towards it; colours are RGB, ``fog`` in metres."""

    sun: np.ndarray
    sun_colour: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    fog: float

    @staticmethod
    def random(generator: np.random.Generator) -> "Lighting":
        """A clear, an overcast or a late day."""
        kind = int(generator.integers(len(_SKIES)))
        zenith, horizon = (np.array(colour, np.float32) for colour in _SKIES[kind])
        elevation = np.deg2rad(generator.uniform(35, 65))
        azimuth = generator.uniform(-np.pi, np.pi)
        strength = (0.75, 0.25, 0.65)[kind]
        warmth = np.array([(1, 1, 0.97), (1, 1, 1), (1.1, 0.95, 0.8)][kind])
        sun = [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation)]
        return Lighting(
            sun=np.array([*sun, np.sin(elevation)], np.float32),
            sun_colour=(strength * warmth).astype(np.float32),
            ambient=np.float32(0.95 - 0.75 * strength) * (0.7 + 0.3 * zenith / zenith.mean()),
            zenith=zenith,
            horizon=horizon,
            fog=float(generator.uniform(180, 450)),
        )

    def irradiance(self, normal: np.ndarray, shadow: np.ndarray) -> np.ndarray:
        """(n, 3) light on surfaces with unit normals (n, 3); no sun where ``shadow`` (n,)."""
        facing = np.clip(normal @ self.sun, 0, None) * ~shadow
        return self.ambient + facing[:, None] * self.sun_colour

    def haze(self, colour: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """(n, 3) colours as they look through ``distance`` (n,) metres of air."""
        clear = np.exp(-((distance / self.fog) ** 2))[:, None]
        return colour * clear + self.horizon * (1 - clear)

    def sky(self, rays: np.ndarray) -> np.ndarray:
        """(n, 3) colours in directions (n, 3), global axes."""
        up = rays[:, 2] / np.linalg.norm(rays, axis=1)
        height = np.clip(up / 0.5, 0, 1)[:, None] ** 0.7
        return self.horizon * (1 - height) + self.zenith * height


class Shadows:
    """A raster of shadows on the ground: blocks that stand, and movers drawn per exposure.

    Args:
        origin: (x, y) of the south-west corner, global metres.
        extent: (width, height) in metres.
        sun: unit vector towards the sun.
        standing: blocks that never move.
    """

    def __init__(self, origin, extent, sun: np.ndarray, standing: list[Block]) -> None:
        self._origin = np.array(origin)
        self._sun = sun
        size = [int(np.ceil(metres / SHADOW_RESOLUTION)) for metres in extent]
        self._standing = Image.new("L", (size[0], size[1]))
        self._draw(self._standing, standing)

    def _draw(self, image: Image.Image, blocks: list[Block]) -> None:
        draw = ImageDraw.Draw(image)
        for block in blocks:
            base = rectangle(block.centre[:2], block.size[:2], block.yaw)
            bottom = block.centre[2] - block.size[2] / 2
            slide = -self._sun[:2] / self._sun[2]
            outline = [base + slide * height for height in (bottom, bottom + block.size[2])]
            hull = np.array(MultiPoint(np.concatenate(outline)).convex_hull.exterior.coords)
            pixels = (hull - self._origin) / SHADOW_RESOLUTION - 0.5
            draw.polygon([tuple(p) for p in pixels], fill=1)

    def at_time(self, moving: list[Block]) -> np.ndarray:
        """(rows, columns) bool with the shadows of the moving blocks added."""
        image = self._standing.copy()
        self._draw(image, moving)
        return np.asarray(image).astype(bool)

    def look_up(self, shadow: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """True for global positions in shadow; false outside the raster."""
        column = ((x - self._origin[0]) / SHADOW_RESOLUTION).astype(np.int32)
        row = ((y - self._origin[1]) / SHADOW_RESOLUTION).astype(np.int32)
        height, width = shadow.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = np.where(inside, row * width + column, 0)
        return inside & shadow.ravel()[index]
