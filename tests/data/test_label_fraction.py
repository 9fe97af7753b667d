"""Parts of the labels: which frames remain, and that the epoch keeps its length."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nsmae_plugin import host
from nsmae_plugin.config.load import plain
from nsmae_plugin.data.data_config import MultiModalData
from nsmae_plugin.data.loader import build_dataloader
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.data.training_frames import balanced_resampling, every_kth, whole_scenes
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.infos import write_infos
from tests.helpers.tiny_frames import CLASSES, VERSION, configuration, dataset, write_frames

TIMES = [float(number) for number in range(20)]
SCENES = [f"scene-{number // 4}" for number in range(20)]  # five scenes of four


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six frames of three scenes."""
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder, frames=6, cameras=1)
    tables = folder / VERSION / VERSION
    tables.mkdir()
    samples = [{"token": f"token-{n}", "scene_token": f"s{n // 2}"} for n in range(6)]
    (tables / "sample.json").write_text(json.dumps(samples))
    scenes = [{"token": f"s{n}", "name": f"scene-{n}"} for n in range(3)]
    (tables / "scene.json").write_text(json.dumps(scenes))
    return folder


def labelled(root, **options):
    return dataset(root, USE_LABELS=True, **options)


@pytest.mark.parametrize(
    ("fraction", "seed", "expected"),
    [
        (0.25, 0, [0, 4, 8, 12, 16]),
        (0.25, 1, [1, 5, 9, 13, 17]),
        (0.25, 6, [2, 6, 10, 14, 18]),  # 6 = 4 + 2
        (0.05, 3, [3]),
        (1.0, 7, list(range(20))),
    ],
)
def test_every_kth_frame_remains_the_seed_says_from_which_on(fraction, seed, expected):
    assert every_kth(TIMES, fraction, seed) == expected


def test_frames_are_counted_in_the_order_of_time():
    mixed = np.random.default_rng(0).permutation(20)
    assert mixed[every_kth(mixed, 0.2, 0)].tolist() == [0, 5, 10, 15]


def test_whole_scenes_remain_and_larger_fractions_include_smaller_ones():
    seen = set()
    for seed in range(8):
        before = set()
        for fraction, scenes in ((0.2, 1), (0.4, 2), (0.6, 3), (1.0, 5)):
            chosen = whole_scenes(SCENES, fraction, seed)
            assert chosen == sorted(chosen)
            assert {number // 4 * 4 + step for number in chosen for step in range(4)} == set(chosen)
            assert len(chosen) == 4 * scenes
            assert before <= set(chosen)
            before = set(chosen)
            seen.add((fraction, *chosen))
    assert len([one for one in seen if one[0] == 0.2]) > 1  # another seed, other scenes


def test_the_choice_of_scenes_does_not_depend_on_the_order_of_frames():
    forward = whole_scenes(SCENES, 0.4, 3)
    assert sorted(19 - one for one in whole_scenes(SCENES[::-1], 0.4, 3)) == forward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"LABEL_FRACTION": 0.01}, r"LABEL_FRACTION 0.01 of 6 frames selects none; .*least 0.167"),
        (
            {"LABEL_FRACTION": 0.1, "LABEL_FRACTION_BY": "scenes"},
            r"LABEL_FRACTION 0.1 of 3 scenes selects none; raise it to at least 0.333",
        ),
        ({"LABEL_FRACTION": 0.7}, r"0.7 is not 1 / k: every 1-th frame would be 1; choose 0.5"),
        ({"LABEL_FRACTION": 0.0}, "LABEL_FRACTION must be a number above 0, at most 1, not 0.0"),
        ({"LABEL_FRACTION": 10}, "LABEL_FRACTION must be a number above 0, at most 1, not 10"),
        ({"LABEL_FRACTION": 0.5, "LABEL_FRACTION_BY": "scene"}, "frames or scenes, not 'scene'"),
        (
            {"LABEL_FRACTION": 0.5, "LABEL_FRACTION_SEED": -1},
            "an integer of at least 0, not -1",
        ),
        (
            {"LABEL_FRACTION": 0.5, "USE_LABELS": False},
            "LABEL_FRACTION 0.5 needs USE_LABELS True or MAP_CONFIG",
        ),
    ],
)
def test_fractions_that_select_nothing_or_mean_nothing_are_refused(root, options, message):
    with pytest.raises(ConfigError, match=message):
        dataset(root, **{"USE_LABELS": True, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"LABEL_FRACTION": 1}, {"LABEL_FRACTION": 0.5, "USE_LABELS": True}],
)
def test_a_part_of_the_labels_needs_labels(options):
    config = plain({**configuration(Path("data")), "USE_LABELS": False, **options})
    assert options.get("LABEL_FRACTION", 1) == MultiModalData.of(config).LABEL_FRACTION


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"LABEL_FRACTION_SEED": 1}, [1, 4]),
        ({"LABEL_FRACTION_BY": "scenes"}, [4, 5]),  # the third scene, as drawn by seed 0
    ],
)
def test_the_dataset_trains_on_its_part_in_epochs_of_the_full_length(root, options, expected):
    data = labelled(root, LABEL_FRACTION=1 / 3, **options)
    assert [data[n]["metadata"]["token"] for n in range(2)] == [f"token-{n}" for n in expected]
    assert (len(data.infos), len(data)) == (2, 6)
    assert data[5]["metadata"]["token"] == f"token-{expected[5 % 2]}"  # in OpenPCDet's loader
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    config = configuration(root, USE_LABELS=True, LABEL_FRACTION=1 / 3, **options)
    _, loader, sampler = build_dataloader(config, CLASSES, batch_size=1)
    draws = list(sampler)
    assert len(loader) == len(draws) == 6
    assert [draw.repeat for draw in draws] == [0, 0, 1, 1, 2, 2]  # no sample twice before another
    _, loader, _ = build_dataloader(config, CLASSES, batch_size=1, epoch_length=4)
    assert len(loader) == 4


