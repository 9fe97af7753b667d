"""The built-in detector template where the contract of all hosts says nothing."""

import pytest
from easydict import EasyDict
from torch import nn

from nsmae_plugin.errors import HostError
from nsmae_plugin.host import builtin
from nsmae_plugin.host.builtin.registry import REGISTRIES
from tests.helpers.dataset_specification import DatasetSpecification

DATASET = DatasetSpecification([0, 0, 0, 8, 8, 4], [1, 1, 1], ["car", "bus"])


class Head(nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments


class Detector(builtin.Detector3DTemplate):
    def __init__(self, model_cfg, topology=None):
        super().__init__(EasyDict(model_cfg), num_class=2, dataset=DATASET)
        self.module_topology = topology or self.module_topology
        self.module_list = self.build_networks()


@pytest.fixture(autouse=True)
def _head(monkeypatch):
    monkeypatch.setitem(REGISTRIES["dense_head"], "Head", Head)


@pytest.mark.parametrize(("agnostic", "classes"), [(False, 2), (True, 1)])
def test_a_dense_head_gets_openpcdets_arguments(agnostic, classes):
    head = {"NAME": "Head", "CLASS_AGNOSTIC": agnostic, "INPUT_FEATURES": 7}
    detector = Detector({"DENSE_HEAD": head})
    assert detector.dense_head.arguments == {
        "model_cfg": head,
        "input_channels": 7,  # without a BEV module in front
        "num_class": classes,
        "class_names": ["car", "bus"],
        "grid_size": DATASET.grid_size,
        "point_cloud_range": DATASET.point_cloud_range,
        "predict_boxes_when_training": False,
        "voxel_size": DATASET.voxel_size,
    }


def test_a_dense_head_gets_the_width_of_the_bev_map():
    fuser = {"NAME": "ConvFuser", "IN_CHANNEL": 4, "OUT_CHANNEL": 3}
    detector = Detector({"FUSER": fuser, "DENSE_HEAD": {"NAME": "Head", "INPUT_FEATURES": 7}})
    assert detector.dense_head.arguments["input_channels"] == 3


def test_the_image_backbone_is_initialised(monkeypatch):
    calls = []

    class Backbone(nn.Module):
        def __init__(self, model_cfg):
            super().__init__()

        def init_weights(self):
            calls.append(self)

    monkeypatch.setitem(REGISTRIES["image_backbone"], "Backbone", Backbone)
    detector = Detector({"IMAGE_BACKBONE": {"NAME": "Backbone"}})
    assert calls == [detector.image_backbone]


def test_the_order_is_openpcdets():
    slots = Detector({}).module_topology
    assert slots == ["vfe", "backbone_3d", "map_to_bev_module", "image_backbone", "neck"] + [
        "vtransform",
        "fuser",
        "backbone_2d",
        "dense_head",
    ]


@pytest.mark.parametrize("section", ["PFE", "POINT_HEAD", "ROI_HEAD"])
def test_sections_that_only_openpcdet_has_are_refused(section):
    with pytest.raises(HostError, match=f"MODEL.{section}; use NSMAE_HOST=openpcdet"):
        Detector({section: {"NAME": "Any"}})


def test_a_slot_without_builder_is_refused():
    with pytest.raises(HostError, match="Detector has no build_roof for its slot 'roof'"):
        Detector({}, topology=["roof"])
