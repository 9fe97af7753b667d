"""The sdist and the wheel that pip builds hold what an installation needs."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import CFGS, REPOSITORY
from tests.helpers.programs import run_python

pytest.importorskip("setuptools", minversion="77", reason="older ones know no licence expressions")

FILES = ("MANIFEST.in", "pyproject.toml", "setup.py", "README.md", "LICENSE")
CONFIGURATIONS = {path.relative_to(CFGS).as_posix() for path in CFGS.rglob("*.yaml")}


def build(kind: str, source: Path, target: Path) -> Path:
    """Build the ``sdist`` or the ``wheel`` of the project in ``source``; nothing is downloaded."""
    code = f"from setuptools import build_meta as b; b.build_{kind}({str(target)!r})"
    outcome = run_python("-c", code, cwd=source)
    assert outcome.returncode == 0, outcome.stderr
    (built,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked sdist of a copy of the package and its configurations."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("sdist")
    for name in FILES:
        shutil.copy(REPOSITORY / name, copy)
    for folder in ("nsmae_plugin", "cfgs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=ignore)
    shutil.unpack_archive(build("sdist", copy, target), target)
    (folder,) = (path for path in target.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> dict[str, str]:
    """File -> text, of the wheel that the sdist gives."""
    with zipfile.ZipFile(build("wheel", sdist, tmp_path_factory.mktemp("wheel"))) as archive:
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


def test_the_wheel_holds_every_configuration(wheel):
    inside = {name for name in wheel if name.startswith("nsmae_plugin/cfgs/")}
    assert inside == {f"nsmae_plugin/cfgs/{name}" for name in CONFIGURATIONS}


def test_the_wheel_holds_every_module_and_the_marker_of_types(wheel):
    modules = (REPOSITORY / "nsmae_plugin").rglob("*.py")
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in modules}
    assert {name for name in wheel if name.endswith(".py")} == wanted
    assert "nsmae_plugin/py.typed" in wheel


def test_from_the_wheel_a_configuration_is_found_anywhere(wheel, tmp_path):
    site = tmp_path / "site"
    for name in wheel:
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wheel[name], encoding="utf-8")
    code = "import nsmae_plugin; from nsmae_plugin.config import find, load\n"
    code += "path = find.find_config('tiny/nsmae_pretrain.yaml')\n"
    code += "print(path, load.load_config(path).MODEL.NAME, len(find.shipped_names()))"
    outcome = run_python("-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    path, model, count = outcome.stdout.split()
    assert path == str(site / "nsmae_plugin/cfgs/tiny/nsmae_pretrain.yaml")
    assert model == "NSMAE"
    parts = [name for name in CONFIGURATIONS if "_configs/" in name]
    assert int(count) == len(CONFIGURATIONS) - len(parts)


def test_the_wheel_installs_the_command(wheel):
    (text,) = (text for name, text in wheel.items() if name.endswith("/entry_points.txt"))
    assert text.split() == ["[console_scripts]", "nsmae", "=", "nsmae_plugin.cli.__main__:main"]


def test_pip_is_left_to_choose_no_spconv(wheel):
    (metadata,) = (text for name, text in wheel.items() if name.endswith("/METADATA"))
    spconv = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: spconv")]
    extras = {line.partition("extra == ")[2].strip("\"'") for line in spconv}
    assert {"cpu", "cu118", "cu121", "cu124", "cu126"} == extras
