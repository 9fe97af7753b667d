"""The ray caster and what it looks at, against hand-computed answers and slow references."""

import numpy as np
import pytest
from shapely.geometry import Polygon
from shapely.strtree import STRtree

from nsmae_plugin.geometry.rotations import rotation_matrix
from nsmae_plugin.synthetic import SyntheticOptions
from nsmae_plugin.synthetic.actors import Speed
from nsmae_plugin.synthetic.background import rectangle
from nsmae_plugin.synthetic.dataset import plan
from nsmae_plugin.synthetic.raycast import GROUND, NEAR, NOTHING, Bodies, cast
from nsmae_plugin.synthetic.rig import CameraRays, LidarRays, make_cameras, make_lidar
from nsmae_plugin.synthetic.road import Centreline, Piece
from nsmae_plugin.synthetic.scene import build_stage
from nsmae_plugin.synthetic.sensors import NOISE_BOUND, sweep, take_picture
from nsmae_plugin.synthetic.shapes import LOOKS

SIZE = (64, 112)


@pytest.fixture(scope="module")
def stage():
    options = SyntheticOptions()
    return build_stage(options, plan(options)[1])


def placed(stage, sensor, seconds):
    """Sensor-to-global rotation and origin."""
    position, attitude = stage.ego_pose(seconds)
    rotation, offset = sensor.to_ego()
    turn = rotation_matrix(attitude)
    return turn @ rotation, turn @ offset + position


def random_bodies(generator, number=60):
    """Objects of one to three boxes around the origin, on all sides of it."""
    counts = generator.integers(1, 4, number)
    total = int(counts.sum())
    yaw = generator.uniform(-np.pi, np.pi, total)
    angle, radius = generator.uniform(-np.pi, np.pi, total), generator.uniform(4, 60, total)
    centre = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    half = generator.uniform(0.1, 2.0, (total, 3))
    # Long walls, of which a part is beside or behind the sensor.
    half[::9, 0] = generator.uniform(8.0, 20.0, len(half[::9]))
    return Bodies(
        centre=np.column_stack([centre, half[:, 2] + generator.uniform(0, 2, total)]),
        half=half,
        yaw=yaw,
        colour=np.ones((total, 3)),
        texture=np.zeros(total, int),
        groups=np.concatenate([[0], np.cumsum(counts)]),
    )


