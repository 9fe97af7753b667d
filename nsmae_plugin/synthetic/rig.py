"""The sensors of the ego vehicle: their poses, rays and trigger times.

Ego frame: x forward, y left, z up, origin on the ground under the rear axle. LiDAR frame: x right,
y forward, z up. Camera frame: x right, y down, z along the optical axis; pixel (column i, row j)
covers [i, i + 1) x [j, j + 1).
"""

import math
from dataclasses import dataclass

import numpy as np

from nsmae_plugin.geometry.rotations import (
    multiply,
    quaternion,
    quaternion_about,
    rotation_matrix,
)
from nsmae_plugin.synthetic.raycast import NEAR, Window

LIDAR_CHANNEL = "LIDAR_TOP"
LIDAR_POSITION = (0.94, 0.0, 1.84)
LIDAR_YAW = -90.0
# Beams of an HDL-32E, in degrees above the horizon.
ELEVATIONS = np.linspace(-30.67, 10.67, 32)
TURN_SECONDS = 0.05
# Yaw at which the LiDAR begins its clockwise turn; it is back there at its timestamp, and a camera
# fires when the beam passes its middle (delays within 2 ms of nuScenes').
_TURN_START = 100.0

# Channel, yaw in degrees to the left of straight ahead, position, focal length / image width.
_NUSCENES_CAMERAS = (
    ("CAM_FRONT", 0.0, (1.70, 0.0, 1.51), 0.79),
    ("CAM_FRONT_RIGHT", -55.0, (1.55, -0.49, 1.50), 0.79),
    ("CAM_FRONT_LEFT", 55.0, (1.52, 0.49, 1.51), 0.79),
    ("CAM_BACK", 180.0, (0.03, 0.0, 1.58), 0.506),
    ("CAM_BACK_LEFT", 110.0, (1.04, 0.48, 1.59), 0.79),
    ("CAM_BACK_RIGHT", -110.0, (1.01, -0.48, 1.56), 0.79),
)
# The optical axis of nuScenes' cameras meets the image below its middle.
_PRINCIPAL_ROW = 0.546


@dataclass(frozen=True)
class Sensor:
    """A sensor at a place on the vehicle; ``delay`` is its trigger relative to the keyframe."""

    channel: str
    modality: str
    translation: tuple[float, float, float]
    rotation: np.ndarray  # quaternion w, x, y, z
    delay: float

    def to_ego(self) -> tuple[np.ndarray, np.ndarray]:
        """(3, 3) rotation and (3,) translation, sensor frame to ego frame."""
        return rotation_matrix(self.rotation), np.array(self.translation)


@dataclass(frozen=True)
class Camera(Sensor):
    """A pinhole camera; ``intrinsic`` (3, 3) in pixels, ``size`` (height, width)."""

    intrinsic: np.ndarray
    size: tuple[int, int]


class LidarRays:
    """32 beams, the lowest first, times ``azimuths`` columns; unit directions.

    Column 0 looks backwards; columns go clockwise.
    """

    reach = 90.0

    def __init__(self, azimuths: int) -> None:
        self._step = 2 * np.pi / azimuths
        # Angle from the y axis towards the x axis of the LiDAR frame: clockwise from ahead.
        angle = -np.pi + (np.arange(azimuths) + 0.5) * self._step
        elevation = np.deg2rad(ELEVATIONS)[:, None]
        level = np.cos(elevation)
        xyz = level * np.sin(angle), level * np.cos(angle), np.sin(elevation)
        self.directions = np.stack(np.broadcast_arrays(*xyz)).astype(np.float32)

    def windows(self, corners: np.ndarray) -> list[Window]:
        rows = self._rows(corners)
        if rows.start >= rows.stop or np.hypot(*corners[:, :2].T).min() > self.reach:
            return []
        columns = self.directions.shape[2]
        angles = np.arctan2(corners[:, 0], corners[:, 1])
        middle = np.arctan2(*corners[:, :2].mean(0))
        spread = (angles - middle + np.pi) % (2 * np.pi) - np.pi
        if np.ptp(spread) > 0.9 * np.pi:  # the sensor is over, under or beside it
            return [(rows, slice(0, columns))]
        first = int(np.floor((middle + spread.min() + np.pi) / self._step - 0.5))
        last = int(np.ceil((middle + spread.max() + np.pi) / self._step - 0.5)) + 1
        spans = [
            (max(0, first + shift), min(columns, last + shift)) for shift in (-columns, 0, columns)
        ]
        return [(rows, slice(*span)) for span in spans if span[0] < span[1]]

    def _rows(self, corners: np.ndarray) -> slice:
        """Beams between the steepest angles at which the body's cylinder can be seen."""
        middle = corners[:, :2].mean(0)
        radius = np.hypot(*(corners[:, :2] - middle).T).max()
        distance = float(np.hypot(*middle))
        near, far = max(distance - radius, 0.01), distance + radius
        top, bottom = corners[:, 2].max(), corners[:, 2].min()
        highest = np.rad2deg(np.arctan2(top, near if top > 0 else far))
        lowest = np.rad2deg(np.arctan2(bottom, near if bottom < 0 else far))
        start = int(np.searchsorted(ELEVATIONS, lowest))
        return slice(start, int(np.searchsorted(ELEVATIONS, highest, side="right")))


