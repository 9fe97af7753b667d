"""The plugin's names in OpenPCDet's registries, and its detector template."""

import functools

import numpy as np
import pytest

from nsmae_plugin.errors import HostError
from tests.host.test_contract import STOCK_MODULES

pytestmark = pytest.mark.openpcdet


@pytest.fixture(scope="module")
def openpcdet(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    return openpcdet


SLOTS = {
    "detector": "BevFusion",
    "dataset": "NuScenesDataset",
    **STOCK_MODULES,
    "dense_head": "TransFusionHead",
    "augmentor": "random_world_flip",
    "processor": "image_normalize",
}


@pytest.mark.parametrize(("slot", "stock"), SLOTS.items())
def test_a_slot_knows_the_stock_names_and_takes_new_ones(slot, stock, openpcdet, request):
    assert openpcdet.lookup(slot, stock).__name__ == stock
    name = "from_the_test_of_slots"

    def entry(self, data_dict=None, config=None):
        return functools.partial(entry, self, config=config) if data_dict is None else data_dict

    request.addfinalizer(functools.partial(forget, openpcdet, slot, name))
    openpcdet.register(slot, name, entry)
    openpcdet.register(slot, name, entry)
    assert openpcdet.lookup(slot, name) is entry
    with pytest.raises(HostError, match=rf"{slot} '{stock}' is already .*pcdet"):
        openpcdet.register(slot, stock, entry)
    with pytest.raises(HostError, match=rf"no {slot} 'Absent'.*{stock}"):
        openpcdet.lookup(slot, "Absent")


def forget(openpcdet, slot, name):
    from nsmae_plugin.host.openpcdet import registry

    if slot in registry.DICT_SLOTS:
        del registry._table(slot)[name]
    else:
        delattr(registry._holder(slot), name)


def test_a_registered_processor_runs_in_openpcdets_queue(openpcdet, request):
    from easydict import EasyDict
    from pcdet.datasets.processor.data_processor import DataProcessor

    def scale_points(self, data_dict=None, config=None):
        if data_dict is None:
            return functools.partial(self.scale_points, config=config)
        return {"points": data_dict["points"] * config.FACTOR}

    request.addfinalizer(functools.partial(forget, openpcdet, "processor", "scale_points"))
    openpcdet.register("processor", "scale_points", scale_points)
    step = EasyDict(NAME="scale_points", FACTOR=3)
    processor = DataProcessor([step], np.zeros(6), training=True, num_point_features=3)
    assert processor.forward({"points": np.ones(2)})["points"].tolist() == [3, 3]


def test_methods_that_are_no_steps_cannot_be_looked_up_or_replaced(openpcdet):
    for name in ("forward", "__init__"):
        with pytest.raises(HostError):
            openpcdet.lookup("augmentor", name)
        with pytest.raises(HostError, match="already"):
            openpcdet.register("processor", name, lambda self: None)


def test_an_unknown_slot_lists_the_slots(openpcdet):
    for call in (openpcdet.lookup, functools.partial(openpcdet.register, obj=int)):
        with pytest.raises(HostError, match=r"unknown slot 'roi'.*vtransform.*processor"):
            call("roi", "x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"NAME": "Nothing"}, r"no detector 'Nothing'.*BevFusion"),
        ({"NAME": "BevFusion", "FUSER": {"NAME": "Glue"}}, r"no fuser 'Glue'.*ConvFuser"),
    ],
)
def test_an_unknown_name_in_the_model_is_told(config, message, openpcdet):
    from easydict import EasyDict

    with pytest.raises(HostError, match=message):
        openpcdet.build_network(EasyDict(config), 10, None)


def test_the_template_builds_the_image_slots_that_a_topology_names(openpcdet):
    """OpenPCDet's own template has no builders for them."""
    from easydict import EasyDict

    class CameraOnly(openpcdet.Detector3DTemplate):
        def __init__(self, model_cfg, num_class, dataset):
            super().__init__(model_cfg, num_class, dataset)
            self.module_topology = ["vfe", "image_backbone", "neck", "vtransform", "fuser"]
            self.module_list = self.build_networks()

    neck = EasyDict(NAME="GeneralizedLSSFPN", IN_CHANNELS=[8, 16], OUT_CHANNELS=8, NUM_OUTS=2)
    neck.update(START_LEVEL=0, END_LEVEL=-1)
    fuser = EasyDict(NAME="ConvFuser", IN_CHANNEL=24, OUT_CHANNEL=8)
    dataset = EasyDict(class_names=["car"], point_feature_encoder={"num_point_features": 5})
    dataset.update(grid_size=None, point_cloud_range=None, voxel_size=None)
    dataset.depth_downsample_factor = None
    model = CameraOnly(EasyDict(NECK=neck, FUSER=fuser), 1, dataset)
    assert [type(m).__name__ for m in model.module_list] == ["GeneralizedLSSFPN", "ConvFuser"]
    assert {name.split(".")[0] for name in model.state_dict()} == {"global_step", "neck", "fuser"}
