"""Records one scene: drives through a stage, writes sensor files, returns database records."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nsmae_plugin.geometry.rotations import quaternion_about, rotation_matrix
from nsmae_plugin.synthetic import tables
from nsmae_plugin.synthetic.layout import Layout
from nsmae_plugin.synthetic.options import KEYFRAME_INTERVAL_US, SyntheticOptions
from nsmae_plugin.synthetic.rig import CameraRays, LidarRays, Sensor, make_cameras, make_lidar
from nsmae_plugin.synthetic.sensors import sweep, take_picture
from nsmae_plugin.synthetic.stage import Stage, make_streets
from nsmae_plugin.synthetic.tables import Record, Tables, make_token, pose_fields

# Objects farther than this from the LiDAR are not annotated.
ANNOTATION_RANGE = 75.0
JPEG_QUALITY = 85
FIRST_TIMESTAMP_US = 1_530_000_000_000_000
SCENE_SPACING_US = 3_600_000_000


@dataclass(frozen=True)
class Place:
    """Where a scene is: ``index``, official ``name``, ``location``, and ``block`` of the map."""

    index: int
    name: str
    location: str
    block: tuple[float, float]

    @property
    def side(self) -> int:
        """Traffic keeps right (+1) in Boston and left (-1) in Singapore."""
        return 1 if self.location.startswith("boston") else -1


def build_stage(options: SyntheticOptions, place: Place) -> Stage:
    """The scene as a function of the options and its place alone."""
    generators = [_generator(options, place, stream) for stream in range(4)]
    return Stage(generators, options.duration, place.side, place.block)


def build_layout(options: SyntheticOptions, place: Place) -> Layout:
    """The streets of :func:`build_stage` without anything on them."""
    generator = _generator(options, place, 0)
    return make_streets(generator, options.duration, place.side, place.block)[1]


def _generator(options: SyntheticOptions, place: Place, stream: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, place.index, stream])


class SceneRecorder:
    """Writes the files of one scene under ``root`` and collects its records.

    Args:
        options: of the dataset.
        place: which scene this is.
        root: folder that holds ``samples`` and ``sweeps``.
    """

    def __init__(self, options: SyntheticOptions, place: Place, root: Path) -> None:
        self.options = options
        self.place = place
        self.root = root
        self.stage = build_stage(options, place)
        self.lidar = make_lidar()
        self.cameras = make_cameras(options.cameras, options.image_size)
        self._lidar_rays = LidarRays(options.azimuths)
        self._camera_rays = [CameraRays(camera) for camera in self.cameras]
        self._noise = _generator(options, place, 4)
        self.start_us = FIRST_TIMESTAMP_US + place.index * SCENE_SPACING_US
        self.logfile = f"synthetic-{options.seed}-{place.index:04d}"
        self._tables: Tables = {name: [] for name in tables.TABLE_NAMES}
        self._annotations: dict[int, list[Record]] = {}

    def token(self, *names: object) -> str:
        return make_token(self.options.seed, self.place.name, *names)

    def record(self) -> Tables:
        """Write all sensor files; returns the scene's part of the tables."""
        self._add_log_and_calibration()
        for index in range(self.options.keyframes):
            if index:
                self._record_sweeps(index)
            self._record_keyframe(index)
        self._add_scene()
        self._add_instances()
        for sensor in (self.lidar, *self.cameras):
            marker = f"__{sensor.channel}__"
            tables.link([r for r in self._tables["sample_data"] if marker in r["filename"]])
        return self._tables

    def _add_log_and_calibration(self) -> None:
        self._tables["log"].append(
            {
                "token": self.token("log"),
                "logfile": self.logfile,
                "vehicle": "synthetic",
                "date_captured": "2018-06-26",
                "location": self.place.location,
            }
        )
        for sensor in [self.lidar, *self.cameras]:
            intrinsic = getattr(sensor, "intrinsic", np.empty((0, 0)))
            self._tables["calibrated_sensor"].append(
                {
                    "token": self.token("calibrated_sensor", sensor.channel),
                    "sensor_token": make_token(self.options.seed, "sensor", sensor.channel),
                    **pose_fields(sensor.translation, sensor.rotation),
                    "camera_intrinsic": intrinsic.tolist(),
                }
            )

    def _record_sweeps(self, index: int) -> None:
        """LiDAR sweeps on the way to keyframe ``index``; they belong to its sample."""
        steps = self.options.sweeps + 1
        for step in range(1, steps):
            time_us = ((index - 1) * steps + step) * KEYFRAME_INTERVAL_US // steps
            self._record_lidar(index, time_us, is_key_frame=False)

    def _record_keyframe(self, index: int) -> None:
        time_us = index * KEYFRAME_INTERVAL_US
        self._tables["sample"].append(
            {
                "token": self.token("sample", index),
                "timestamp": self.start_us + time_us,
                "scene_token": self.token("scene"),
            }
        )
        points = self._record_lidar(index, time_us, is_key_frame=True)
        covered = np.zeros(len(self.stage.actors), np.int64)
        visible = np.zeros_like(covered)
        for camera, rays in zip(self.cameras, self._camera_rays, strict=True):
            at_us = time_us + round(camera.delay * 1e6)
            name, rotation, origin = self._add_sample_data(camera, index, at_us, True)
            picture, hits = take_picture(self.stage, rays, rotation, origin, at_us * 1e-6)
            Image.fromarray(picture).save(self.root / name, quality=JPEG_QUALITY)
            covered += hits.covered[: len(covered)]
            visible += hits.visible[: len(covered)]
        self._annotate(index, points, covered, visible)

    def _record_lidar(self, index: int, time_us: int, is_key_frame: bool) -> np.ndarray:
        """Write a sweep; returns its points (P, 3) in the global frame, as stored."""
        name, rotation, origin = self._add_sample_data(self.lidar, index, time_us, is_key_frame)
        points, _ = sweep(
            self.stage, self._lidar_rays, rotation, origin, time_us * 1e-6, self._noise
        )
        points.tofile(self.root / name)
        return points[:, :3].astype(np.float64) @ rotation.T + origin

    def _add_sample_data(
        self, sensor: Sensor, index: int, time_us: int, is_key_frame: bool
    ) -> tuple[str, np.ndarray, np.ndarray]:
        """Add the records of one exposure; returns file name and sensor-to-global transform."""
        timestamp = self.start_us + time_us
        position, attitude = self.stage.ego_pose(time_us * 1e-6)
        pose = pose_fields(position, attitude)
        token = self.token("sample_data", sensor.channel, timestamp)
        folder = "samples" if is_key_frame else "sweeps"
        suffix = "jpg" if sensor.modality == "camera" else "pcd.bin"
        stem = f"{self.logfile}__{sensor.channel}__{timestamp}"
        height, width = getattr(sensor, "size", (0, 0))
        self._tables["ego_pose"].append({"token": token, "timestamp": timestamp, **pose})
        self._tables["sample_data"].append(
            {
                "token": token,
                "sample_token": self.token("sample", index),
                "ego_pose_token": token,
                "calibrated_sensor_token": self.token("calibrated_sensor", sensor.channel),
                "timestamp": timestamp,
                "fileformat": "jpg" if sensor.modality == "camera" else "pcd",
                "is_key_frame": is_key_frame,
                "height": height,
                "width": width,
                "filename": f"{folder}/{sensor.channel}/{stem}.{suffix}",
            }
        )
        to_ego, offset = sensor.to_ego()
        turn = rotation_matrix(attitude)
        return self._tables["sample_data"][-1]["filename"], turn @ to_ego, turn @ offset + position

    def _annotate(self, index: int, points, covered: np.ndarray, visible: np.ndarray) -> None:
        """Boxes of all objects in range that the keyframe's sweep has touched."""
        seconds = index * KEYFRAME_INTERVAL_US * 1e-6
        ego, _ = self.stage.ego_pose(seconds)
        for number, actor in enumerate(self.stage.actors):
            centre, yaw = self.stage.actor_box(actor, seconds)
            if np.hypot(*(centre - ego)[:2]) > ANNOTATION_RANGE:
                continue
            length, width, height = (float(value) for value in actor.size)
            rotation = quaternion_about("z", yaw)
            count = tables.annotation_counts(points, centre, rotation, (width, length, height))
            if not count:
                continue
            attributes = [actor.attribute] if actor.attribute else []
            self._annotations.setdefault(number, []).append(
                {
                    "token": self.token("annotation", number, index),
                    "sample_token": self.token("sample", index),
                    "instance_token": self.token("instance", number),
                    "visibility_token": tables.visibility_token(visible[number], covered[number]),
                    "attribute_tokens": [
                        make_token(self.options.seed, "attribute", name) for name in attributes
                    ],
                    **pose_fields(centre, rotation),
                    "size": [width, length, height],
                    "num_lidar_pts": count,
                    "num_radar_pts": 0,
                }
            )

    def _add_scene(self) -> None:
        samples = self._tables["sample"]
        tables.link(samples)
        self._tables["scene"].append(
            {
                "token": self.token("scene"),
                "log_token": self.token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": self.place.name,
                "description": "Synthetic street with traffic, pedestrians and road works",
            }
        )

    def _add_instances(self) -> None:
        for number, records in sorted(self._annotations.items()):
            tables.link(records)
            category = self.stage.actors[number].category
            self._tables["instance"].append(
                {
                    "token": self.token("instance", number),
                    "category_token": make_token(self.options.seed, "category", category),
                    "nbr_annotations": len(records),
                    "first_annotation_token": records[0]["token"],
                    "last_annotation_token": records[-1]["token"],
                }
            )
            self._tables["sample_annotation"] += records
