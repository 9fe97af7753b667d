"""Reading nuScenes' vector maps: which areas, once, and errors that say what to do."""

import json
import os
import sys
import time

import matplotlib
import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Polygon, box

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.maps import vector_map
from nsmae_plugin.formats.maps.vector_map import VectorMap, load_map
from tests.helpers.map_files import LINE_WIDTH, LOCATION, ORIGIN, street, write_map


def area_of(areas: VectorMap, channel: int) -> float:
    """Sum of the signed areas of a class's rings, by the shoelace formula: holes count less."""
    total, first = 0.0, 0
    for end in np.flatnonzero(areas.rings.last) + 1:
        x, y = (areas.rings.points[first:end] - ORIGIN).T
        if areas.rings.channel[first] == channel:
            total += float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
        first = end
    return total


def test_layers_become_channels_in_the_order_of_the_classes(tmp_path):
    write_map(tmp_path, street())
    areas = load_map(tmp_path, LOCATION, ["ped_crossing", "drivable_area"], LINE_WIDTH)
    assert len(areas.sizes) == 3
    assert area_of(areas, 0) == pytest.approx(3 * 12)
    # 120 x 12 m with an island of 4 x 2 m, and 6 x 55 m of another polygon of the same record
    assert area_of(areas, 1) == pytest.approx(1440 - 8 + 330)
    np.testing.assert_allclose(areas.bounds[0] - [*ORIGIN, *ORIGIN], [3, -7, 7, 5])


def test_lines_become_bands_of_the_width_that_is_asked_for(tmp_path):
    write_map(tmp_path, street())
    lanes = load_map(tmp_path, LOCATION, ["lane_divider"], 0.4)
    lengths = [120.0, np.hypot(0.5, 44)]
    assert area_of(lanes, 0) == pytest.approx(0.4 * sum(lengths))  # flat ends add nothing
    both = load_map(tmp_path, LOCATION, ["divider"], 0.4)
    assert len(both.sizes) == 3
    # At its one bend, of 3 degrees, the band is rounded: nothing that 0.001 m² would show.
    road = 52.0 + np.hypot(10, 0.5)
    assert area_of(both, 0) == pytest.approx(0.4 * (sum(lengths) + road), abs=1e-3)


def test_outlines_that_cross_themselves_are_repaired_and_empty_ones_left_out(tmp_path):
    bow_tie = Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    path = write_map(tmp_path, {"walkway": [bow_tie, box(10, 0, 11, 1)]})
    content = json.loads(path.read_text())
    content["polygon"][1]["exterior_node_tokens"] = []
    path.write_text(json.dumps(content))
    areas = load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)
    assert len(areas.sizes) == 2  # both wings, each 4 m²
    assert area_of(areas, 0) == pytest.approx(8)


def test_closed_lines_have_a_hole(tmp_path):
    loop = LineString([(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)])
    write_map(tmp_path, {"road_divider": [loop]})
    areas = load_map(tmp_path, LOCATION, ["divider"], 1.0)
    assert areas.rings.last.sum() == 2
    assert area_of(areas, 0) == pytest.approx(40, abs=0.5)  # less the corners


def test_only_areas_near_a_box_are_looked_at():
    areas = VectorMap.from_polygons([(0, box(0, 0, 1, 1)), (3, box(5, 5, 7, 7))])
    near = areas.near(np.array([2.0, 2.0]), np.array([5.5, 9.0]))
    assert near.channel.tolist() == [3] * 5
    assert near.last.tolist() == [False] * 4 + [True]
    assert shapely.Polygon(near.points).equals(box(5, 5, 7, 7))
    assert not len(areas.near(np.array([2.0, 2.0]), np.array([4.0, 4.0])).points)


def test_a_map_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = write_map(tmp_path, street())
    opened, read = [], vector_map._open
    monkeypatch.setattr(vector_map, "_open", lambda path: opened.append(path) or read(path))
    first = load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)
    assert load_map(tmp_path, LOCATION, ("walkway",), LINE_WIDTH) is first
    assert len(opened) == 1
    time.sleep(0.01)  # another modification time
    write_map(tmp_path, {"walkway": [box(0, 0, 2, 2)]})
    assert area_of(load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH), 0) == pytest.approx(4)
    assert opened == [path.resolve()] * 2


