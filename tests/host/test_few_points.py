"""A handful of points at a batch of one: networks train and predict, with finite numbers."""

import math

import pytest
import torch
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.errors import DataError
from nsmae_plugin.host.build import RowBatchNorm1d, accept_single_rows
from tests.detectors.test_nsmae import build as build_pretraining
from tests.helpers.detector_case import build as build_detector
from tests.helpers.detector_case import labelled_batch
from tests.helpers.made_up_batch import made_up_batch
from tests.helpers.map_case import build as build_mapper
from tests.helpers.map_case import mapped_batch
from tests.host.test_grids import dataset, make_config

# name -> its network and a batch of one sample
CASES = {
    "BevFusion": lambda: (build_detector("bevfusion_det"), labelled_batch("bevfusion_det", (3,))),
    "CenterPoint": lambda: (
        build_detector("centerpoint_lidar"),
        labelled_batch("centerpoint_lidar", (3,)),
    ),
    "TransFusion": lambda: (
        build_detector("transfusion_lidar"),
        labelled_batch("transfusion_lidar", (3,)),
    ),
    "BEVFusionMap": lambda: (build_mapper("lidar_map"), mapped_batch("lidar_map", samples=1)),
    "NSMAE, both": lambda: (build_pretraining("both"), made_up_batch("both", samples=1)),
    "NSMAE, LiDAR": lambda: (build_pretraining("lidar"), made_up_batch("lidar", samples=1)),
}


def keep_few(batch, voxels):
    """A batch with so many voxels, of a single point each."""
    few = {key: value for key, value in batch.items() if key != "hidden_voxel_coords"}
    rows = batch["voxel_coords"][:voxels]
    few |= {key: batch[key][:voxels] for key in ("voxels", "voxel_num_points")}
    few |= {"voxel_coords": rows, "points": batch["points"][:voxels]}
    if "depth_point_mask" in batch:
        few["depth_point_mask"] = torch.zeros(voxels, dtype=torch.bool)
    return few


def numbers(value):
    """Every floating-point tensor inside dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return []
    return [one for part in parts for one in numbers(part)]


@pytest.mark.parametrize("name", CASES)
def test_one_voxel_trains_and_predicts(name):
    model, batch = CASES[name]()
    batch = keep_few(batch, 1)
    model.train()
    out, _, _ = model(dict(batch))
    assert math.isfinite(out["loss"])
    out["loss"].backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    model.eval()
    with torch.no_grad():
        prediction, _ = model(dict(batch))
    assert numbers(prediction)
    assert all(one.isfinite().all() for one in numbers(prediction))


def test_voxels_that_become_one_further_on_train_as_well():
    model, batch = CASES["CenterPoint"]()
    batch = keep_few(batch, 2)
    batch["voxel_coords"] = batch["voxel_coords"].clone()
    batch["voxel_coords"][:, 1:] = torch.tensor([[8.0, 16, 16], [8, 16, 17]])
    out, _, _ = model.train()(batch)
    assert math.isfinite(out["loss"])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("voxels", "lost"), [(46, 2), (54, 10)])
def test_points_in_lost_voxels_alone_are_said(voxels, lost, training):
    """The topmost voxel that is used goes through; those above end in one line."""
    made = dataset((-3.2, -3.2, 0.0), (3.2, 3.2, 0.2 * voxels))
    config = make_config("centerpoint_lidar")
    config.MAP_TO_BEV.NUM_BEV_FEATURES = 256
    model = host.build_network(config, num_class=10, dataset=made)
    backbone = model.backbone_3d.train(training)

    def convolve(level):
        batch = {"voxel_features": torch.rand(1, 5), "batch_size": 1, "frame_id": ["a-token"]}
        batch["voxel_coords"] = torch.tensor([[0, level, 16, 16]])
        return backbone(batch)["encoded_spconv_tensor"].features

    assert len(convolve(voxels - lost - 1)) > 0
    message = rf"\['a-token'\] are among the topmost {lost} of {voxels} along z"
    with pytest.raises(DataError, match=message):
        convolve(voxels - lost)


def test_a_batch_without_a_voxel_is_said():
    model, batch = CASES["CenterPoint"]()
    batch = keep_few(batch, 0) | {"frame_id": ["a-token"]}
    with pytest.raises(DataError, match=r"no voxels in the batch of the frames \['a-token'\]"):
        model.train()(batch)


def test_a_single_row_is_normalised_by_what_was_seen_before_and_changes_nothing():
    norm = accept_single_rows(nn.Sequential(nn.BatchNorm1d(2, eps=1e-12)))[0]
    assert isinstance(norm, RowBatchNorm1d)
    norm.running_mean[:] = torch.tensor([1.0, 2.0])
    norm.running_var[:] = torch.tensor([4.0, 9.0])
    with torch.no_grad():
        norm.weight[:], norm.bias[:] = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    row = torch.tensor([[5.0, 8.0]])
    assert norm(row).tolist() == [pytest.approx([2.0, 5.0])]  # (5 - 1) / 2; 2 (8 - 2) / 3 + 1
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.num_batches_tracked == 0
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert torch.equal(
        norm(rows),
        nn.functional.batch_norm(rows, None, None, norm.weight, norm.bias, True, 0.0, 1e-12),
    )
    assert norm.num_batches_tracked == 1