def brute_force(directions, origin, bodies, reach):
    """Distances by clipping every ray against every box in double precision, no windows."""
    rays = directions.reshape(3, -1).T.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(rays[:, 2] < 0, -origin[2] / rays[:, 2], np.inf)
        for centre, half, yaw in zip(bodies.centre, bodies.half, bodies.yaw, strict=True):
            turn = np.array(
                [[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
            )
            start, along = turn @ (origin - centre), rays @ turn.T
            ends = np.stack([(-half - start) / along, (half - start) / along])
            enter, leave = ends.min(0).max(1), ends.max(0).min(1)
            best = np.where((enter <= leave) & (enter > NEAR), np.minimum(best, enter), best)
    return np.where(best < reach, best, np.inf).reshape(directions.shape[1:])


@pytest.mark.parametrize("sensor", ["lidar", "camera"])
def test_cast_finds_what_an_exhaustive_search_finds(sensor):
    """Windows lose no hit. Rays that graze an edge (1e-4 of them) may go either way in float32."""
    generator = np.random.default_rng(3)
    grid = LidarRays(180) if sensor == "lidar" else CameraRays(make_cameras(4, SIZE)[3])
    # A sensor that is tilted and turned, at map coordinates where float32 has 0.1 mm left.
    tilt = np.linalg.qr(np.eye(3) + generator.normal(0, 0.05, (3, 3)))[0]
    tilt *= np.sign(np.diag(tilt))
    mount = (make_lidar() if sensor == "lidar" else make_cameras(4, SIZE)[3]).to_ego()[0]
    rotation, shift = tilt @ mount, np.array([1503.2, 1900.7, 0.0])
    bodies = random_bodies(generator)
    origin = np.array([0.0, 0.0, 1.8])
    shifted = Bodies(**{**vars(bodies), "centre": bodies.centre + shift})
    hits = cast(grid, rotation, origin + shift, shifted)
    expected = brute_force(hits.directions, origin, bodies, grid.reach)
    agree = np.isclose(hits.distance, expected, rtol=1e-3, atol=1e-3)
    agree |= ~np.isfinite(hits.distance) & ~np.isfinite(expected)
    assert (hits.box >= 0).mean() > 0.1
    assert agree.mean() > 0.998


def test_a_box_covers_the_pixels_that_the_pinhole_model_says():
    """A cube of 2 m whose near face is 10 m ahead: f = 0.79 * 112 px spans +-f/10 px."""
    camera = make_cameras(1, SIZE)[0]
    level = camera.to_ego()[0]
    bodies = Bodies(
        centre=np.array([[11.0, 0.0, 50.0]]),
        half=np.ones((1, 3)),
        yaw=np.zeros(1),
        colour=np.ones((1, 3)),
        texture=np.zeros(1, int),
        groups=np.array([0, 1]),
    )
    hits = cast(CameraRays(camera), level, np.array([0.0, 0.0, 50.0]), bodies)
    rows, columns = np.nonzero(hits.box == 0)
    reach = 0.79 * 112 / 10  # 8.848
    # Pixel i is lit when its middle i + 0.5 lies within 56 +- 8.848: 47 .. 64.
    assert (columns.min(), columns.max()) == (47, 64)
    # The principal row is 0.546 * 64 = 34.944: middles within 26.096 .. 43.792.
    assert (rows.min(), rows.max()) == (26, 43)
    assert reach == pytest.approx(8.848)
    np.testing.assert_allclose(hits.distance[hits.box == 0], 10.0, rtol=1e-6)
    assert hits.covered[0] == hits.visible[0] == 18 * 18


def test_visible_rays_are_the_covered_ones_that_nothing_hides():
    camera = make_cameras(1, SIZE)[0]
    bodies = Bodies(
        centre=np.array([[21.0, 0.0, 50.0], [11.0, 0.0, 50.0]]),
        half=np.ones((2, 3)),
        yaw=np.zeros(2),
        colour=np.ones((2, 3)),
        texture=np.zeros(2, int),
        groups=np.array([0, 1, 2]),
    )
    hits = cast(CameraRays(camera), camera.to_ego()[0], np.array([0.0, 0.0, 50.0]), bodies)
    assert hits.covered[0] > 0
    assert hits.visible[0] == 0
    assert hits.visible[1] == hits.covered[1]


def test_every_lidar_point_lies_on_a_surface(stage):
    """Residual against the hit body: range noise of 2 cm at most, plus float32."""
    lidar, seconds = make_lidar(), 1.0
    rotation, origin = placed(stage, lidar, seconds)
    generator = np.random.default_rng(0)
    points, hits = sweep(stage, LidarRays(200), rotation, origin, seconds, generator)
    world = points[:, :3].astype(np.float64) @ rotation.T + origin
    bodies = stage.bodies(seconds)
    residual = np.abs(world[:, 2])
    for centre, half, yaw in zip(bodies.centre, bodies.half, bodies.yaw, strict=True):
        c, s = np.cos(yaw), np.sin(yaw)
        local = (world - centre) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        beyond = np.abs(local) - half
        outside = np.linalg.norm(np.clip(beyond, 0, None), axis=1)
        inside = np.clip(-beyond.max(1), 0, None)
        residual = np.minimum(residual, outside + inside)
    assert residual.max() < NOISE_BOUND + 1e-3
    # About a fiftieth of the pulses is lost on purpose.
    assert len(points) / np.count_nonzero(hits.box != NOTHING) == pytest.approx(0.98, abs=0.01)


@pytest.mark.parametrize("index", range(6))
def test_camera_and_lidar_see_the_same_world(stage, index):
    """The camera sees each LiDAR point, or something in front of it; never through it."""
    seconds = 0.5
    lidar, camera = make_lidar(), make_cameras(6, (256, 448))[index]
    rotation, origin = placed(stage, lidar, seconds)
    generator = np.random.default_rng(0)
    points, _ = sweep(stage, LidarRays(400), rotation, origin, seconds, generator)
    world = points[:, :3].astype(np.float64) @ rotation.T + origin
    turn, eye = placed(stage, camera, seconds)
    _, hits = take_picture(stage, CameraRays(camera), turn, eye, seconds)
    local = (world - eye) @ turn
    local = local[local[:, 2] > 1]
    pixels = np.floor((local @ camera.intrinsic.T)[:, :2] / local[:, 2:]).astype(int)
    seen = ((pixels >= 0) & (pixels < (448, 256))).all(1)
    depth = hits.distance[pixels[seen, 1], pixels[seen, 0]]
    ratio = depth / local[seen, 2]
    assert seen.sum() > 300
    # A pixel on an edge, or on ground that it sees at a flat angle, may lie farther away.
    assert (ratio > 1.05).mean() < 0.04
    same = ratio > 0.95
    assert same.mean() > 0.5
    assert np.median(np.abs(ratio[same] - 1)) < 0.01


def test_lidar_intensity_follows_the_brightness_of_the_ground(stage):
    rotation, origin = placed(stage, make_lidar(), 0.0)
    generator = np.random.default_rng(0)
    points, _ = sweep(stage, LidarRays(400), rotation, origin, 0.0, generator)
    world = points[:, :3].astype(np.float64) @ rotation.T + origin
    near = (np.abs(world[:, 2]) < 0.03) & (np.hypot(points[:, 0], points[:, 1]) < 20)
    material = stage.ground.at(world[near, 0], world[near, 1])
    colours = stage.surface.ground_colours.mean(1)[material]
    assert np.corrcoef(colours, points[near, 3])[0, 1] > 0.8


def test_pictures_of_two_scenes_differ_in_light_and_colour():
    options = SyntheticOptions()
    camera = make_cameras(1, (32, 56))[0]
    pictures, skies = [], set()
    for place in plan(options)[:4]:
        scene = build_stage(options, place)
        skies.add(tuple(scene.lighting.zenith))
        picture, _ = take_picture(scene, CameraRays(camera), *placed(scene, camera, 0.0), 0.0)
        pictures.append(picture.astype(float))
        assert picture.std() > 20
    assert len(skies) == 3  # a clear, an overcast and a late day
    for i in range(4):
        for j in range(i):
            assert np.abs(pictures[i] - pictures[j]).mean() > 15


def test_nothing_ever_overlaps():
    """Boxes of actors, the ego vehicle and what stands on the ground, over 20 seconds."""
    options = SyntheticOptions(keyframes=41)
    for place in plan(options)[:3]:
        stage = build_stage(options, place)
        low = [b.footprint() for b in stage.background if b.centre[2] - b.size[2] / 2 < 3.8]
        for seconds in np.linspace(0, options.duration, 5):
            shapes = []
            for actor in stage.actors:
                if actor.motion.is_on_road(seconds):
                    centre, yaw = stage.actor_box(actor, seconds)
                    shapes.append(Polygon(rectangle(centre[:2], actor.size[:2], yaw)))
            position, attitude = stage.ego_pose(seconds)
            yaw = np.arctan2(*rotation_matrix(attitude)[[1, 0], 0])
            middle = position[:2] + 1.4 * np.array([np.cos(yaw), np.sin(yaw)])
            shapes.append(Polygon(rectangle(middle, (4.8, 2.0), yaw)))
            actors = len(shapes)
            pairs = STRtree(shapes + low).query(shapes + low, predicate="intersects").T
            clashes = [(i, j) for i, j in pairs if i < j and i < actors]
            assert not clashes


@pytest.mark.parametrize("seconds", [0.0, 2.5])
def test_what_the_sensors_see_of_an_actor_is_inside_its_box_at_that_time(stage, seconds):
    bodies = stage.bodies(seconds)
    moved = 0
    for index, actor in enumerate(stage.actors):
        if not actor.motion.is_on_road(seconds):
            continue
        (x, y, z), yaw = stage.actor_box(actor, seconds)
        c, s = np.cos(yaw), np.sin(yaw)
        members = slice(*bodies.groups[index : index + 2])
        local = (bodies.centre[members] - (x, y, z)) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        assert (np.abs(local) + bodies.half[members] <= actor.size / 2 - NOISE_BOUND).all()
        np.testing.assert_allclose(bodies.yaw[members], yaw)
        start, _ = stage.actor_box(actor, 0.0)
        moved += np.hypot(x - start[0], y - start[1]) > 1.0
    assert (moved > 10) == (seconds > 0)


def test_parts_stay_inside_their_object():
    for name, look in LOOKS.items():
        for part in look.parts:
            reach = np.abs(part.centre) + np.array(part.size) / 2
            assert (reach <= 0.5 + 1e-9).all(), (name, part)


def test_a_quarter_turn_ends_where_it_should():
    """Radius 10 to the left from the origin along x, then 5 m straight on along y."""
    line = Centreline((0.0, 0.0, 0.0), [Piece(5 * np.pi, 0.1), Piece(5.0, 0.0)])
    np.testing.assert_allclose(line.pose(5 * np.pi), (10, 10, np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(line.pose(line.length), (10, 15, np.pi / 2), atol=1e-12)
    # Two metres to the left of start and end, and four metres before the start.
    np.testing.assert_allclose(line.pose(0.0, 2.0), (0, 2, 0), atol=1e-12)
    np.testing.assert_allclose(line.pose(line.length, 2.0)[:2], (8, 15), atol=1e-12)
    np.testing.assert_allclose(line.pose(-4.0), (-4, 0, 0), atol=1e-12)


def test_poses_along_a_road_are_the_integral_of_its_curvature():
    line = Centreline((3.0, -2.0, 0.7), [Piece(20, 0.02), Piece(15, 0.0), Piece(30, -0.03)])
    s = np.linspace(0, line.length, 65_001)
    curvature = np.select([s < 20, s < 35], [0.02, 0.0], -0.03)
    step = s[1]
    yaw = 0.7 + np.concatenate([[0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * step)])
    x = 3.0 + np.concatenate([[0], np.cumsum(np.cos((yaw[1:] + yaw[:-1]) / 2) * step)])
    y = -2.0 + np.concatenate([[0], np.cumsum(np.sin((yaw[1:] + yaw[:-1]) / 2) * step)])
    # The trapezoid at the two jumps of the curvature is off by half a step of 1 mm.
    np.testing.assert_allclose(line.pose(s), np.stack([x, y, yaw], 1), atol=2e-3)


def test_a_braking_vehicle_comes_to_rest():
    """8 m/s at -2 m/s^2: 16 m in 4 s, and no farther."""
    speed = Speed(8.0, -2.0)
    assert speed.travel(1.0) == pytest.approx(7.0)
    assert speed.travel(4.0) == pytest.approx(16.0)
    assert speed.travel(9.0) == pytest.approx(16.0)


def test_rays_of_the_ground_end_on_the_ground(stage):
    camera = make_cameras(1, SIZE)[0]
    turn, eye = placed(stage, camera, 0.3)
    _, hits = take_picture(stage, CameraRays(camera), turn, eye, 0.3)
    ground = hits.box == GROUND
    heights = hits.directions[2, ground] * hits.distance[ground] + eye[2]
    assert ground.sum() > 500
    np.testing.assert_allclose(heights, 0.0, atol=1e-4)