class CameraRays:
    """A ray through the middle of each pixel; directions have z = 1, so distances are depths."""

    reach = 400.0

    def __init__(self, camera: Camera) -> None:
        height, width = camera.size
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        pixels = np.stack([columns, rows, np.ones_like(rows)])
        unproject = np.linalg.inv(camera.intrinsic)
        self.directions = np.einsum("ij,jrc->irc", unproject, pixels).astype(np.float32)
        self._intrinsic = camera.intrinsic

    def windows(self, corners: np.ndarray) -> list[Window]:
        front = corners[:, 2] > NEAR
        if not front.any():
            return []
        seen, hidden = corners[front], corners[~front]
        # Crossings of segments with the near plane bound the part in front of it.
        share = (seen[:, None, 2] - NEAR) / (seen[:, None, 2] - hidden[None, :, 2])
        cut = seen[:, None] + share[..., None] * (hidden[None] - seen[:, None])
        points = np.concatenate([seen, cut.reshape(-1, 3)]) @ self._intrinsic.T
        pixels = points[:, :2] / points[:, 2:]
        height, width = self.directions.shape[1:]
        low = np.clip(np.floor(pixels.min(0) - 0.5), 0, (width, height)).astype(int)
        high = np.clip(np.ceil(pixels.max(0) + 0.5), 0, (width, height)).astype(int)
        if (low >= high).any():
            return []
        return [(slice(low[1], high[1]), slice(low[0], high[0]))]


def make_lidar() -> Sensor:
    """The LiDAR; its sweep ends, and the keyframe is, at its timestamp."""
    yaw = quaternion_about("z", math.radians(LIDAR_YAW))
    return Sensor(LIDAR_CHANNEL, "lidar", LIDAR_POSITION, yaw, 0.0)


def make_cameras(number: int, size: tuple[int, int]) -> list[Camera]:
    """nuScenes' six cameras first, then more at generated angles."""
    named = list(_NUSCENES_CAMERAS[:number])
    for index in range(len(named), number):
        # Steps of the golden angle never repeat a direction and spread evenly.
        yaw = (27.5 + 137.508 * (index - len(_NUSCENES_CAMERAS)) + 180) % 360 - 180
        angle = math.radians(yaw)
        place = (1.0 + 0.5 * math.cos(angle), 0.5 * math.sin(angle), 1.55)
        named.append((f"CAM_EXTRA_{index + 1}", yaw, place, 0.79))
    return [_make_camera(*entry, size) for entry in named]


def _make_camera(channel: str, yaw: float, place, focal: float, size: tuple[int, int]) -> Camera:
    height, width = size
    pixels = focal * width
    rows = [[pixels, 0.0, 0.5 * width], [0.0, pixels, _PRINCIPAL_ROW * height], [0.0, 0.0, 1.0]]
    forward = quaternion(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))
    rotation = multiply(quaternion_about("z", math.radians(yaw)), forward)
    turned = ((_TURN_START - yaw) % 360) / 360
    delay = -TURN_SECONDS * (1 - turned)
    return Camera(channel, "camera", place, rotation, delay, np.array(rows), size)
