"""``--cfg_file`` leads to a file, or to a configuration of the package by its name."""

import pytest

from nsmae_plugin.cli.__main__ import run
from nsmae_plugin.cli.train import parse_options
from nsmae_plugin.config.find import find_config, shipped_names
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import CFGS


@pytest.mark.parametrize(
    "name", ["tiny/camera_det", "tiny/camera_det.yaml", "cfgs/tiny/camera_det.yaml"]
)
def test_a_configuration_is_found_by_name_from_any_directory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CFGS / "tiny/camera_det.yaml"


def test_the_name_of_a_configuration_leads_to_the_output_folder_of_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(CFGS.parent)
    there = parse_options(["--cfg_file", "cfgs/tiny/camera_det.yaml"]).folder
    monkeypatch.chdir(tmp_path)
    assert parse_options(["--cfg_file", "tiny/camera_det"]).folder == there


def test_a_file_of_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera_det.yaml").touch()
    assert find_config("camera_det.yaml").resolve() == tmp_path / "camera_det.yaml"
    (tmp_path / "lidar_map").mkdir()  # a folder is none
    assert find_config("lidar_map") == CFGS / "lidar_map.yaml"


def test_every_name_that_is_listed_is_a_whole_configuration(capsys):
    assert run("configs", []) == 0
    folder, *names = capsys.readouterr().out.splitlines()
    assert folder == f"in {CFGS}:"
    assert [name.strip() for name in names] == shipped_names()
    for name in shipped_names():
        load_config(find_config(name))
    parts = [path for path in CFGS.rglob("*.yaml") if path.parent.name.endswith("_configs")]
    assert len(names) == len(list(CFGS.rglob("*.yaml"))) - len(parts)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cfgs/tiny/camera_dte.yaml", "did you mean tiny/camera_det.yaml or "),
        ("../tiny/camera_det.yaml", "did you mean tiny/camera_det.yaml or "),
        ("qqq", "comes with the package; `nsmae configs` lists those"),
        ("x" * 5000, "comes with the package; `nsmae configs` lists those"),
    ],
)
def test_another_name_is_refused_with_the_nearest(name, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is neither a file nor comes with the package") as error:
        find_config(name)
    assert near in str(error.value)
    assert len(str(error.value)) < 400