HELD_OUT = {"token-4", "token-5"}  # the third scene, as drawn by seed 0


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, [0, 1, 2, 3]),
        ({"USE_LABELS": False}, [0, 1, 2, 3]),  # as in pre-training
        ({"LABEL_FRACTION": 0.5}, [0, 2]),  # of the frames that are left
        ({"LABEL_FRACTION": 0.5, "LABEL_FRACTION_SEED": 1}, [1, 3]),
        ({"LABEL_FRACTION": 0.5, "LABEL_FRACTION_BY": "scenes", "LABEL_FRACTION_SEED": 3}, [2, 3]),
        ({"BALANCED_RESAMPLING": True}, [0, 1, 2, 3]),
    ],
)
def test_the_validation_part_is_the_same_whatever_is_trained_on(root, options, trained):
    options = {"USE_LABELS": True, "VALIDATION_FRACTION": 1 / 3, **options}
    data = dataset(root, **options)
    assert {info["token"] for info in data.infos} <= {f"token-{n}" for n in trained}
    if "BALANCED_RESAMPLING" not in options:
        assert [info["token"] for info in data.infos] == [f"token-{n}" for n in trained]
        assert len(data) == 4  # the epoch of all labels outside the validation part
    part = dataset(root, training=False, EVALUATE_VALIDATION=True, **options)
    assert {info["token"] for info in part.infos} == HELD_OUT
    assert len(part) == 2
    assert [part[n]["metadata"]["token"] for n in range(2)] == ["token-4", "token-5"]
    assert len(dataset(root, training=False, **options)) == 6  # the test split loses nothing


def test_another_seed_holds_out_other_scenes(root):
    parts = set()
    for seed in range(6):
        options = {"VALIDATION_FRACTION": 1 / 3, "VALIDATION_SEED": seed}
        data = dataset(root, training=False, EVALUATE_VALIDATION=True, **options)
        parts.add(frozenset(info["token"] for info in data.infos))
    assert parts == {frozenset({f"token-{2 * n}", f"token-{2 * n + 1}"}) for n in range(3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"VALIDATION_FRACTION": 0.1}, r"VALIDATION_FRACTION 0.1 of 3 scenes selects none; raise"),
        ({"VALIDATION_FRACTION": 0.9}, "VALIDATION_FRACTION 0.9 leaves no scene for training"),
        ({"VALIDATION_FRACTION": 1}, "VALIDATION_FRACTION must be a number from 0 to below 1"),
        ({"EVALUATE_VALIDATION": True}, "no validation part: VALIDATION_FRACTION is 0"),
    ],
)
def test_validation_parts_that_are_no_part_are_refused(root, options, message):
    with pytest.raises(ConfigError, match=message):
        dataset(root, **options)


