"""The sparse backbone against dense convolutions, and its edge cases."""

import pytest
import torch
import torch.nn.functional as F
from easydict import EasyDict

from nsmae_plugin.host.builtin.modules.backbone_3d import ResidualBlock, VoxelResBackBone8x, spconv

GRID_SIZE = [16, 8, 40]  # x, y, z


def make_backbone(**config) -> VoxelResBackBone8x:
    torch.manual_seed(0)
    return VoxelResBackBone8x(EasyDict(config), input_channels=2, grid_size=GRID_SIZE)


def make_batch(cells, device="cpu") -> dict:
    coordinates = torch.tensor(cells, dtype=torch.float32, device=device)
    features = torch.linspace(-1, 1, 2 * len(cells), device=device).view(-1, 2)
    return {"voxel_features": features, "voxel_coords": coordinates, "batch_size": 2}


CELLS = [(0, 0, 0, 0), (0, 1, 1, 1), (0, 39, 7, 15), (1, 20, 4, 9), (1, 20, 4, 8), (1, 3, 0, 2)]


def dense_submanifold(conv, volume, active):
    """A submanifold convolution as a dense one whose output is kept at active voxels only."""
    out = F.conv3d(volume, conv.weight.permute(0, 4, 1, 2, 3), conv.bias, padding=1)
    return out * active


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_residual_block_matches_dense_convolutions(bias, training):
    torch.manual_seed(0)
    block = ResidualBlock(3, bias, indice_key="key").train(training)
    size = (4, 5, 6)
    cells = torch.randperm(120)[:40]
    indices = torch.stack((torch.zeros(40), *torch.unravel_index(cells, size)), dim=1).int()
    features = torch.randn(40, 3, requires_grad=True)
    out = block(spconv.SparseConvTensor(features, indices, list(size), batch_size=1))

    at = indices.long().unbind(1)
    active = torch.zeros(1, 1, *size)
    active[at[0], 0, at[1], at[2], at[3]] = 1
    dense_features = features.detach().clone().requires_grad_()

    def to_dense(rows):
        return torch.zeros(1, *size, 3).index_put(at, rows).permute(0, 4, 1, 2, 3)

    def rows_of(volume):
        return volume[at[0], :, at[1], at[2], at[3]]

    hidden = rows_of(dense_submanifold(block.conv1, to_dense(dense_features), active))
    hidden = F.batch_norm(hidden, *statistics(block.bn1), training=training, eps=1e-3).relu()
    hidden = rows_of(dense_submanifold(block.conv2, to_dense(hidden), active))
    hidden = F.batch_norm(hidden, *statistics(block.bn2), training=training, eps=1e-3)
    expected = (hidden + dense_features).relu()
    torch.testing.assert_close(out.features, expected, atol=1e-5, rtol=1e-5)
    out.features.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(features.grad, dense_features.grad, atol=1e-4, rtol=1e-4)


def statistics(norm):
    """Of the state before the pass that is compared: those of a fresh norm."""
    zeros, ones = torch.zeros(norm.num_features), torch.ones(norm.num_features)
    return zeros, ones, norm.weight.detach(), norm.bias.detach()


def test_the_volume_shrinks_to_two_levels_an_eighth_of_the_plane(device):
    batch = make_backbone().to(device)(make_batch(CELLS, device))
    encoded = batch["encoded_spconv_tensor"]
    assert list(encoded.spatial_shape) == [2, 1, 2]  # z, y, x
    assert (encoded.batch_size, encoded.features.shape[1]) == (2, 128)
    assert batch["encoded_spconv_tensor_stride"] == 8
    scales, strides = batch["multi_scale_3d_features"], batch["multi_scale_3d_strides"]
    channels = make_backbone().backbone_channels
    assert list(scales) == list(strides) == list(channels)
    for name, volume in scales.items():
        assert volume.features.shape[1] == channels[name]
        assert list(volume.spatial_shape[1:]) == [8 // strides[name], 16 // strides[name]]


def test_samples_do_not_leak_into_each_other():
    backbone = make_backbone().eval()
    together = backbone(make_batch(CELLS))["encoded_spconv_tensor"].dense()
    batch = make_batch(CELLS)
    keep = batch["voxel_coords"][:, 0] == 0
    alone = {"voxel_features": batch["voxel_features"][keep], "batch_size": 1}
    alone["voxel_coords"] = batch["voxel_coords"][keep]
    dense = backbone(alone)["encoded_spconv_tensor"].dense()
    torch.testing.assert_close(together[:1], dense, atol=1e-6, rtol=1e-5)


def test_the_order_of_the_voxels_does_not_matter():
    backbone = make_backbone().eval()
    batch, order = make_batch(CELLS), [5, 0, 3, 1, 4, 2]
    shuffled = {key: batch[key][order] for key in ("voxel_features", "voxel_coords")}
    dense = [
        backbone(one)["encoded_spconv_tensor"].dense()
        for one in (batch, shuffled | {"batch_size": 2})
    ]
    torch.testing.assert_close(*dense, atol=1e-6, rtol=1e-5)


def test_a_sample_without_voxels_stays_empty():
    batch = make_backbone().eval()(make_batch(CELLS[:3]))
    dense = batch["encoded_spconv_tensor"].dense()
    assert dense.shape[0] == 2
    assert dense[0].any()
    assert not dense[1].any()


def test_neighbours_are_searched_once_per_resolution():
    encoded = make_backbone()(make_batch(CELLS))["encoded_spconv_tensor"]
    downwards = {"spconv2", "spconv3", "spconv4", "spconv_down2"}
    assert set(encoded.indice_dict) == downwards | {"res1", "res2", "res3", "res4"}


@pytest.mark.parametrize(("config", "biased"), [({}, True), ({"USE_BIAS": False}, False)])
def test_only_residual_convolutions_take_a_bias(config, biased):
    names = [name for name, _ in make_backbone(**config).named_parameters() if "bias" in name]
    convolutions = [name for name in names if ".conv1." in name or ".conv2." in name]
    assert len(convolutions) == (16 if biased else 0)
