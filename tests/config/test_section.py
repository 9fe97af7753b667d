"""Typed sections: what they admit, and the one line that says what they do not."""

import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from easydict import EasyDict
from pydantic import Field, model_validator

from nsmae_plugin import host
from nsmae_plugin.config import sections
from nsmae_plugin.config.section import Section, describe
from nsmae_plugin.config.sections import InSlot
from nsmae_plugin.config.values import (
    Bound,
    Pair,
    PointCloudRange,
    PositiveInt,
    PositiveRange,
    Range,
    Ratio,
    Size,
)
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import CFGS


class Grid(Section):
    XBOUND: Bound
    DEPTHS: list[PositiveInt] = Field([1])

    @model_validator(mode="after")
    def _check(self) -> "Grid":
        if len(self.DEPTHS) > self.XBOUND[1]:
            raise ValueError("DEPTHS has more entries than metres")
        return self


class Neck(Section):
    NAME: str
    WIDTH: PositiveInt


class Network(Section):
    RATIO: Ratio = 0.5
    SHIFT: float | None = None
    RESIZE: PositiveRange = Field([1.0, 1.0])
    ANGLES: Range = Field([0.0, 0.0])
    SIZE: Size = Field([1, 1])
    RANGE: PointCloudRange = Field([0, 0, 0, 1, 1, 1])
    SHUFFLE: bool = False
    KERNELS: Literal["auto", "torch"] = "auto"
    PER_CLASS: float | list[float] = 0.1
    GRID: Grid | None = None
    GRIDS: list[Grid] = Field([])
    NECK: Annotated[Any, InSlot("neck")] = None
    STEPS: list[Annotated[Any, InSlot("neck")]] = Field([])


@pytest.fixture(autouse=True)
def neck(monkeypatch):
    """A registry with one neck, which has a section."""
    monkeypatch.setattr(sections, "_declared", {})
    sections.declare("neck", "Neck", type("Neck", (), {"Config": Neck}))


def problem(content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Network.of(content, "MODEL")
    assert str(caught.value).isprintable()  # one line
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("RATIO", 1.5, "must be a number from 0 to 1, not 1.5"),
        ("RATIO", True, "must be a number from 0 to 1, not True"),
        ("RATIO", "half", "must be a number from 0 to 1, not 'half'"),
        ("RATIO", float("nan"), "must be a number from 0 to 1, not nan"),
        ("SHIFT", float("inf"), "must be a number or null, not inf"),
        ("RESIZE", [1.1, 0.9], "must be a list of 2 positive numbers, the lower one first, not"),
        ("RESIZE", [0, 1], "must be a list of 2 positive numbers, the lower one first, not [0, 1]"),
        ("ANGLES", [1], "must be a list of 2 numbers, the lower one first, not [1]"),
        ("SIZE", [4, 4.5], "must be a list of 2 positive integers, not [4, 4.5]"),
        ("RANGE", [0, 0, 0, 1, 1, 0], "must be a list of 6 numbers, x, y, z of the lower corner"),
        (
            "SIZE",
            [1 << 31, 1],
            "must be a list of 2 positive integers, not [2147483648, 1] (too la",
        ),
        ("SHUFFLE", 1, "must be true or false, not 1"),
        ("KERNELS", "fast", "must be auto or torch, not 'fast'"),
        ("PER_CLASS", [0.1, "a"], "must be a number or a list of numbers, not [0.1, 'a']"),
        ("GRID", 3, "must be a section or null, not 3"),
        ("NECK", {"WIDTH": 3}, "must be a section with a NAME"),
        ("STEPS", {"NAME": "Neck"}, "must be a list of sections with a NAME, not {'NAME': 'Neck'}"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_was_expected(key, value, message):
    assert problem({key: value}).startswith(f"MODEL.{key} {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"RATE": 1}, "unknown key MODEL.RATE (did you mean RATIO?)"),
        ({"RATE": 1, "SHIFT": "a"}, "unknown key MODEL.RATE (did you mean RATIO?)"),
        ({"\udcff": 1}, "unknown key MODEL.?; known: ANGLES, GRID"),
        ({1: 1}, "unknown key MODEL.1; known: ANGLES, GRID"),
        ({"GRID": {}}, "missing key MODEL.GRID.XBOUND: expected a list of 3 numbers, min, max"),
        ({"GRID": {"XBOUND": [0, 1, 2]}}, "MODEL.GRID.XBOUND must be a list of 3 numbers, min,"),
        ({"GRID": {"XBOUND": [0, 1, 1e-6]}}, "MODEL.GRID.XBOUND must be a list of 3 numbers, min"),
        ({"GRID": {"XBOUND": [0, 1, 1], "DEPTHS": [0]}}, "MODEL.GRID.DEPTHS must be a list of p"),
        ({"GRID": {"XBOUND": [0, 1, 1], "DEPTHS": [1, 2]}}, "MODEL.GRID: DEPTHS has more entries"),
        ({"GRIDS": [{"XBOUND": [0, 1, 1], "DEPTHS": [1, 2]}]}, "MODEL.GRIDS[0]: DEPTHS has more"),
        ({"GRIDS": [{"XBOUND": 0}]}, "MODEL.GRIDS[0].XBOUND must be"),
        ({"NECK": {"NAME": "Neck", "WIDTH": 0}}, "MODEL.NECK.WIDTH must be a positive integer"),
        ({"STEPS": [{"NAME": "Neck", "WDTH": 1}]}, "unknown key MODEL.STEPS.Neck.WDTH (did you me"),
        ({"STEPS": [{"NAME": "Neck"}, 7]}, "missing key MODEL.STEPS.Neck.WIDTH: expected a posit"),
        ({"STEPS": [7]}, "MODEL.STEPS[0] must be a section with a NAME, not 7"),
        ([], "MODEL must be a section, not []"),
    ],
)
def test_a_problem_is_told_with_its_path(content, message):
    assert problem(content).startswith(message)


def test_a_number_that_yaml_reads_as_a_string_is_explained():
    assert "1.0e-3" in problem({"RATIO": "1e-3"})


def test_a_section_gives_typed_values_and_defaults():
    network = Network.of(EasyDict(GRID={"XBOUND": [0, 4, 1]}, SHIFT=2))
    assert (network.SHIFT, network.RATIO, network.GRID.XBOUND) == (2.0, 0.5, [0, 4, 1])


def test_a_name_without_a_section_is_left_unchecked():
    Network.of({"NECK": {"NAME": "Unknown", "KEY": -1}, "STEPS": [{"NAME": "Unknown", "A": 1}]})


def test_a_registered_class_brings_its_section(monkeypatch):
    slot = "neck"
    own = type("OwnNeck", (), {"Config": Neck})
    if host.NAME == "builtin":
        monkeypatch.setitem(host.builtin.registry.REGISTRIES, slot, {})
    else:
        monkeypatch.setattr(host.openpcdet.registry, "_table", lambda _: {})
    host.register(slot, "OwnNeck", own)
    assert sections.find(slot, "OwnNeck") is Neck


def test_a_configuration_is_checked_without_torch():
    code = (
        "import sys; from nsmae_plugin.config.load import load_config\n"
        f"for path in {[str(path) for path in CFGS.glob('*.yaml')]}: load_config(path)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_lists_are_described_in_the_plural():
    assert describe(list[list[int]]) == "a list of lists of integers"
    assert describe(list[Pair]) == "a list of lists of 2 numbers"
