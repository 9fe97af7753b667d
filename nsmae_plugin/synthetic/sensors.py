"""Rendering of camera images and LiDAR sweeps of a stage."""

import numpy as np

from nsmae_plugin.synthetic.raycast import GROUND, NOTHING, Hits, cast
from nsmae_plugin.synthetic.rig import CameraRays, LidarRays
from nsmae_plugin.synthetic.stage import Stage

# Range noise in metres: standard deviation and bound; the bound keeps returns inside their boxes.
NOISE, NOISE_BOUND = 0.008, 0.02
# Share of the pulses that do not come back.
LOSS = 0.02


def take_picture(
    stage: Stage, rays: CameraRays, rotation: np.ndarray, origin: np.ndarray, seconds: float
) -> tuple[np.ndarray, Hits]:
    """Render one exposure.

    Args:
        stage: the scene.
        rays: rays of the camera.
        rotation, origin: (3, 3) and (3,), camera frame to global frame at the exposure.
        seconds: time of the exposure.

    Returns:
        (H, W, 3) uint8 RGB and the hits; ``distance`` is the depth in metres.
    """
    bodies = stage.bodies(seconds)
    hits = cast(rays, rotation, origin, bodies)
    picture = np.empty((*hits.distance.shape, 3), np.float32)
    seen = hits.box != NOTHING
    picture[~seen] = stage.lighting.sky(hits.directions[:, ~seen].T)
    box = hits.box[seen]
    points = (hits.directions[:, seen] * hits.distance[seen]).T
    samples = stage.surface.sample(points, origin, box, bodies)
    shadow = _shadow(stage, points, origin, box, seconds)
    colour = samples.albedo * stage.lighting.irradiance(samples.normal, shadow)
    picture[seen] = stage.lighting.haze(colour, np.linalg.norm(points, axis=1))
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), hits


def _shadow(stage: Stage, points, origin: np.ndarray, box, seconds: float) -> np.ndarray:
    """Mask of the points in shadow; only the ground receives shadows."""
    shadow = np.zeros(len(box), bool)
    on_ground = np.flatnonzero(box == GROUND)
    x, y = (points[on_ground, :2] + origin[:2]).T
    raster = stage.shadows.at_time(stage.moving_blocks(seconds))
    shadow[on_ground] = stage.shadows.look_up(raster, x, y)
    return shadow


def sweep(
    stage: Stage,
    rays: LidarRays,
    rotation: np.ndarray,
    origin: np.ndarray,
    seconds: float,
    generator: np.random.Generator,
) -> tuple[np.ndarray, Hits]:
    """One turn of the LiDAR, all beams at its timestamp.

    Args:
        stage: the scene.
        rays: rays of the LiDAR.
        rotation, origin: (3, 3) and (3,), LiDAR frame to global frame.
        seconds: time of the sweep.
        generator: draws noise and losses.

    Returns:
        (P, 5) float32 [x, y, z, intensity 0-255, ring] in the LiDAR frame, and the hits.
    """
    bodies = stage.bodies(seconds)
    hits = cast(rays, rotation, origin, bodies)
    returned = (hits.box != NOTHING) & (generator.random(hits.box.shape) > LOSS)
    distance, box = hits.distance[returned], hits.box[returned]
    directions = hits.directions[:, returned].T
    samples = stage.surface.sample(directions * distance[:, None], origin, box, bodies)
    noise = np.clip(generator.normal(0, NOISE, len(distance)), -NOISE_BOUND, NOISE_BOUND)
    points = np.empty((len(distance), 5), np.float32)
    points[:, :3] = (rays.directions[:, returned] * (distance + noise)).T
    points[:, 3] = _intensity(samples.albedo, samples.normal, directions)
    points[:, 4] = np.nonzero(returned)[0]
    return points, hits


def _intensity(albedo: np.ndarray, normal: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """LiDAR intensity by Lambert's law, on the scale of nuScenes."""
    facing = np.abs(np.einsum("ij,ij->i", normal, directions))
    strength = albedo.mean(1) * (0.25 + 0.75 * facing)
    return np.clip(np.floor(4 + 110 * strength), 0, 255)
