"""Ground-truth sampling of the built-in host, alone and against OpenPCDet's."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from easydict import EasyDict

from nsmae_plugin.data.loader import seeded
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.gt_database import read_gt_database
from nsmae_plugin.formats.infos import read_infos, write_infos
from nsmae_plugin.formats.lidar_files import read_frame
from nsmae_plugin.host import hooks
from nsmae_plugin.host.builtin.augmentor import DataAugmentor
from nsmae_plugin.host.builtin.database_sampler import DatabaseSampler
from tests.helpers.tiny_frames import VERSION, add_gt_database

LIST = "dbinfos.pkl"
MARK = 1e5  # intensity of the first object; those of the sample are smaller
CLASSES = ["car", "pedestrian"]
CONFIG = {
    "NAME": "gt_sampling",
    "DB_INFO_PATH": [LIST],
    "PREPARE": {"filter_by_min_points": ["car:3"]},
    "SAMPLE_GROUPS": ["car:2", "pedestrian:1", "bus:4"],
    "NUM_POINT_FEATURES": 5,
    "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
    "LIMIT_WHOLE_SCENE": False,
}


def box(x, y, size=2.0):
    return np.array([x, y, 0.0, size, size, size, 0.0, 1.5, 2.5])


def write_database(root, *objects):
    """Objects (class, x, y, points): ``points`` of them stand in a row from the centre upwards."""
    content = {}
    for number, (name, x, y, points) in enumerate(objects):
        cloud = np.zeros((points, 5), np.float32)
        cloud[:, 2] = np.arange(points) / points
        cloud[:, 3], cloud[:, 4] = MARK + number, 0.05 * np.arange(points)
        cloud.tofile(root / f"{number}.bin")
        entry = {"name": name, "path": f"{number}.bin", "image_idx": number, "gt_idx": 0}
        entry |= {"box3d_lidar": box(x, y), "num_points_in_gt": points}
        content.setdefault(name, []).append(entry)
    write_infos(root / LIST, content)


def sampler(root, **changes):
    return DatabaseSampler(root, EasyDict(copy.deepcopy(CONFIG) | changes), CLASSES)


def sample(boxes=((0.0, 0.0),), names=("car",)):
    """Boxes of 2 m at x, y, and points all over the plane z = 0, 0.5 m apart."""
    x, y = np.meshgrid(np.arange(-20, 20, 0.5), np.arange(-20, 20, 0.5))
    points = np.zeros((x.size, 5), np.float32)
    points[:, 0], points[:, 1], points[:, 3] = x.ravel(), y.ravel(), np.arange(x.size)
    return {
        "points": points,
        "gt_boxes": np.array([box(*one) for one in boxes]).reshape(-1, 9),
        "gt_names": np.array(names, dtype="<U10"),
        "gt_boxes_mask": np.isin(names, CLASSES),
    }


def pasted(result, given):
    return result["gt_boxes"][given["gt_boxes_mask"].sum() :]


def test_objects_come_with_their_points_and_replace_those_in_their_place(tmp_path):
    write_database(tmp_path, ("car", 10.25, 5.25, 4))
    given = sample()
    result = sampler(tmp_path)(given)
    np.testing.assert_allclose(result["gt_boxes"], [box(0, 0), box(10.25, 5.25)])
    assert result["gt_names"].tolist() == ["car", "car"]
    added = result["points"][result["points"][:, 3] == MARK]
    np.testing.assert_allclose(added[:, :3], [[10.25, 5.25, z] for z in (0, 0.25, 0.5, 0.75)])
    np.testing.assert_allclose(added[:, 4], [0, 0.05, 0.1, 0.15], atol=1e-6)
    # The box covers 9.25 to 11.25 and 4.25 to 6.25: four grid points each way.
    assert len(result["points"]) == len(given["points"]) - 16 + 4
    assert not (np.abs(result["points"][4:, :2] - [10.25, 5.25]).max(axis=1) < 1).any()


def test_the_cleared_space_can_be_larger_than_the_box(tmp_path):
    write_database(tmp_path, ("car", 10.25, 5.25, 4))
    given = sample()
    result = sampler(tmp_path, REMOVE_EXTRA_WIDTH=[1.0, 0.0, 0.0])(given)
    # 8.75 to 11.75 along x now: six grid points.
    assert len(result["points"]) == len(given["points"]) - 6 * 4 + 4
    np.testing.assert_allclose(pasted(result, given)[0], box(10.25, 5.25))


def test_objects_never_overlap_boxes_of_the_sample_or_one_another(tmp_path):
    objects = [("car", 1.5, 0, 5), ("car", 8, 0, 5), ("car", 9.5, 0, 5), ("car", -8, 0, 5)]
    write_database(tmp_path, *objects, ("pedestrian", -7, 0, 5))
    given = sample()
    seen = set()
    for seed in range(20):
        with seeded(seed):
            result = sampler(tmp_path, SAMPLE_GROUPS=["car:2", "pedestrian:1"])(given)
        centres = result["gt_boxes"][:, 0]
        gaps = np.abs(centres[:, None] - centres)[~np.eye(len(centres), dtype=bool)]
        assert (gaps >= 2).all()
        seen |= set(centres)
    assert seen == {0.0, 8.0, 9.5, -8.0, -7.0}  # never 1.5


def test_boxes_of_other_classes_keep_objects_away_but_leave_the_sample(tmp_path):
    write_database(tmp_path, ("car", 10, 0, 5), ("car", 5, 0, 5))
    given = sample(boxes=[(0, 0), (10, 1)], names=["car", "ignore"])
    result = sampler(tmp_path)(given)
    assert result["gt_boxes"][:, 0].tolist() == [0, 5]
    assert result["gt_names"].tolist() == ["car", "car"]


@pytest.mark.parametrize(("limited", "expected"), [(False, 2), (True, 1)])
def test_boxes_of_the_sample_count_towards_the_limit_of_the_whole_scene(
    tmp_path, limited, expected
):
    write_database(tmp_path, *[("car", 4 * n, 8, 5) for n in range(-3, 4)])
    given = sample()
    assert len(pasted(sampler(tmp_path, LIMIT_WHOLE_SCENE=limited)(given), given)) == expected


def test_objects_with_few_points_or_hard_ones_are_left_out(tmp_path):
    write_database(tmp_path, ("car", 5, 5, 2), ("car", 9, 9, 3), ("pedestrian", -5, -5, 1))
    assert [len(entries) for entries in sampler(tmp_path).db_infos.values()] == [1, 1]
    with pytest.raises(ConfigError, match="has no difficulty; remove filter_by_difficulty"):
        sampler(tmp_path, PREPARE={"filter_by_difficulty": [-1]})
    content = read_gt_database(tmp_path / LIST)
    for name, difficulties in (("car", (-1, 2)), ("pedestrian", (0,))):
        for entry, difficulty in zip(content[name], difficulties, strict=True):
            entry["difficulty"] = difficulty
    write_infos(tmp_path / LIST, content)
    hard = sampler(tmp_path, PREPARE={"filter_by_difficulty": [-1, 0]})
    assert [[entry["difficulty"] for entry in one] for one in hard.db_infos.values()] == [[2], []]


def test_points_can_be_limited_to_a_range_of_time(tmp_path):
    write_database(tmp_path, ("car", 10, 5, 4))
    options = {"FILTER_OBJ_POINTS_BY_TIMESTAMP": True, "TIME_RANGE": [0.1, 0.0]}
    result = sampler(tmp_path, **options)(sample())
    added = result["points"][result["points"][:, 3] == MARK]
    np.testing.assert_allclose(added[:, 4], [0, 0.05, 0.1], atol=1e-6)


def test_a_sample_without_boxes_gets_objects_and_one_without_room_stays_as_it_was(tmp_path):
    write_database(tmp_path, ("car", 0, 0, 5))
    given = sample(boxes=[], names=[])
    assert len(sampler(tmp_path)(given)["gt_boxes"]) == 1
    full = sample()
    before = copy.deepcopy(full)
    assert sampler(tmp_path)(full) is full
    np.testing.assert_equal(full, before)


def test_neither_the_sample_nor_the_database_is_changed(tmp_path):
    write_database(tmp_path, ("car", 10, 5, 4), ("pedestrian", -5, 2, 3))
    one, given = sampler(tmp_path), sample()
    entries, before = copy.deepcopy(one.db_infos), copy.deepcopy(given)
    with seeded(0):
        first = one(given)
    with seeded(0):
        np.testing.assert_equal(one(given), first)  # nothing is remembered either
    np.testing.assert_equal(given, before)
    np.testing.assert_equal(one.db_infos, entries)


def test_pasted_objects_are_augmented_like_the_rest(tmp_path):
    write_database(tmp_path, ("car", 10, 5, 4))
    double = {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [2.0, 2.002]}
    augmentor = DataAugmentor(tmp_path, EasyDict(AUG_CONFIG_LIST=[CONFIG, double]), CLASSES)
    with seeded(0):
        result = augmentor.forward(sample())
    assert "gt_boxes_mask" not in result
    np.testing.assert_allclose(result["gt_boxes"][1, :3], [20, 10, 0], rtol=2e-3)
    np.testing.assert_allclose(
        result["points"][result["points"][:, 3] == MARK][0, :2], [20, 10], rtol=2e-3
    )
    copied = pickle.loads(pickle.dumps(augmentor))
    with seeded(0):
        np.testing.assert_equal(copied.forward(sample()), result)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"USE_ROAD_PLANE": True}, "has no USE_ROAD_PLANE"),
        ({"DATABASE_WITH_FAKELIDAR": True}, "has no DATABASE_WITH_FAKELIDAR"),
        ({"USE_SHARED_MEMORY": True, "IMG_AUG_TYPE": "kitti"}, "IMG_AUG_TYPE, USE_SHARED_MEMORY"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, changes, message):
    write_database(tmp_path, ("car", 10, 5, 4))
    with pytest.raises(ConfigError, match=message):
        sampler(tmp_path, **changes)


def test_a_damaged_database_is_named(tmp_path):
    write_database(tmp_path, ("car", 10, 5, 4))
    with pytest.raises(DataError, match=r"0.bin holds 20 numbers, not those of 4 points .*4;"):
        sampler(tmp_path, NUM_POINT_FEATURES=4)(sample())
    with pytest.raises(ConfigError, match=r"NUM_POINT_FEATURES is 5, but .* have 4 features"):
        sampler(tmp_path)(sample() | {"points": np.zeros((9, 4), np.float32)})
    (tmp_path / "0.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read .*0.bin .*No such file"):
        sampler(tmp_path)(sample())
    with pytest.raises(DataError, match=r"nothing.pkl: No such file.*--with_gt_database"):
        sampler(tmp_path, DB_INFO_PATH=["nothing.pkl"])


@pytest.mark.openpcdet
@pytest.mark.parametrize("limited", [False, True])
def test_the_same_seed_gives_what_openpcdet_gives(
    openpcdet_root, synthetic_root, tmp_path, limited
):
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from pcdet.datasets.augmentor.data_augmentor import DataAugmentor as Theirs

    root = add_gt_database(synthetic_root, tmp_path) / VERSION
    names = ["car", "truck", "pedestrian", "traffic_cone", "barrier"]
    config = EasyDict(
        CONFIG,
        DB_INFO_PATH=["nuscenes_dbinfos_3sweeps_withvelo.pkl"],
        PREPARE={"filter_by_min_points": [f"{name}:5" for name in names]},
        SAMPLE_GROUPS=[f"{name}:8" for name in names],
        LIMIT_WHOLE_SCENE=limited,
        REMOVE_EXTRA_WIDTH=[0.1, 0.2, 0.3],
    )
    section = EasyDict(AUG_CONFIG_LIST=[config], DISABLE_AUG_LIST=[])
    count = 0
    for frame, info in enumerate(read_infos(root / "nuscenes_infos_3sweeps_train.pkl")):
        results = []
        for cls in (DataAugmentor, Theirs):
            given = {
                "points": read_frame(root, info, range(2)),
                "gt_boxes": info["gt_boxes"].copy(),
                "gt_names": info["gt_names"].copy(),
                "gt_boxes_mask": np.isin(info["gt_names"], names),
            }
            augmentor = cls(root, section, names)
            with seeded(frame):
                results.append(augmentor.forward(given))
        ours, theirs = results
        kept = np.isin(theirs["gt_names"], names)  # theirs are unmasked when nothing is pasted
        assert ours["gt_names"].tolist() == theirs["gt_names"][kept].tolist()
        turned = np.angle(np.exp(1j * theirs["gt_boxes"][kept, 6]))  # into [-pi, pi]
        theirs["gt_boxes"][kept, 6] = turned
        np.testing.assert_allclose(ours["gt_boxes"], theirs["gt_boxes"][kept], atol=1e-6)
        np.testing.assert_array_equal(ours["points"], theirs["points"])
        count += len(ours["gt_names"]) - np.isin(info["gt_names"], names).sum()
    assert count > 10


def test_a_hook_takes_it_out_of_the_augmentor(tmp_path):
    write_database(tmp_path, ("car", 10.25, 5.25, 4))
    augmentor = DataAugmentor(tmp_path, [EasyDict(CONFIG)], CLASSES)
    dataset = SimpleNamespace(data_augmentor=augmentor)
    assert hooks.disable_augmentations(dataset, ["gt_sampling"])
    assert augmentor.data_augmentor_queue == []
