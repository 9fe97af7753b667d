"""Takes pictures of a stage."""

import numpy as np

from nsmae_plugin.data.synthetic.raycast import GROUND, NOTHING, Hits, cast
from nsmae_plugin.data.synthetic.rig import CameraRays
from nsmae_plugin.data.synthetic.stage import Stage

# Metres of depth at which a picture ends in the sky.
REACH = 400.0


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
    hits = cast(rays, rotation, origin, bodies, REACH)
    directions = rays.directions @ rotation.T.astype(np.float32)
    picture = np.empty(directions.shape, np.float32)
    seen = hits.box != NOTHING
    picture[~seen] = stage.lighting.sky(directions[~seen])
    distance, box, along = hits.distance[seen], hits.box[seen], directions[seen]
    samples = stage.surface.sample(along, distance, origin, box, bodies)
    shadow = _shadow(stage, along, distance, origin, box, seconds)
    colour = samples.albedo * stage.lighting.irradiance(samples.normal, shadow)
    length = distance * np.linalg.norm(along, axis=1)
    haze = np.exp(-((length / stage.lighting.fog) ** 2))[:, None]
    picture[seen] = colour * haze + stage.lighting.horizon * (1 - haze)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), hits


def _shadow(stage: Stage, along, distance, origin, box, seconds: float) -> np.ndarray:
    """Which of the points lie in the shadow of something; only the ground receives shadows."""
    shadow = np.zeros(len(box), bool)
    on_ground = np.flatnonzero(box == GROUND)
    points = along[on_ground, :2] * distance[on_ground, None] + origin[:2]
    raster = stage.shadows.at_time(stage.moving_blocks(seconds))
    shadow[on_ground] = stage.shadows.look_up(raster, points[:, 0], points[:, 1])
    return shadow
