"""The layers of the package: every import leads to the same package or to one further down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import nsmae_plugin

ROOT = Path(nsmae_plugin.__file__).parent
# From the bottom to the top, as in CONTRIBUTING.md. "" is nsmae_plugin/__init__.py.
LAYERS = (
    "",
    "errors",
    "runtime",
    "geometry",
    "config",
    "ops",
    "optimization",
    "formats",
    "synthetic",
    "host",
    "data",
    "models",
    "detectors",
    "training",
    "evaluation",
    "visualization",
    "registration",
    "runs",
    "experiments",
    "doctor",
    "cli",
)
# Imports that lead upward, inside of a function or a script: they fill the host's registries.
REGISTRATION = {
    ("", "registration"),  # nsmae_plugin.register()
}


class Import(NamedTuple):
    """``module`` imports ``target``, both without ``nsmae_plugin.``; ``lazy``: in a function."""

    module: str
    target: str
    lazy: bool


def module_files(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; "" is the package itself."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    return files


def imports_of(module: str, source: str) -> Iterator[Import]:
    """The imports from the package in one module, wherever they stand."""
    tree = ast.parse(source)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, functions)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, target = name.partition(".")
            if package == "nsmae_plugin":
                yield Import(module, target, id(node) in lazy)


def package_of(name: str) -> str:
    """The layer of a module or of a name in it; names of the package itself belong to ""."""
    first = name.partition(".")[0]
    return first if first in LAYERS else ""


def upward(imports: Iterator[Import] | list[Import]) -> list[Import]:
    """Those that lead to a higher layer and fill no registry."""
    return [
        one
        for one in imports
        if LAYERS.index(package_of(one.target)) > LAYERS.index(package_of(one.module))
        and not (one.lazy and (one.module, package_of(one.target)) in REGISTRATION)
    ]


def test_every_package_has_a_layer():
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py"}
    found |= {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert found - {"__init__"} == set(LAYERS) - {""}


def test_no_import_leads_upward():
    # Between packages in one order, that leaves no circle, direct or through others.
    found = [
        one
        for module, path in module_files(ROOT).items()
        for one in imports_of(module, path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 500
    assert [f"{one.module} imports {one.target}" for one in upward(found)] == []


def test_the_page_for_contributors_lists_the_layers_in_this_order():
    page = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("## Layers")[2].partition("\n## ")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert listed[::-1] == [layer or "nsmae_plugin" for layer in LAYERS]


@pytest.mark.parametrize(
    ("module", "source", "targets"),
    [
        ("geometry.boxes", "from nsmae_plugin.data import images", ["data.images"]),
        ("geometry.boxes", "import nsmae_plugin.data.images", ["data.images"]),
        ("geometry.boxes", "def f():\n    from nsmae_plugin import host", ["host"]),
        ("host.build", "from nsmae_plugin.geometry.boxes import Boxes\nimport torch", []),
        ("host.build", "from nsmae_plugin.host.builtin import NAME", []),
        ("training.export", "from nsmae_plugin import __version__", []),
        ("", "def register():\n    from nsmae_plugin.registration import register_all", []),
        ("", "from nsmae_plugin.registration import register_all", ["registration.register_all"]),
    ],
)
def test_imports_are_found_and_judged(module, source, targets):
    assert [one.target for one in upward(imports_of(module, source))] == targets
