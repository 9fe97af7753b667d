"""Labels cell for cell as the real devkit draws them, asked as BEVFusion asks it."""

import pickle

import numpy as np
import pytest
from nuscenes.map_expansion.map_api import NuScenesMap, NuScenesMapExplorer
from shapely import affinity
from shapely.geometry import LineString, Polygon, box

from nsmae_plugin.data.loader import seeded
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.formats.maps.devkit_raster import flips_of
from nsmae_plugin.formats.maps.map_classes import LAYERS_OF_CLASS, POLYGON_LAYERS
from nsmae_plugin.formats.maps.map_labels import MapLabels
from nsmae_plugin.geometry.augmentation import flip, rotation, scaling, translation
from nsmae_plugin.geometry.boxes import lidar_to_global
from tests.helpers.map_files import (
    LOCATION,
    SECTION,
    place,
    pose,
    street,
    write_map,
    write_tables,
    write_world,
)
from tests.helpers.tiny_frames import VERSION, dataset

DEVKIT = {
    "CLASSES": ["drivable_area", "walkway", "stop_line", "divider", "ped_crossing"],
    "XBOUND": [-20.0, 20.0, 0.5],
    "YBOUND": [-20.0, 20.0, 0.5],
    "LINE_WIDTH": 1.5,
    "RASTERISER": "devkit",
}
BOW_TIE = Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])


@pytest.fixture(autouse=True)
def lines_in_parts(monkeypatch):
    """Shapely 2 does not iterate over MultiLineStrings, as the devkit does; draw their parts."""
    draw = NuScenesMapExplorer.mask_for_lines

    def in_parts(lines, mask):
        for line in getattr(lines, "geoms", [lines]):
            mask = draw(line, mask)
        return mask

    monkeypatch.setattr(NuScenesMapExplorer, "mask_for_lines", staticmethod(in_parts))


def town():
    """A street, and around it whatever makes a difference: shapes that leave the patch and come
    back, holes over other polygons, slivers, crooked lines, polygons that cross themselves."""
    rng = np.random.default_rng(4)
    layers = {**street(), "stop_line": [box(-9, -7, -8.8, 5), Polygon([(1, 2), (9, 2.3), (9, 2)])]}
    for layer in ("walkway", "drivable_area", "ped_crossing", "stop_line"):
        for x, y in rng.uniform(-30, 30, (12, 2)):
            turns, reach = np.sort(rng.uniform(0, 2 * np.pi, 7)), rng.uniform(1, 9, 7)
            points = np.stack([x + reach * np.cos(turns), y + reach * np.sin(turns)], axis=1)
            shape = Polygon(points)
            hole = affinity.scale(shape, 0.3, 0.3).exterior.coords if shape.is_valid else ()
            layers[layer].append(Polygon(points, [hole] if Polygon(hole).within(shape) else []))
    comb = [(-40, -16)]
    for x in range(-30, 30, 6):
        comb += [(x, -16), (x + 2, -24), (x + 4, -16)]
    layers["walkway"] += [Polygon([*comb, (40, -16), (40, -10), (-40, -10)]), BOW_TIE]
    layers["lane_divider"].append(LineString([(x, 19 + 3 * np.sin(x)) for x in range(-40, 40)]))
    layers["road_divider"] += [LineString(rng.uniform(-30, 30, (9, 2))) for _ in range(4)]
    layers["drivable_area"] = [one for one in layers["drivable_area"] if one.is_valid]
    return layers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    write_map(folder / VERSION, town())
    write_tables(folder / VERSION, [LOCATION])
    return folder / VERSION


@pytest.fixture(scope="module")
def devkit(root):
    return NuScenesMap(str(root), LOCATION)


def published(devkit, info, augmentation, scale=1.0, section=DEVKIT):
    """The labels of an unmirrored pose, (C, Y, X): patch and classes are those of BEVFusion.

    To the last bit: where the patch cuts a line, rounding errors decide between two cells.
    """
    lidar2global = lidar_to_global(info) @ np.linalg.inv(augmentation)
    x, y = lidar2global[:2, 3]
    ahead = lidar2global[:3, :3] @ [1, 0, 0]
    (x_min, x_max, step), (y_min, y_max, _) = section["XBOUND"], section["YBOUND"]
    height, width = y_max - y_min, x_max - x_min
    masks = []
    for name in section["CLASSES"]:
        drawn = devkit.get_map_mask(
            (x, y, height / scale, width / scale),
            np.arctan2(ahead[1], ahead[0]) / np.pi * 180,
            list(LAYERS_OF_CLASS[name]),
            (round(height / step), round(width / step)),
        )
        masks.append(drawn.any(axis=0))
    return np.stack(masks)


