"""Areas on a grid: what is drawn is where the centres of cells lie, in every pose."""

import itertools

import numpy as np
import pytest
import shapely
from shapely.geometry import Point, Polygon, box

from nsmae_plugin.formats.maps.map_raster import rasterise
from nsmae_plugin.formats.maps.vector_map import VectorMap
from nsmae_plugin.geometry.augmentation import flip, rotation, scaling, translation
from nsmae_plugin.geometry.bev_grid import BEVGrid

SMALL = BEVGrid((0.0, 5.0, 1.0), (0.0, 4.0, 1.0))
SQUARE = BEVGrid((-20.0, 20.0, 0.5), (-20.0, 20.0, 0.5))
OBLONG = BEVGrid((-10.0, 25.0, 0.5), (-20.0, 4.0, 0.75))  # neither centred nor square
STAY = np.eye(3)[:2]


def draw(areas, grid=SMALL, to_grid=STAY, channels=1):
    rings = VectorMap.from_polygons(areas).rings
    return rasterise(rings, np.asarray(to_grid), grid, channels)


def picture(mask):
    """Top row first, as one looks at a map."""
    return ["".join(".#"[int(cell)] for cell in row) for row in mask[::-1]]


def test_a_cell_is_drawn_where_its_centre_lies_inside():
    # From x = 0.6 to 3.7 lie the centres 1.5 to 3.5; from y = 0.4 to 2.6 those from 0.5 to 2.5.
    (mask,) = draw([(0, box(0.6, 0.4, 3.7, 2.6))])
    assert picture(mask) == [".....", ".###.", ".###.", ".###."]
    assert mask.dtype == bool


def test_holes_are_left_out_and_islands_in_them_are_not():
    ring = Polygon(box(-9, -9, 9, 9).exterior, [box(0.6, 0.6, 4.4, 3.4).exterior])
    assert picture(draw([(0, ring)])[0]) == ["#####", "#...#", "#...#", "#####"]
    island = box(2.1, 1.1, 2.9, 1.9)
    assert picture(draw([(0, ring), (0, island)])[0]) == ["#####", "#...#", "#.#.#", "#####"]


def test_areas_that_overlap_are_one_however_their_outlines_run():
    backwards = Polygon(list(box(1, 1, 4, 3).exterior.coords)[::-1])
    mask = draw([(0, backwards), (0, box(2, 0, 5, 2)), (0, box(2, 0, 5, 2))])[0]
    assert picture(mask) == [".....", ".###.", ".####", "..###"]


def test_classes_do_not_mix_and_one_without_areas_is_empty():
    areas = [(2, box(0, 0, 1, 4)), (0, box(4, 0, 9, 4))]
    masks = draw(areas, channels=3)
    assert masks.shape == (3, 4, 5)
    assert picture(masks[0]) == ["....#"] * 4
    assert not masks[1].any()
    assert picture(masks[2]) == ["#...."] * 4


def test_areas_beside_the_grid_leave_no_trace_and_those_around_it_fill_it():
    sides = [box(-9, -9, -1, 9), box(6, -9, 9, 9), box(-9, 5, 9, 9), box(-9, -9, 9, -1)]
    assert not draw([(0, side) for side in sides]).any()
    assert draw([(0, box(-1e4, -1e4, 1e4, 1e4))]).all()
    assert not draw([]).any()


def blobs(rng, channels=3):
    """Stars, some with a hole, that overlap each other and the grid's border."""
    result = []
    for number in range(40):
        radius, count = rng.uniform(0.4, 15), rng.integers(5, 60)
        angles = np.sort(rng.uniform(-np.pi, np.pi, count))
        spokes = radius * rng.uniform(0.4, 1, count)
        star = np.stack([spokes * np.cos(angles), spokes * np.sin(angles)], axis=1)
        polygon = Polygon(star + rng.uniform(-30, 30, 2))
        if number % 3 == 0:
            polygon = polygon.difference(Point(polygon.centroid).buffer(radius / 4))
        parts = shapely.get_parts(shapely.make_valid(polygon))
        result += [(number % channels, part) for part in parts if isinstance(part, Polygon)]
    return result


