"""Writing a synthetic dataset: options, determinism, and what happens to what was there before."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from nuscenes.nuscenes import NuScenes
from PIL import Image

from nsmae_plugin.errors import ConfigError, DataError, OutputError
from nsmae_plugin.synthetic import SyntheticOptions, write_dataset
from nsmae_plugin.synthetic.dataset import MARKER, plan
from nsmae_plugin.synthetic.options import LOCATIONS
from nsmae_plugin.synthetic.scene import SceneRecorder
from tools.make_synthetic_nuscenes import main

SMALLEST = SyntheticOptions(
    scenes=2, keyframes=2, sweeps=0, cameras=1, image_size=(32, 56), azimuths=90
)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("smallest"), SMALLEST)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_do_not_depend_on_the_number_of_processes(smallest, tmp_path):
    two = digests(write_dataset(tmp_path, SMALLEST, workers=2))
    assert digests(smallest) == two


def test_seeds_make_different_worlds(smallest, tmp_path):
    other = SyntheticOptions(**{**vars(SMALLEST), "seed": 1})
    first, second = digests(smallest), digests(write_dataset(tmp_path, other))
    pictures = {name for name in first if name.endswith(".jpg")}
    assert pictures
    assert not {first[name] for name in pictures} & set(second.values())


@pytest.mark.parametrize("number", [1, 8])
def test_any_number_of_cameras(tmp_path, number):
    options = SyntheticOptions(**{**vars(SMALLEST), "cameras": number})
    world = write_dataset(tmp_path, options)
    database = NuScenes("v1.0-mini", str(world), verbose=False)
    channels = [name for name in database.sample[0]["data"] if name.startswith("CAM")]
    assert len(channels) == number
    assert "CAM_FRONT" in channels
    assert (number <= 6) or "CAM_EXTRA_7" in channels
    for channel in channels:
        path = database.get_sample_data_path(database.sample[0]["data"][channel])
        assert Image.open(path).size == (56, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "v2.0"}, "unknown version"),
        ({"scenes": 1}, "scenes is 1"),
        ({"keyframes": 1}, "keyframes is 1"),
        ({"cameras": 0}, "cameras is 0"),
        ({"image_size": (8, 300)}, "image_size"),
        ({"image_size": (10**20, 300)}, "image_size is .* from 32 to 8192"),
        ({"azimuths": 10**20}, "azimuths is"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticOptions(**change)


def test_more_scenes_than_the_splits_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="fewer scenes"):
        write_dataset(tmp_path, SyntheticOptions(scenes=11))
    assert not list(tmp_path.iterdir())


def test_scenes_go_on_in_the_other_maps_when_the_smallest_is_full():
    places = plan(SyntheticOptions(version="v1.0-trainval", scenes=100, keyframes=5))
    assert [place.location for place in places[:5]] == [*LOCATIONS, next(iter(LOCATIONS))]
    # 1585.6 x 2025 m hold 4 x 5 squares of 382 m.
    assert sum(place.location == "singapore-onenorth" for place in places) == 20
    assert len({(place.location, place.block) for place in places}) == 100
    with pytest.raises(ConfigError, match="which have room for 176"):
        plan(SyntheticOptions(version="v1.0-trainval", scenes=200, keyframes=4))


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    precious = tmp_path / "v1.0-mini" / "samples" / "real.bin"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"real data")
    with pytest.raises(DataError, match="not written by this generator"):
        write_dataset(tmp_path, SMALLEST)
    assert precious.read_bytes() == b"real data"


def test_an_empty_folder_is_filled(smallest, tmp_path):
    (tmp_path / "v1.0-mini").mkdir()
    assert digests(write_dataset(tmp_path, SMALLEST)) == digests(smallest)


def test_an_older_world_is_replaced_with_all_that_was_derived_from_it(smallest, tmp_path):
    target = tmp_path / "v1.0-mini"
    shutil.copytree(smallest, target)
    (target / "nuscenes_infos_1sweeps_train.pkl").write_bytes(b"stale")
    write_dataset(tmp_path, SMALLEST)
    assert digests(target) == digests(smallest)


def test_an_interrupted_run_leaves_what_was_there(smallest, tmp_path, monkeypatch):
    target = tmp_path / "v1.0-mini"
    shutil.copytree(smallest, target)
    before = digests(target)
    record = SceneRecorder.record

    def interrupted(self):
        if self.place.index:
            raise KeyboardInterrupt
        return record(self)

    monkeypatch.setattr(SceneRecorder, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, SyntheticOptions(**{**vars(SMALLEST), "seed": 5}))
    assert digests(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_command_line_reports_errors_in_one_line(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--scenes", "1"]) == 1
    assert capsys.readouterr().err == "error: scenes is 1, but must be from 2 to 1000\n"


def test_the_marker_records_the_options(smallest):
    assert json.loads((smallest / MARKER).read_text())["keyframes"] == 2


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        write_dataset(tmp_path / "file", SMALLEST)