def test_evaluation_sees_every_frame(root):
    config = configuration(root, USE_LABELS=True, LABEL_FRACTION=1 / 3)
    _, loader, _ = build_dataloader(config, CLASSES, batch_size=1, training=False)
    assert len(loader) == 6


def test_the_part_is_taken_before_the_classes_are_balanced(tmp_path):
    infos = write_frames(tmp_path, frames=5, cameras=1)
    for info in infos[1:]:
        info["gt_names"] = np.array(["car", "car"])  # the only pedestrian is in frame 0
    write_infos(tmp_path / VERSION / "infos.pkl", infos)
    data = labelled(tmp_path, LABEL_FRACTION=0.5, BALANCED_RESAMPLING=True)
    # Frames 0, 2 and 4: three show a car, one a pedestrian: 4 // 2 = 2 draws for each class.
    assert len(data.infos) == 4
    assert {info["token"] for info in data.infos} <= {"token-0", "token-2", "token-4"}
    # All frames: (5 + 1) // 2 = 3 draws for each class.
    assert len(data) == len(labelled(tmp_path, BALANCED_RESAMPLING=True)) == 6


def test_a_part_without_a_box_of_the_classes_is_named(tmp_path):
    infos = write_frames(tmp_path, frames=4, cameras=1)
    for info in infos[::2]:
        info["gt_names"] = np.array(["ignore", "ignore"])
    write_infos(tmp_path / VERSION / "infos.pkl", infos)
    with pytest.raises(DataError, match="no box of car, pedestrian in 2 of 4 samples"):
        labelled(tmp_path, LABEL_FRACTION=0.5)
    assert len(labelled(tmp_path, LABEL_FRACTION=0.5, LABEL_FRACTION_SEED=1).infos) == 2


def test_scenes_need_the_tables(tmp_path):
    write_frames(tmp_path, frames=2, cameras=1)
    options = {"LABEL_FRACTION": 0.5, "LABEL_FRACTION_BY": "scenes"}
    message = (
        r"BY scenes needs the scene of every frame \(frames does not\): .*scene.json: No such file"
    )
    with pytest.raises(DataError, match=message):
        labelled(tmp_path, **options)
    tables = tmp_path / VERSION / VERSION
    tables.mkdir()
    (tables / "scene.json").write_text('[{"token": "s", "name": "scene-0"}]')
    (tables / "sample.json").write_text('[{"token": "token-0", "scene_token": "s"}]')
    with pytest.raises(DataError, match=r"no scene has the sample token-1 \(1 such"):
        labelled(tmp_path, **options)


@pytest.mark.openpcdet
def test_balanced_resampling_follows_openpcdets_rule(openpcdet_root):
    """As many draws for every class; OpenPCDet's division may round one of them down."""
    from nsmae_plugin.host import openpcdet

    assert openpcdet.NAME == "openpcdet"
    from pcdet.datasets.nuscenes.nuscenes_dataset import NuScenesDataset

    rng = np.random.default_rng(0)
    names = ["car", "bus", "bicycle"]
    infos = [
        {"token": number, "gt_names": rng.choice(names, rng.integers(1, 6), p=[0.8, 0.15, 0.05])}
        for number in range(300)
    ]
    infos[7]["gt_names"] = np.array(["animal"])
    template = SimpleNamespace(class_names=names, logger=SimpleNamespace(info=lambda text: None))
    theirs = NuScenesDataset.balanced_infos_resampling(template, infos)
    ours = balanced_resampling(infos, names, rng)
    assert 0 <= len(ours) - len(theirs) <= len(names)

    def draws_by_class(sampled):
        """Frames that show nothing else than the class, counted by class."""
        shown = [set(info["gt_names"]) for info in sampled]
        return np.array([sum(name in one for one in shown) for name in names])

    # Shares of frames that show each class agree: 3 standard deviations of a share of 300 draws.
    np.testing.assert_allclose(
        draws_by_class(ours) / len(ours), draws_by_class(theirs) / len(theirs), atol=0.1
    )
