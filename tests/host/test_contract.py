"""What every host owes the plugin; runs on each host that is available."""

import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from nsmae_plugin.errors import HostError

CONTRACT = {"NAME", "DatasetTemplate", "Detector3DTemplate", "build_dataset", "build_network"}
CONTRACT |= {"lookup", "register", "to_device"}
STEP_SLOTS = ("augmentor", "processor")
STOCK_MODULES = {
    "vfe": "MeanVFE",
    "backbone_3d": "VoxelResBackBone8x",
    "map_to_bev": "HeightCompression",
    "image_backbone": "SwinTransformer",
    "neck": "GeneralizedLSSFPN",
    "vtransform": "DepthLSSTransform",
    "fuser": "ConvFuser",
    "backbone_2d": "BaseBEVBackbone",
}
OWN_ENTRIES = {
    **STOCK_MODULES,
    "augmentor": "random_world_rotation",
    "processor": "transform_points_to_voxels",
}

DATA = EasyDict(
    DATASET="ContractDataset",
    DATA_PATH="somewhere",
    POINT_CLOUD_RANGE=[-8.0, -6.0, -2.0, 8.0, 6.0, 2.0],
    POINT_FEATURE_ENCODING={
        "encoding_type": "absolute_coordinates_encoding",
        "used_feature_list": ["x", "y", "z", "intensity"],
        "src_feature_list": ["x", "y", "z", "intensity", "timestamp"],
    },
    DATA_AUGMENTOR={
        "DISABLE_AUG_LIST": ["random_world_flip"],
        "AUG_CONFIG_LIST": [
            {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x", "y"]},
            {"NAME": "contract_augmentor", "SHIFT": 0.5},
        ],
    },
    DATA_PROCESSOR=[
        {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
        {
            "NAME": "transform_points_to_voxels",
            "VOXEL_SIZE": [0.5, 0.5, 0.4],
            "MAX_POINTS_PER_VOXEL": 4,
            "MAX_NUMBER_OF_VOXELS": {"train": 500, "test": 500},
        },
        {"NAME": "contract_processor", "VALUE": 7},
    ],
)
MODEL = EasyDict(
    NAME="ContractDetector",
    VFE={"NAME": "MeanVFE"},
    NECK={"NAME": "ContractModule", "CHANNELS": 3},
    BACKBONE_2D={
        "NAME": "BaseBEVBackbone",
        "LAYER_NUMS": [1],
        "LAYER_STRIDES": [1],
        "NUM_FILTERS": [6],
        "UPSAMPLE_STRIDES": [2],
        "NUM_UPSAMPLE_FILTERS": [5],
    },
)


def contract_augmentor(self, data_dict=None, config=None):
    if data_dict is None:
        return partial(contract_augmentor, self, config=config)
    shift = np.array([config["SHIFT"], 0, 0, 0, 0], dtype=np.float32)
    return {**data_dict, "points": data_dict["points"] + shift}


def contract_processor(self, data_dict=None, config=None):
    if data_dict is None:
        return partial(contract_processor, self, config=config)
    return {**data_dict, "seen": np.array([config["VALUE"], self.training])}


class ContractModule(nn.Module):
    def __init__(self, model_cfg):
        super().__init__()
        self.linear = nn.Linear(model_cfg.CHANNELS, 1)


@pytest.fixture(scope="module", params=["builtin", "openpcdet"])
def host(request):
    """Each host in turn, with the test's own classes registered."""
    if request.param == "openpcdet":
        request.getfixturevalue("openpcdet_root")
    host = importlib.import_module(f"nsmae_plugin.host.{request.param}")

    class ContractDataset(host.DatasetTemplate):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            points = np.random.default_rng(index).uniform(-5, 5, (300 + index, 5))
            sample = {"points": points.astype(np.float32), "frame_id": f"frame {index}"}
            if self.training:
                boxes = np.array([[0, 0, 0, 2, 2, 2, 0]], dtype=np.float32)
                sample |= {"gt_boxes": boxes, "gt_names": np.array(["car"])}
            return self.prepare_data(sample)

    class ContractDetector(host.Detector3DTemplate):
        def __init__(self, model_cfg, num_class, dataset):
            super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
            self.module_topology = ["vfe", "backbone_3d", "image_backbone", "neck", "vtransform"]
            self.module_topology += ["fuser", "head", "backbone_2d", "dense_head"]
            self.module_list = self.build_networks()

        def build_head(self, model_info_dict):
            self.info = dict(model_info_dict)
            model_info_dict["num_bev_features"] = 4
            return None, model_info_dict

        def forward(self, batch_dict):
            return batch_dict

    host.register("dataset", "ContractDataset", ContractDataset)
    host.register("detector", "ContractDetector", ContractDetector)
    host.register("neck", "ContractModule", ContractModule)
    host.register("augmentor", "contract_augmentor", contract_augmentor)
    host.register("processor", "contract_processor", contract_processor)
    return host


@pytest.fixture
def dataset(host):
    return host.build_dataset(DATA, ["car"], training=False)


@pytest.fixture
def detector(host, dataset):
    return host.build_network(MODEL, num_class=1, dataset=dataset)


def test_the_contract_is_there(host):
    assert host.NAME in ("builtin", "openpcdet")
    assert set(host.__all__) >= CONTRACT
    assert all(hasattr(host, name) for name in CONTRACT)


def new_entry(slot):
    """A class, or a function where the slot holds steps."""
    if slot in STEP_SLOTS:
        return lambda self, data_dict=None, config=None: data_dict
    return type("Entry", (), {})


@pytest.mark.parametrize("slot", ["detector", "dataset", "dense_head", *OWN_ENTRIES])
def test_a_registered_entry_is_found_and_never_replaced(host, slot):
    name, entry = f"Registered in {slot}", new_entry(slot)
    host.register(slot, name, entry)
    host.register(slot, name, entry)
    assert host.lookup(slot, name) is entry
    with pytest.raises(HostError, match=name):
        host.register(slot, name, new_entry(slot))
    assert host.lookup(slot, name) is entry


@pytest.mark.parametrize(("slot", "name"), OWN_ENTRIES.items())
def test_the_hosts_own_entries_cannot_be_replaced(host, slot, name):
    own = host.lookup(slot, name)
    with pytest.raises(HostError, match=name):
        host.register(slot, name, new_entry(slot))
    host.register(slot, name, own)
    assert host.lookup(slot, name) is own


@pytest.mark.parametrize("slot", ["neck", "processor"])
def test_an_unknown_name_lists_the_known_ones(host, slot):
    known = {"neck": "GeneralizedLSSFPN", "processor": "image_normalize"}[slot]
    with pytest.raises(HostError, match=f"NoSuchEntry.*{known}"):
        host.lookup(slot, "NoSuchEntry")


def test_an_unknown_slot_lists_the_slots(host):
    for call in (host.lookup, partial(host.register, obj=object)):
        with pytest.raises(HostError, match=r"roof.*vtransform"):
            call("roof", "Any")


def test_a_dataset_is_built_with_its_geometry(dataset):
    assert dataset.mode == "test"
    assert dataset.class_names == ["car"]
    assert dataset.root_path == Path("somewhere")
    np.testing.assert_array_equal(dataset.grid_size, [32, 24, 10])  # x, y, z
    np.testing.assert_allclose(dataset.point_cloud_range, DATA.POINT_CLOUD_RANGE)
    np.testing.assert_allclose(dataset.voxel_size, [0.5, 0.5, 0.4])
    assert dataset.point_feature_encoder.num_point_features == 4
    assert dataset.depth_downsample_factor is None


def test_the_root_path_can_be_given(host, tmp_path):
    dataset = host.build_dataset(DATA, ["car"], training=False, root_path=str(tmp_path))
    assert dataset.root_path == tmp_path


def test_the_logger_stays_behind_when_a_dataset_is_sent_to_a_worker(dataset):
    assert "logger" in vars(dataset)
    assert "logger" not in dataset.__getstate__()


def test_samples_run_through_the_registered_steps(host, dataset):
    train = host.build_dataset(DATA, ["car"], training=True)
    tested, trained = dataset[0], train[0]
    np.testing.assert_array_equal(tested["seen"], [7, 0])
    np.testing.assert_array_equal(trained["seen"], [7, 1])
    shifted = tested["points"] + np.float32([0.5, 0, 0, 0])
    np.testing.assert_allclose(trained["points"], shifted, atol=1e-6)
    np.testing.assert_allclose(trained["gt_boxes"], [[0, 0, 0, 2, 2, 2, 0, 1]])
    np.testing.assert_array_equal(tested["lidar_aug_matrix"], np.eye(4))


def test_batches_number_their_points_and_voxels(dataset):
    samples = [dataset[0], dataset[1]]
    batch = dataset.collate_batch(samples)
    assert batch["batch_size"] == 2
    assert list(batch["frame_id"]) == ["frame 0", "frame 1"]
    for key in ("points", "voxel_coords"):
        numbers = batch[key][:, 0]
        for position, sample in enumerate(samples):
            np.testing.assert_array_equal(batch[key][numbers == position][:, 1:], sample[key])
    assert len(batch["voxels"]) == len(batch["voxel_num_points"]) == len(batch["voxel_coords"])


def test_a_detector_has_the_slots_of_its_configuration(detector):
    assert [type(module).__name__ for module in detector.module_list] == [
        "MeanVFE",
        "ContractModule",
        "BaseBEVBackbone",
    ]
    assert detector.vfe is detector.module_list[0]
    assert detector.neck is detector.module_list[1]
    assert detector.backbone_3d is detector.vtransform is detector.dense_head is None
    assert {name.split(".")[0] for name in detector.state_dict()} == {
        "global_step",
        "neck",
        "backbone_2d",
    }


def test_builders_pass_the_widths_on(detector):
    assert detector.info["num_point_features"] == detector.info["num_rawpoint_features"] == 4
    assert detector.backbone_2d.blocks[0][1].in_channels == 4
    assert detector.backbone_2d.num_bev_features == 5
    np.testing.assert_array_equal(detector.info["grid_size"], [32, 24, 10])


def test_steps_are_counted_in_the_checkpoint(detector):
    assert detector.state_dict()["global_step"].tolist() == [0]
    assert detector.global_step.dtype == torch.long
    detector.update_global_step()
    detector.update_global_step()
    assert detector.state_dict()["global_step"].tolist() == [2]
    assert (detector.mode, detector.eval().mode) == ("TRAIN", "TEST")


def test_a_batch_is_moved_into_a_new_dict(host, device):
    batch = {
        "points": np.ones((3, 5)),
        "voxel_coords": np.ones((3, 4), dtype=np.int32),
        "depth_point_mask": np.array([True, False]),
        "camera_imgs": torch.ones(1, 2, dtype=torch.float64),
        "frame_id": np.array(["a", "b"]),
        "metadata": np.array([{"token": 1}], dtype=object),
        "image_paths": [["x.jpg"]],
        "ori_shape": np.array([[900, 1600]]),
        "names": np.array(["a", "b"]),
        "batch_size": 2,
    }
    before = dict(batch)
    moved = host.to_device(batch, device)
    assert moved is not batch
    assert all(batch[key] is before[key] for key in before)
    kinds = {"points": torch.float32, "voxel_coords": torch.float32}
    kinds |= {"depth_point_mask": torch.bool, "camera_imgs": torch.float64}
    for key, kind in kinds.items():
        assert (moved[key].dtype, moved[key].device.type) == (kind, device.type)
    for key in ("frame_id", "metadata", "image_paths", "ori_shape", "names", "batch_size"):
        assert moved[key] is batch[key]


def test_an_unknown_detector_or_dataset_is_named(host, dataset):
    with pytest.raises(HostError, match="NoSuchDetector"):
        host.build_network(EasyDict(NAME="NoSuchDetector"), num_class=1, dataset=dataset)
    with pytest.raises(HostError, match="NoSuchDataset"):
        host.build_dataset(EasyDict(DATASET="NoSuchDataset"), ["car"], training=False)
