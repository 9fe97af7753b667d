"""Every configuration of version 0.1.0 still describes the network that it described then."""

import json

import pytest

import nsmae_plugin
from nsmae_plugin.config.load import load_config
from tests.helpers.parameter_digests import parameter_digests
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN / "configurations"
PARAMETERS = json.loads((FOLDER / "parameters.json").read_text(encoding="utf-8"))


def test_every_file_is_tested():
    paths = [*FOLDER.glob("*.yaml"), *FOLDER.glob("tiny/*.yaml")]
    assert len(paths) == len(PARAMETERS)
    assert {path.relative_to(FOLDER).with_suffix("").as_posix() for path in paths} == set(
        PARAMETERS
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_shapes_and_order_of_the_parameters_are_as_recorded(name):
    nsmae_plugin.register()
    assert parameter_digests(load_config(FOLDER / f"{name}.yaml")) == PARAMETERS[name]
