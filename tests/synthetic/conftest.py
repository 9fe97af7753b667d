"""The synthetic dataset of a test module, opened by the nuscenes-devkit."""

import pytest
from nuscenes import NuScenes


@pytest.fixture(scope="module")
def database(world) -> NuScenes:
    """The tables of the module's own dataset ``world``."""
    return NuScenes("v1.0-mini", str(world), verbose=False)