def sample(x=0.0, y=-2.3, yaw=0.0, roll=0.0):
    info = {"token": "token-0"}
    place(info, pose(x, y, yaw), roll)
    return info


def labels(root, info, **section):
    return MapLabels(DEVKIT | section, [info], root, VERSION)


@pytest.mark.parametrize("roll", [0.0, 0.05])
@pytest.mark.parametrize("yaw", [0.0, 0.3, 1.1, 2.5, -np.pi / 2, -1.9])
def test_labels_are_the_masks_of_the_devkit(root, devkit, yaw, roll):
    """On the level and at a slant, where the patch remains level below the LiDAR."""
    for x, y in ((0.0, -2.3), (7.25, 1.0), (-11.0, -8.5)):
        info = sample(x, y, yaw, roll)
        expected = published(devkit, info, np.eye(4))
        assert expected.any(axis=(1, 2)).all()
        np.testing.assert_array_equal(labels(root, info).masks(info, np.eye(4)), expected)


def test_turned_and_shifted_worlds_are_drawn_as_the_devkit_draws_their_patch(root, devkit):
    info = sample(2.0, -2.3, 0.4)
    drawer = labels(root, info)
    for angle, shift in ((0.7, (0, 0, 0)), (0, (1.3, -0.8, 0.4)), (-2.2, (0.2, 3.0, -1.0))):
        augmentation = translation(shift) @ rotation(angle)
        expected = published(devkit, info, augmentation)
        np.testing.assert_array_equal(drawer.masks(info, augmentation), expected)


@pytest.mark.parametrize(
    ("flips", "axes"), [((True, False), 1), ((False, True), 2), ((True, True), (1, 2))]
)
def test_a_flip_flips_the_mask(root, devkit, flips, axes):
    """Also below a turn and a shift, which then go the other way round."""
    info = sample(2.0, -2.3, 0.4)
    drawer, mirror = labels(root, info), flip(*flips)
    expected = np.flip(published(devkit, info, np.eye(4)), axes)
    np.testing.assert_array_equal(drawer.masks(info, mirror), expected)
    np.testing.assert_array_equal(drawer.masks(info, mirror, flips), expected)
    later = translation([0.5, 1.5, 0]) @ rotation(0.6)
    augmentation = later @ mirror
    expected = np.flip(published(devkit, info, mirror @ later @ mirror), axes)
    np.testing.assert_array_equal(drawer.masks(info, augmentation, flips), expected)
    if flips != (True, True):  # else the matrix is that of a turn
        np.testing.assert_array_equal(drawer.masks(info, augmentation), expected)


@pytest.mark.parametrize("scale", [0.9, 1.07])
def test_a_scaled_world_is_a_patch_of_another_size_on_the_same_canvas(root, devkit, scale):
    info = sample(2.0, -2.3, 0.4)
    augmentation = scaling(scale) @ rotation(0.2)
    expected = published(devkit, info, augmentation, scale)
    assert (expected != published(devkit, info, rotation(0.2))).any()
    np.testing.assert_array_equal(labels(root, info).masks(info, augmentation), expected)


def test_an_oblong_grid_beside_the_vehicle_shows_its_part_of_a_larger_one(root, devkit):
    """Rectangles along whole cells, so that no corner is cut off elsewhere; mirrored as well."""
    layers = {"walkway": [box(-30, 1, 4, 9.5), box(6, -8, 15.5, 30)]}
    info = {"token": "token-0"}
    place(info, pose(0.0, 0.0, np.pi / 2))  # the LiDAR's x axis along the global one
    info["ref_from_car"] = np.linalg.inv(rotation(-np.pi / 2))
    write_map(root / "oblong", layers)
    write_tables(root / "oblong", [LOCATION])
    part = {"CLASSES": ["walkway"], "XBOUND": [-4, 12, 0.5], "YBOUND": [-9, 11, 0.5]}
    for flips in ((False, False), (True, False), (False, True)):
        mirror = flip(*flips)
        whole, cut = (
            MapLabels(DEVKIT | section, [info], root / "oblong", VERSION).masks(info, mirror)[0]
            for section in ({"CLASSES": ["walkway"]}, part)
        )
        assert cut.shape == (40, 32)
        assert 100 < cut.sum() < cut.size - 100
        inner = (slice(1, -1), slice(1, -1))  # cut off at the border, shapes are rounded up to it
        np.testing.assert_array_equal(cut[inner], whole[22:62, 32:64][inner])


