"""The built-in host's registries: what is imported when, and what a missing requirement says."""

import pytest

from nsmae_plugin.host.builtin import registry
from tests.helpers.programs import run_python


def run(code: str) -> str:
    """Standard output of ``code`` in a fresh interpreter in which spconv is not installed."""
    code = "import sys; sys.modules['spconv'] = None\n" + code
    outcome = run_python("-c", code, NSMAE_HOST="builtin")
    return outcome.stdout + outcome.stderr


def test_a_camera_model_needs_no_spconv():
    code = """
from nsmae_plugin.host import builtin
from nsmae_plugin.errors import HostError
print(builtin.lookup("image_backbone", "SwinTransformer").__name__)
print(builtin.lookup("vtransform", "DepthLSSTransform").__name__)
try:
    builtin.lookup("backbone_3d", "VoxelResBackBone8x")
except HostError as error:
    print(error)
"""
    assert run(code).splitlines() == [
        "SwinTransformer",
        "FactorizedDepthLSSTransform",
        "spconv is not installed, and nsmae_plugin.host.builtin.modules.backbone_3d needs it: "
        "pip install spconv (without a GPU), or pip install spconv-cu126 (CUDA 12.6; also cu118, "
        "cu121, cu124)",
    ]


def test_both_names_of_the_view_transform_are_one_class():
    names = ("DepthLSSTransform", "FactorizedDepthLSSTransform")
    assert len({registry.lookup("vtransform", name) for name in names}) == 1


@pytest.mark.parametrize("slot", registry.SLOTS)
def test_every_entry_of_the_host_can_be_imported(slot):
    for name in registry._own(slot):
        assert callable(registry.lookup(slot, name))


def test_registered_steps_are_visible_to_the_pipelines(monkeypatch):
    monkeypatch.setitem(registry.REGISTRIES, "augmentor", {})

    def shake(self, data_dict=None, config=None):
        return data_dict

    registry.register("augmentor", "shake", shake)
    assert registry.REGISTRIES["augmentor"] == {"shake": shake}
