"""Info files whose frames are incomplete or of another form are refused before training starts."""

import copy

import numpy as np
import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.info_checks import Needs, check_infos
from nsmae_plugin.formats.infos import write_infos
from tests.helpers.tiny_frames import dataset, write_frames


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("frames"), frames=2, cameras=2)


def check(infos, tmp_path, **needed):
    needs = {"lidar": True, "cameras": True, "labels": True, "training": True, **needed}
    source = f"the info file {tmp_path / 'infos.pkl'}"
    check_infos(infos, source, Needs(max_sweeps=3, **needs), remedy="make it again")


def change(infos, way, value):
    """A copy in which one entry of the second frame is another; ``...`` removes it."""
    changed = copy.deepcopy(infos)
    *parents, last = way
    holder = changed[1]
    for key in parents:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return changed


def test_good_frames_pass(good, tmp_path):
    check(good, tmp_path)
    empty = change(good, ["gt_boxes"], np.zeros((0, 9)))
    empty[1] |= {"gt_names": np.array([]), "num_lidar_pts": np.array([])}
    check(empty, tmp_path)
    stood_in = change(good, ["sweeps", 0, "transform_matrix"], None)
    check(stood_in, tmp_path)
    bare = [{key: info[key] for key in info if not key.startswith(("gt", "num"))} for info in good]
    check(bare, tmp_path, training=False)


FRAME, SWEEP = r"frame 1 of the info file", r"sweep 1 of sample token-1 of the info file"
SAMPLE = r"sample token-1 of the info file"
NAN = np.full((4, 4), np.nan)


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (["token"], 3, f"{FRAME} .*: token is 3, and should be a text"),
        (["token"], "a\nb" * 500, f"{FRAME} .*: token is 'a b.*should be a text in one line"),
        (["lidar_path"], None, f"{FRAME} .*: lidar_path is missing"),
        (["timestamp"], "now", f"{FRAME} .*: timestamp is 'now', and should be a finite number"),
        (["timestamp"], np.nan, f"{FRAME} .*: timestamp is nan"),
        (["sweeps"], {}, f"{FRAME} .*: sweeps is {{}}, and should be a list"),
        (["sweeps", 1], "x", f"{SWEEP} .* is a str, not a dict"),
        (["sweeps", 1, "time_lag"], ..., f"{SWEEP} .*: time_lag is missing"),
        (["sweeps", 1, "time_lag"], np.inf, f"{SWEEP} .*: time_lag is inf"),
        (["sweeps", 1, "lidar_path"], ..., f"{SWEEP} .*: lidar_path is missing"),
        (["sweeps", 1, "transform_matrix"], ..., f"{SWEEP} .*: transform_matrix is missing"),
        (["sweeps", 1, "transform_matrix"], NAN, f"{SWEEP} .*float64 with NaN or infinity"),
        (["sweeps", 1, "transform_matrix"], np.eye(3), f"{SWEEP} .* is an array .3, 3. of float"),
        (["ref_from_car"], NAN, f"{FRAME} .*: ref_from_car is an array .4, 4. .* with NaN"),
        (["cams"], ["CAM"], f"{SAMPLE} .*: cams is .'CAM'., and should be a dict"),
        (["cams", "CAM_0"], None, "camera CAM_0 of sample token-1 is a NoneType"),
        (["cams", "CAM_0", "data_path"], 3, "camera CAM_0 of sample token-1 has no data_path"),
        (
            ["cams", "CAM_0", "sensor2ego_rotation"],
            [1.0, np.nan, 0, 0],
            "camera CAM_0 of sample token-1 has no sensor2ego_rotation of shape .4,. and finite",
        ),
        (["gt_boxes"], np.zeros((2, 8)), f"{SAMPLE} .*: gt_boxes is an array .2, 8."),
        (["gt_boxes"], [[0.0] * 7] * 2, f"{SAMPLE} .*: gt_boxes is .*should be an array"),
        (["gt_boxes"], np.full((2, 9), np.nan), f"{SAMPLE} .* has boxes with NaN"),
        (["gt_names"], np.array(["car"]), f"{SAMPLE} .*: gt_names .* an array of 2 texts"),
        (["gt_names"], np.zeros(2), f"{SAMPLE} .*: gt_names .* an array of 2 texts"),
        (["num_lidar_pts"], np.ones(3), f"{SAMPLE} .*: num_lidar_pts .* an array of 2 numbers"),
        (["num_lidar_pts"], ..., f"{SAMPLE} .* has boxes, but no num_lidar_pts"),
    ],
)
def test_the_frame_and_the_entry_are_named(good, tmp_path, way, value, message):
    with pytest.raises(DataError, match=message) as caught:
        check(change(good, way, value), tmp_path)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_boxes_without_names_are_refused_where_labels_are_only_shown(good, tmp_path):
    with pytest.raises(DataError, match=r"has boxes, but no gt_names"):
        check(change(good, ["gt_names"], ...), tmp_path, labels=False, training=False)


def test_the_data_set_refuses_them_when_it_is_made(tmp_path):
    write_frames(tmp_path, frames=2, cameras=2)
    infos = write_frames(tmp_path, frames=2, cameras=2)
    path = tmp_path / "v1.0-mini" / "infos.pkl"
    write_infos(path, change(infos, ["sweeps", 1, "time_lag"], ...))
    with pytest.raises(DataError, match=f"{path}: time_lag is missing"):
        dataset(tmp_path)
