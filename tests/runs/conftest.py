"""Fixtures of tests that predict the frames of the synthetic dataset."""

import pytest

from nsmae_plugin.formats.infos import read_infos
from tests.helpers import oracle


@pytest.fixture(scope="module")
def infos(synthetic_root):
    """The frames of the validation split."""
    return read_infos(synthetic_root / "v1.0-mini" / "nuscenes_infos_3sweeps_val.pkl")


@pytest.fixture(scope="module")
def settings(synthetic_root, tmp_path_factory):
    """Arguments for the oracle on the synthetic dataset."""
    return oracle.write_arguments(tmp_path_factory.mktemp("oracle"), synthetic_root)