def inside(areas, points, channels=3):
    """(C, ...) whether points (..., 2) lie in an area of the class, by shapely."""
    unions = [
        shapely.union_all([area for number, area in areas if number == channel])
        for channel in range(channels)
    ]
    return np.stack(
        [shapely.contains_xy(union, points[..., 0], points[..., 1]) for union in unions]
    )


POSES = [
    pytest.param(*values, id=f"flips{values[0]:d}{values[1]:d}-turn{values[2]}-scale{values[3]}")
    for values in itertools.product((False, True), (False, True), (0.0, 0.3, -2.1), (1.0, 1.07))
]


@pytest.mark.parametrize("grid", [SQUARE, OBLONG], ids=["square", "oblong"])
@pytest.mark.parametrize(("along_x", "along_y", "angle", "scale"), POSES)
def test_drawing_after_augmenting_is_asking_where_each_centre_came_from(
    grid, along_x, along_y, angle, scale
):
    rng = np.random.default_rng(5)
    areas = blobs(rng)
    augmentation = translation([*rng.normal(0, 2, 2), 0.5]) @ scaling(scale)
    augmentation = augmentation @ rotation(angle) @ flip(along_x, along_y)
    centres = grid.centres()
    flat = np.concatenate([centres, np.zeros((*grid.shape, 1)), np.ones((*grid.shape, 1))], axis=-1)
    origin = flat @ np.linalg.inv(augmentation).T
    expected = inside(areas, origin[..., :2])
    # Exactly: borders are random, none passes within rounding (1e-14) of a centre.
    drawn = draw(areas, grid, augmentation[:2][:, [0, 1, 3]], channels=3)
    np.testing.assert_array_equal(drawn, expected)
    assert 0.05 < drawn.mean() < 0.95


@pytest.mark.parametrize("far", [0.0, 3000.0])  # how far from the origin maps lie
def test_mirroring_and_quarter_turns_of_the_world_mirror_and_turn_the_drawing(far):
    rng = np.random.default_rng(6)
    areas = [(number, shapely.transform(area, lambda p: p + far)) for number, area in blobs(rng)]
    place = np.array([[1.0, 0, -far], [0, 1, -far], [0, 0, 1]])
    pose = rotation(0.4)[np.ix_([0, 1, 3], [0, 1, 3])] @ place

    def drawn(moved):
        return draw(areas, SQUARE, (np.array(moved) @ pose)[:2], channels=3)

    straight = drawn(np.eye(3))
    assert 0.05 < straight.mean() < 0.95
    for moved, expected in (
        (np.diag([-1.0, 1, 1]), straight[:, :, ::-1]),
        (np.diag([1.0, -1, 1]), straight[:, ::-1]),
        (np.diag([-1.0, -1, 1]), straight[:, ::-1, ::-1]),
        # x' = -y, y' = x: rows become columns.
        ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], straight.transpose(0, 2, 1)[:, :, ::-1]),
        ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], straight.transpose(0, 2, 1)[:, ::-1]),
    ):
        np.testing.assert_array_equal(drawn(moved), expected)


def test_corners_on_rows_of_centres_open_no_gap():
    # Every corner and two whole edges lie exactly on centres.
    diamond = Polygon([(2.5, 0.5), (4.5, 1.5), (2.5, 2.5), (0.5, 1.5)])
    (mask,) = draw([(0, diamond)])
    assert picture(mask)[2] in ("####.", ".####", ".###.", "#####")
    for neighbours in ([box(0.5, 0.5, 2.5, 3.5), box(2.5, 0.5, 4.5, 3.5)],):
        mask = draw([(0, area) for area in neighbours])[0]
        counts = sum(draw([(0, area)])[0].astype(int) for area in neighbours)
        assert counts.max() == 1  # a centre on the common border lies in one of the two
        np.testing.assert_array_equal(mask, counts == 1)
        assert mask.sum() == 3 * 4
