"""Takes pictures of a stage."""

import numpy as np

from nsmae_plugin.synthetic.raycast import GROUND, NOTHING, Hits, cast
from nsmae_plugin.synthetic.rig import CameraRays
from nsmae_plugin.synthetic.stage import Stage


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
    """Which of the points lie in the shadow of something; only the ground receives shadows."""
    shadow = np.zeros(len(box), bool)
    on_ground = np.flatnonzero(box == GROUND)
    x, y = (points[on_ground, :2] + origin[:2]).T
    raster = stage.shadows.at_time(stage.moving_blocks(seconds))
    shadow[on_ground] = stage.shadows.look_up(raster, x, y)
    return shadow
