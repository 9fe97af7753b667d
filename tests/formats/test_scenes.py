"""Scenes of samples, from nuScenes' tables."""

import json
from pathlib import Path

import pytest

from nsmae_plugin.data.timeline import Timeline
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.nuscenes.scenes import locations_of_samples, scenes_of_samples

VERSION = "v1.0-mini"


def test_samples_of_a_scene_follow_each_other_as_the_tables_link_them(synthetic_root):
    root = Path(synthetic_root, VERSION)
    infos = read_infos(root / "nuscenes_infos_3sweeps_train.pkl")
    tables = {
        name: json.loads((root / VERSION / f"{name}.json").read_text())
        for name in ("scene", "sample")
    }
    samples = {sample["token"]: sample for sample in tables["sample"]}
    scenes = scenes_of_samples(root, VERSION)
    timeline = Timeline(infos[::-1], scenes)
    train = {scenes[info["token"]] for info in infos}
    assert len(train) == 2
    for scene in (one for one in tables["scene"] if one["name"] in train):
        found = [info["token"] for info in timeline.frames(scene["name"])]
        token, linked = scene["first_sample_token"], []
        while token:
            linked.append(token)
            token = samples[token]["next"]
        assert found == linked


def test_missing_or_damaged_tables_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the table .*scene\.json"):
        scenes_of_samples(tmp_path, VERSION)
    (tmp_path / VERSION).mkdir()
    (tmp_path / VERSION / "scene.json").write_text("[{")
    with pytest.raises(DataError, match="not valid JSON"):
        scenes_of_samples(tmp_path, VERSION)
    (tmp_path / VERSION / "scene.json").write_text('[{"token": "s", "name": "scene-1"}]')
    (tmp_path / VERSION / "sample.json").write_text("3")
    with pytest.raises(DataError, match="holds no list of records"):
        scenes_of_samples(tmp_path, VERSION)
    (tmp_path / VERSION / "sample.json").write_text('[{"token": "a", "scene_token": "other"}]')
    with pytest.raises(DataError, match=r"do not belong together: scene_token other of record 'a'"):
        scenes_of_samples(tmp_path, VERSION)


def test_every_sample_has_the_location_of_its_log(synthetic_root, tmp_path):
    root = Path(synthetic_root, VERSION)
    locations, scenes = locations_of_samples(root, VERSION), scenes_of_samples(root, VERSION)
    assert set(locations) == set(scenes)
    # The scenes of a synthetic dataset take turns at the locations: three scenes, three locations.
    assert len({(scenes[token], place) for token, place in locations.items()}) == 3
    assert len(set(locations.values())) == 3
    assert all((root / "maps/expansion" / f"{one}.json").is_file() for one in locations.values())
    with pytest.raises(
        DataError, match=r"cannot read the table .*log\.json.*where it was recorded"
    ):
        locations_of_samples(tmp_path, VERSION)
    (tmp_path / VERSION).mkdir()
    record = '[{"token": "a", "location": "here", "log_token": "b", "scene_token": "a"}]'
    for name in ("scene", "sample", "log"):
        (tmp_path / VERSION / f"{name}.json").write_text(record)
    with pytest.raises(DataError, match="do not belong together: log_token b"):
        locations_of_samples(tmp_path, VERSION)
    (tmp_path / VERSION / "log.json").write_text(record.replace("location", "place"))
    with pytest.raises(DataError, match=r"log\.json: record 'a' has no location"):
        locations_of_samples(tmp_path, VERSION)