def test_lines_are_as_many_cells_wide_as_line_width_says(root, tmp_path):
    write_map(tmp_path, {"road_divider": [LineString([(-60, -2.3), (60, -2.3)])]})
    write_tables(tmp_path, [LOCATION])
    info = sample()
    for width, cells in ((0.5, 1), (1.5, 3), (2.5, 5), (3.5, 7)):
        section = {"CLASSES": ["divider"], "LINE_WIDTH": width}
        mask = MapLabels(DEVKIT | section, [info], tmp_path, VERSION).masks(info, np.eye(4))[0]
        assert mask.sum(axis=1).tolist() == [cells] * 80


def test_polygons_that_cross_themselves_are_left_out_but_in_the_drivable_area(tmp_path):
    write_map(tmp_path, {layer: [BOW_TIE] for layer in ("walkway", "drivable_area")})
    write_tables(tmp_path, [LOCATION])
    info = sample()
    drivable, walkway = labels(tmp_path, info).masks(info, np.eye(4))[:2]
    assert not walkway.any()
    assert drivable.sum() > 20


def test_all_polygon_layers_have_the_devkits_cells(tmp_path):
    # Lanes need more than an outline in the file, and the devkit draws no lane connectors.
    layers = [layer for layer in POLYGON_LAYERS if not layer.startswith("lane")]
    write_map(tmp_path, {layer: [box(-5, -5, 5, 1)] for layer in layers})
    write_tables(tmp_path, [LOCATION])
    info, section = sample(yaw=0.5), DEVKIT | {"CLASSES": layers}
    expected = published(NuScenesMap(str(tmp_path), LOCATION), info, np.eye(4), section=section)
    drawn = MapLabels(section, [info], tmp_path, VERSION).masks(info, np.eye(4))
    np.testing.assert_array_equal(drawn, expected)


def test_samples_carry_them_with_the_flips_that_were_drawn(tmp_path):
    """Of a dataset on either host; two flips and half a turn are told apart."""
    infos = write_world(tmp_path, frames=1)
    devkit = NuScenesMap(str(tmp_path / VERSION), LOCATION)
    section = SECTION | {"LINE_WIDTH": 1.5, "RASTERISER": "devkit"}
    data = dataset(
        tmp_path,
        training=True,
        MAP_CONFIG=section,
        augmentors=("flip", "rotation", "translation"),
    )
    data = pickle.loads(pickle.dumps(data))  # as for a worker that is not forked
    seen = set()
    for draw in range(12):
        with seeded(draw, 0, 0):
            one = data[0]
        augmentation = one["lidar_aug_matrix"]
        # Turns of less than a quarter: the diagonal's signs are the flips.
        flips = (augmentation[1, 1] < 0, augmentation[0, 0] < 0)
        masks = published(devkit, infos[0], flip(*flips) @ augmentation, section=section)
        axes = [axis for axis, flipped in zip((1, 2), flips, strict=True) if flipped]
        np.testing.assert_array_equal(one["gt_masks_bev"], np.flip(masks, axes))
        assert "world_flips" not in one
        seen.add(tuple(map(bool, flips)))
    assert len(seen) == 4


def test_flips_are_read_off_a_matrix():
    turn = rotation(1.2)
    for flips in ((False, False), (True, False), (False, True)):
        assert flips_of(turn @ flip(*flips)) == flips
    assert flips_of(scaling(1.1) @ flip(True, True)) == (
        True,
        True,
    )
    assert flips_of(rotation(3.0)) == (False, False)
    swap = np.eye(4)[[1, 0, 2, 3]]  # a mirror image on the diagonal, a quarter from both axes
    assert flips_of(swap) == (True, False)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"RASTERISER": "cv2"}, "RASTERISER must be devkit or exact, not 'cv2'"),
        ({"LINE_WIDTH": 1.0}, r"LINE_WIDTH 1 m is 2 cells of 0.5 m; .* 3 \(1.5 m\); .* exact"),
        ({"LINE_WIDTH": 0.7}, "is 1.4 cells"),
        ({"LINE_WIDTH": 0.0}, "must be a positive number, not 0.0"),
        ({"YBOUND": [-20, 20, 1.0]}, "square cells, not 0.5 x 1 m"),
    ],
)
def test_what_the_devkit_cannot_draw_is_refused(root, section, message):
    with pytest.raises(ConfigError, match=message):
        labels(root, sample(), **section)
