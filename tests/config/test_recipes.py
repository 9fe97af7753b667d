"""docs/RECIPES.md says what the recipes are: all their keys, with the values that they have."""

import re

import pytest
import yaml

from nsmae_plugin.config.load import read
from tests.helpers.paths import CFGS, REPOSITORY

PAGE = REPOSITORY / "docs" / "RECIPES.md"
NOT_OF_THE_PAPER = {
    "nsmae_pretrain_keyframe.yaml",
    "nsmae_pretrain_camera_depth.yaml",
    "camera_det_depth.yaml",
    "camera_map_depth.yaml",
    "masked_image.yaml",
}
NOTHING = "–"  # in the column of values: the recipe has no such key
SAME = "="


def flatten(value, where=""):
    """``{dotted key: leaf}``; an entry of a list of named sections has its name for a key."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(x, dict) and "NAME" in x for x in value)
    ):
        value = {one["NAME"]: {k: v for k, v in one.items() if k != "NAME"} for one in value}
    if not isinstance(value, dict) or not value:
        return {where: value}
    prefix = f"{where}." if where else ""
    return {k: v for name, one in value.items() for k, v in flatten(one, prefix + name).items()}


def recipes():
    """``{recipe: (the one that it is like, or None, rows)}`` in the order of the page."""
    found = {}
    for section in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name = re.match(r"`(\S+\.yaml)`\n", section)[1]
        base = re.search(r"^As `(\S+)`, except:$", section, re.MULTILINE)
        lines = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)[1:]
        found[name] = (base and base[1], [[one.strip() for one in x.split(" | ")] for x in lines])
    return found


RECIPES = recipes()


def below(key, section):
    return key == section or key.startswith(f"{section}.")


def values_of(name):
    """The leaves that the page gives a recipe."""
    base, rows = RECIPES[name]
    leaves = dict(values_of(base)) if base else {}
    for key, _, here, _ in rows:
        if not key.startswith("`"):
            continue  # what no key decides
        section = key.strip("`")
        new = {} if here == NOTHING else flatten(yaml.safe_load(here.strip("`")), section)
        if here == NOTHING:
            assert any(below(one, section) for one in leaves), (
                f"{section} is not there to be left out"
            )
        if here == NOTHING or f"{section}.NAME" in new:  # with its NAME a section is another one
            leaves = {one: value for one, value in leaves.items() if not below(one, section)}
        leaves |= new
    return leaves


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_gives_every_key_of_a_recipe_its_value(name):
    page, recipe = values_of(name), flatten(read(CFGS / name))
    assert {k: v for k, v in page.items() if recipe.get(k, NOTHING) != v} == {}, "other in cfgs/"
    assert {k: v for k, v in recipe.items() if k not in page} == {}, "not on the page"


@pytest.mark.parametrize("name", RECIPES)
def test_what_differs_from_the_published_value_says_why(name):
    for row in RECIPES[name][1]:
        assert len(row) == 4, row
        key, published, here, why = row
        differs = not published.startswith(SAME) and published != here
        assert why or not differs, key


def test_every_recipe_is_on_the_page():
    assert set(RECIPES) == {one.name for one in CFGS.glob("*.yaml")} - NOT_OF_THE_PAPER


def test_entries_of_a_list_are_named_as_on_the_command_line():
    assert flatten({"A": [{"NAME": "b", "C": 1}], "D": {"E": [2, 3]}, "F": {}}) == {
        "A.b.C": 1,
        "D.E": [2, 3],
        "F": {},
    }