def test_the_devkit_leaves_no_plotting_style_behind(tmp_path, monkeypatch):
    write_map(tmp_path, street())
    monkeypatch.delitem(sys.modules, "nuscenes.map_expansion.map_api", raising=False)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # an import of before may have left its style
        before = dict(matplotlib.rcParams)
        load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)
        assert "nuscenes.map_expansion.map_api" in sys.modules
        assert dict(matplotlib.rcParams) == before


def test_a_missing_map_says_where_to_get_it_and_where_to_put_it(tmp_path):
    message = (
        rf"cannot read the map of {LOCATION}, {tmp_path}/maps/expansion/{LOCATION}.json: No such "
        r"file.*get the nuScenes map expansion pack, version 1.3, from https://www.nuscenes.org/"
        r"nuscenes#download and unpack it into DATA_PATH/VERSION/maps"
    )
    with pytest.raises(DataError, match=message):
        load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)


def test_a_real_keyframe_without_its_map_gets_that_message(real_root):
    with pytest.raises(DataError, match="get the nuScenes map expansion pack"):
        load_map(real_root / "v1.0-mini", "singapore-onenorth", ["walkway"], LINE_WIDTH)


def damaged(name):
    if name == "no JSON":
        return "{"
    content = json.loads(json.dumps(write_content()))
    if name == "an old version":
        content["version"] = "1.2"
    elif name == "a missing layer":
        del content["walkway"]
    elif name == "a missing node":
        content["node"] = content["node"][:-1]
    elif name.startswith("a node at "):
        content["node"][1]["x"] = json.loads(name.removeprefix("a node at "))
    elif name == "an outline of two points":
        tokens = content["polygon"][0]["exterior_node_tokens"]
        content["polygon"][0]["exterior_node_tokens"] = tokens[:2]
    return json.dumps(content)


def write_content():
    from tests.helpers.map_files import expansion

    return expansion({"walkway": [box(0, 0, 2, 2)]}, ORIGIN)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no JSON", "Expecting"),
        ("an old version", "outdated map version"),
        ("a missing layer", "'walkway'"),
        ("a missing node", "node-3"),
        ("an outline of two points", "at least 4 coordinates"),
        ("a node at NaN", "node node-1 lies at x nan, y 12"),
        ("a node at -Infinity", "node node-1 lies at x -inf"),
        ("a node at 1e300", r"node node-1 lies at x 1e\+300"),
        ('a node at "7"', "node node-1 lies at x '7'"),
        ("a node at true", "node node-1 lies at x True"),
        ("a node at null", "node node-1 lies at x None"),
    ],
)
def test_damaged_maps_are_named(tmp_path, name, reason):
    path = write_map(tmp_path, {})
    path.write_text(damaged(name))
    with pytest.raises(DataError, match=rf"the map .*{LOCATION}.json cannot be used: .*{reason}"):
        load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)


def test_a_byte_that_is_no_text_is_one_short_line(tmp_path):
    """Python's exception holds all of the file, half a megabyte for a real map."""
    path = write_map(tmp_path, street())
    path.write_bytes(path.read_bytes().replace(b"token", b"tok\xffn", 1) + b" " * 500_000)
    with pytest.raises(DataError, match=r"cannot be used: 'utf-8' codec can't decode") as caught:
        load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("location", ["../../x", "a/b", ""])
def test_a_location_that_leads_elsewhere_is_refused(tmp_path, location):
    with pytest.raises(DataError, match=r"location of a map, .* another folder"):
        load_map(tmp_path, location, ["walkway"], LINE_WIDTH)


def test_a_map_that_is_a_pipe_is_named_and_not_waited_for(tmp_path):
    path = write_map(tmp_path, street())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"boston-seaport.json is a named pipe, no file"):
        load_map(tmp_path, LOCATION, ["walkway"], LINE_WIDTH)


def test_a_location_that_the_devkit_does_not_know_is_named(tmp_path):
    write_map(tmp_path, street(), location="my-town")
    with pytest.raises(DataError, match=r"my-town.json cannot be used: .*Unknown map name my-town"):
        load_map(tmp_path, "my-town", ["walkway"], LINE_WIDTH)
