"""The map expansion of the synthetic dataset, read by the unmodified devkit."""

from pathlib import Path

import numpy as np
import pytest
from nuscenes.map_expansion.arcline_path_utils import discretize_lane, pose_at_length
from nuscenes.map_expansion.bitmap import BitMap
from nuscenes.map_expansion.map_api import NuScenesMap
from shapely.geometry import Point

from nsmae_plugin.synthetic import SyntheticOptions, ground, write_dataset
from nsmae_plugin.synthetic.dataset import plan
from nsmae_plugin.synthetic.scene import build_stage

OPTIONS = SyntheticOptions(
    scenes=5, keyframes=2, sweeps=0, cameras=1, image_size=(32, 56), azimuths=90
)
SIX_CLASSES = ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area")
DIVIDERS = ("road_divider", "lane_divider")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("map_world"), OPTIONS)


@pytest.fixture(scope="module")
def maps(world, database) -> dict[str, NuScenesMap]:
    return {log["location"]: NuScenesMap(str(world), log["location"]) for log in database.log}


def location_of(database, scene) -> str:
    return database.get("log", scene["log_token"])["location"]


def ego_position(database, sample) -> np.ndarray:
    record = database.get("sample_data", sample["data"]["LIDAR_TOP"])
    return np.array(database.get("ego_pose", record["ego_pose_token"])["translation"])


def test_every_official_location_is_used_and_loads(maps):
    assert len(maps) == 4
    for city in maps.values():
        for layer in (*city.non_geometric_layers, "lane_connector"):
            assert getattr(city, layer), layer


@pytest.mark.parametrize("layer", [*SIX_CLASSES, *DIVIDERS])
def test_each_map_class_shows_in_the_surroundings_of_each_scene(database, maps, layer):
    for scene in database.scene:
        city = maps[location_of(database, scene)]
        x, y, _ = ego_position(database, database.get("sample", scene["first_sample_token"]))
        mask = city.get_map_mask((x, y, 120, 120), 0, [layer], (240, 240))
        assert mask.sum() > 20


def test_the_ego_vehicle_drives_on_lanes_of_the_drivable_area(database, maps):
    for sample in database.sample:
        scene = database.get("scene", sample["scene_token"])
        city = maps[location_of(database, scene)]
        x, y, _ = ego_position(database, sample)
        here = city.layers_on_point(x, y)
        assert here["drivable_area"]
        assert here["road_segment"]
        lane = city.get_closest_lane(x, y, radius=3)
        assert city.get_next_roads(x, y)
        path = np.array(discretize_lane(city.get_arcline_path(lane), 0.5))
        assert np.linalg.norm(path[:, :2] - (x, y), axis=1).min() < 0.5


def test_bitmap_of_the_devkit_agrees_with_the_polygons(world, database, maps):
    """Two cells of 0.1 m either way at the edges."""
    generator = np.random.default_rng(0)
    for scene in database.scene[:2]:
        city = maps[location_of(database, scene)]
        log = database.get("log", scene["log_token"])
        mask = database.get("map", log["map_token"])["mask"]
        x, y, _ = ego_position(database, database.get("sample", scene["first_sample_token"]))
        points = generator.uniform((x - 60, y - 60), (x + 60, y + 60), (300, 2))
        on_mask = mask.is_on_mask(points[:, 0], points[:, 1])
        agreed = 0
        for point, marked in zip(points, on_mask, strict=True):
            here = city.layers_on_point(*point, ["drivable_area", "walkway"])
            agreed += bool(here["drivable_area"] or here["walkway"]) == marked
        assert agreed >= 295
        assert 0.1 < on_mask.mean() < 0.9
        assert BitMap(str(world), city.map_name, "semantic_prior").image.shape == mask.mask().shape


def test_the_painted_ground_agrees_with_the_polygons(maps):
    """What the cameras see under a map class is what is painted there."""
    painted = {
        "ped_crossing": {ground.ASPHALT, ground.WHITE, ground.KERB},
        "walkway": {ground.WALKWAY, ground.KERB},
        "stop_line": {ground.WHITE},
        "carpark_area": {ground.CAR_PARK, ground.WHITE, ground.KERB},
    }
    generator = np.random.default_rng(1)
    for place in plan(OPTIONS)[:2]:
        stage = build_stage(OPTIONS, place)
        city = maps[place.location]
        x, y, _ = stage.ego_pose(0.0)[0]
        for layer, materials in painted.items():
            found = 0
            for token in city.get_records_in_radius(x, y, 90, [layer])[layer]:
                polygon = city.extract_polygon(city.get(layer, token)["polygon_token"])
                inner = polygon.buffer(-0.12)
                low_x, low_y, high_x, high_y = polygon.bounds
                for point in generator.uniform((low_x, low_y), (high_x, high_y), (60, 2)):
                    if inner.contains(Point(point)) and np.abs(point - (x, y)).max() < 100:
                        found += 1
                        assert int(stage.ground.at(*point[:, None])[0]) in materials, layer
            assert found > 10, layer


def test_arcs_of_lanes_follow_their_polygons_and_join(maps):
    for city in maps.values():
        for lane in city.lane + city.lane_connector:
            polygon = city.extract_polygon(lane["polygon_token"]).buffer(0.05)
            arcs = city.get_arcline_path(lane["token"])
            for pose in discretize_lane(arcs, 2.0):
                assert polygon.contains(Point(pose[:2]))
            for arc in arcs:
                end = pose_at_length(arc, sum(arc["segment_length"]))
                np.testing.assert_allclose(end[:2], arc["end_pose"][:2], atol=1e-6)
            for token in city.get_outgoing_lane_ids(lane["token"]):
                start = city.get_arcline_path(token)[0]["start_pose"]
                np.testing.assert_allclose(start, arcs[-1]["end_pose"], atol=1e-6)
                assert lane["token"] in city.get_incoming_lane_ids(token)


def test_stop_lines_know_what_they_stop_for(maps):
    for city in maps.values():
        for line in city.stop_line:
            assert line["cue"]
            kind = "traffic_light" if line["stop_line_type"] == "TRAFFIC_LIGHT" else "ped_crossing"
            assert all(city.get(kind, cue["token"]) is cue for cue in line["cue"])


def test_traffic_keeps_left_in_singapore_and_right_in_boston(database, maps):
    for scene in database.scene:
        city = maps[location_of(database, scene)]
        first = database.get("sample", scene["first_sample_token"])
        start = ego_position(database, first)
        ahead = ego_position(database, database.get("sample", first["next"])) - start
        left = np.array([-ahead[1], ahead[0]]) / np.linalg.norm(ahead[:2])
        lines = [city.extract_line(r["line_token"]) for r in city.road_divider]
        line = min(lines, key=lambda one: one.distance(Point(start[:2])))
        nearest = line.interpolate(line.project(Point(start[:2])))
        to_divider = (np.array([nearest.x, nearest.y]) - start[:2]) @ left
        assert (to_divider > 0) == (city.map_name == "boston-seaport")
