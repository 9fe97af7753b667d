"""Estimated BatchNorm statistics, and the LiDAR's depth in the place of the network's."""

import pytest
import torch
from easydict import EasyDict
from torch import nn

from nsmae_plugin.experiments.probe.encoders import (
    estimate_statistics,
    lidar_bins,
    with_lidar_depth,
)
from nsmae_plugin.models.view_transform import FactorizedLSSTransform
from tests.models.test_view_transform import CONFIG, FORWARD


def test_statistics_are_the_averages_over_the_batches():
    norm, after = nn.BatchNorm1d(2, momentum=0.3), nn.BatchNorm1d(2)
    network = nn.Sequential(norm, nn.Dropout(0.5), after)
    nn.init.constant_(norm.running_mean, 7.0)
    norm.num_batches_tracked += 100  # of a training
    nn.init.constant_(norm.weight, 2.0)
    batches = [torch.tensor([[0.0, 1.0], [4.0, 3.0]]), torch.tensor([[8.0, 5.0], [10.0, 5.0]])]
    estimate_statistics(network.train(), batches)
    torch.testing.assert_close(norm.running_mean, torch.tensor([5.5, 3.5]))  # of all four rows
    # Unbiased variances of the batches: 8 and 2, 2 and 0.
    torch.testing.assert_close(norm.running_var, torch.tensor([5.0, 1.0]))
    # Each batch leaves the first layer as -2 and 2 (0 and 0 where it does not vary), of variance 8.
    # No dropout: what is dropped would be 0, and what is left doubled.
    torch.testing.assert_close(after.running_var, torch.tensor([8.0, 4.0]), rtol=1e-4, atol=0)
    assert (norm.momentum, after.momentum) == (0.3, 0.1)
    assert not any(one.training for one in (norm, after))
    assert norm.weight.tolist() == [2.0, 2.0]


@pytest.fixture
def view():
    bounds = {"XBOUND": [-8.5, 7.5, 1.0], "ZBOUND": [-10.0, 10.0, 20.0]}
    return FactorizedLSSTransform(EasyDict({**CONFIG, **bounds, "DOWNSAMPLE": 1}))


def one_camera(*points):
    """A camera at the LiDAR that looks along x: u = 12 - 8 y / x, v = 8 - 8 z / x."""
    intrinsics = torch.eye(4)
    intrinsics[:2, :3] = torch.tensor([[8.0, 0, 12.0], [0, 8.0, 8.0]])
    return {
        "points": torch.tensor([[0.0, *point, 0.0] for point in points]).view(-1, 5),
        "camera_imgs": torch.zeros(1, 1, 3, 16, 24),
        "camera_intrinsics": intrinsics.view(1, 1, 4, 4),
        "camera2lidar": FORWARD.view(1, 1, 4, 4),
        "lidar2image": (intrinsics @ torch.linalg.inv(FORWARD)).view(1, 1, 4, 4),
        "img_aug_matrix": torch.eye(4).view(1, 1, 4, 4),
        "lidar_aug_matrix": torch.eye(4).view(1, 4, 4),
    }


def test_depth_of_the_lidar_falls_into_the_bin_around_it(view):
    """Bins of 1 m around 1, 2, ... 6 m; cells of 8 x 8 pixels, 2 rows of 3."""
    batch = one_camera(
        (4.4, 0.1, -0.1),  # u = 11.8, v = 8.2
        (3.0, 0.1, -0.1),  # the same cell, nearer
        (5.6, 5.6, 1.4),  # u = 4, v = 6
        (9.0, -9.0, 2.0),  # u = 20, v = 6.2; behind the last bin
    )
    bins, known = lidar_bins(view, batch)
    assert known.tolist() == [[[True, False, False], [False, True, False]]]
    assert bins[known].tolist() == [5, 2]


def test_lidar_depth_takes_the_place_of_the_distribution_where_it_is_known(view):
    logits = torch.randn(1, 6, 2, 3)
    bins, known = torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 2, 3, dtype=torch.bool)
    bins[0, 1, 2], known[0, 1, 2] = 4, True
    before = logits.softmax(1)
    after = with_lidar_depth(logits, bins, known).softmax(1)
    assert after[0, :, 1, 2].tolist() == [0, 0, 0, 0, 1, 0]
    assert torch.equal(after[..., 0, :], before[..., 0, :])
    assert torch.equal(after[..., 1, :2], before[..., 1, :2])


def test_pooled_features_lie_in_the_cell_of_the_lidar_point(view):
    """One feature of the image is 1, the others 0: what is pooled comes from its ray alone.

    Its pixel is (11.5, 0), so that y = x / 16 on the ray; cells are 1 m, from x = -8.5 and y = -6.
    """
    view.depthnet.weight.data.zero_()
    view.depthnet.bias.data.zero_()
    channels = torch.tensor([1.0, 2.0, 3.0, 4.0])
    view.depthnet.weight.data[6:, 0] = channels.view(4, 1, 1)
    batch = one_camera((4.2, 0.3, 0.2))  # u = 11.4, v = 7.6, depth 4.2: the bin of 4 m
    features = torch.zeros(1, 8, 2, 3)
    features[0, 0, 0, 1] = 1.0
    batch["image_fpn"] = [features]
    plan = view.lift(batch)
    uniform = torch.zeros(4, 16, 12)
    uniform[:, 9:15, 6] = channels.view(4, 1) / 6  # x = 1, ..., 6 m, y < 0.4 m
    torch.testing.assert_close(view.pooled_map(batch, plan)[0], uniform)
    batch["depth_logits"] = with_lidar_depth(batch["depth_logits"], *lidar_bins(view, batch))
    right = torch.zeros(4, 16, 12)
    right[:, 12, 6] = channels
    torch.testing.assert_close(view.pooled_map(batch, plan)[0], right)
