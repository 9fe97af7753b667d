"""The seam between the plugin and its host, and how the host is chosen."""

import ast
import subprocess
from pathlib import Path

import pytest

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.errors import HostError
from tests.helpers.paths import REPOSITORY
from tests.helpers.programs import run_python

PACKAGE = Path(nsmae_plugin.__file__).parent


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return run_python("-c", code, without=["NSMAE_HOST", "OPENPCDET_ROOT"], **environment)


def test_nothing_outside_the_seam_depends_on_the_name_of_the_host():
    """Code elsewhere asks the seam for everything in which the hosts differ."""
    comparisons = [
        f"{path.relative_to(REPOSITORY)}: {ast.unparse(node)}"
        for folder in (PACKAGE, REPOSITORY / "tools")
        for path in folder.rglob("*.py")
        if PACKAGE / "host" not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Subscript | ast.Match)
        and "host.NAME" in ast.unparse(node)
    ]
    assert comparisons == []


def test_only_the_openpcdet_host_imports_pcdet():
    offenders = [
        str(path.relative_to(REPOSITORY))
        for folder in (PACKAGE, REPOSITORY / "tools")
        for path in folder.rglob("*.py")
        if PACKAGE / "host" / "openpcdet" not in path.parents
        and any(name.split(".")[0] == "pcdet" for name in imported_modules(path))
    ]
    assert offenders == []


def test_importing_the_package_loads_neither_torch_nor_a_host():
    code = "import sys, nsmae_plugin; print({'torch', 'nsmae_plugin.host'} & set(sys.modules))"
    assert run(code).stdout.strip() == "set()"


@pytest.mark.parametrize(("policy", "expected"), [("", "PASSIVE 2000"), ("ACTIVE", "ACTIVE None")])
def test_the_openmp_policy_is_set_unless_the_user_chose_one(policy, expected):
    code = """
import os
del os.environ["GOMP_SPINCOUNT"]
if not os.environ["OMP_WAIT_POLICY"]:
    del os.environ["OMP_WAIT_POLICY"]
import nsmae_plugin
print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"))
"""
    inherited = {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": "1"}
    assert run(code, **inherited).stdout.strip() == expected


def test_registering_twice_changes_nothing():
    nsmae_plugin.register()
    first = host.lookup("detector", "NSMAE")
    nsmae_plugin.register()
    assert host.lookup("detector", "NSMAE") is first


def test_a_taken_name_is_refused():
    nsmae_plugin.register()
    with pytest.raises(HostError, match="NSMAE"):
        host.register("detector", "NSMAE", type("Impostor", (), {}))


def test_an_unknown_name_lists_what_there_is():
    nsmae_plugin.register()
    with pytest.raises(HostError, match="NSMAE"):
        host.lookup("detector", "NoSuchDetector")


def test_without_openpcdet_the_builtin_host_is_chosen():
    outcome = run("from nsmae_plugin import host; print(host.NAME)")
    assert outcome.stdout.strip().endswith("builtin"), outcome.stderr


def test_an_unknown_choice_is_refused():
    outcome = run("from nsmae_plugin import host", NSMAE_HOST="mmdet")
    assert "NSMAE_HOST='mmdet' is not one of auto, openpcdet, builtin" in outcome.stderr


def test_a_broken_openpcdet_is_an_error_and_never_replaced(tmp_path):
    (tmp_path / "pcdet").mkdir()
    (tmp_path / "pcdet" / "__init__.py").write_text("raise RuntimeError('half copied')")
    outcome = run("from nsmae_plugin import host", OPENPCDET_ROOT=str(tmp_path))
    assert outcome.returncode != 0
    assert "HostError" in outcome.stderr
    assert str(tmp_path) in outcome.stderr
