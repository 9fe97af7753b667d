"""The small built-in modules, on numbers computed by hand."""

import pytest
import spconv.pytorch as spconv
import torch
from easydict import EasyDict
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.builtin import lookup


def identity_norms(module: nn.Module) -> nn.Module:
    """In evaluation mode a fresh batch norm only divides by sqrt(1 + eps); take that away too."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.0
    return module.eval()


def test_a_voxel_is_the_mean_of_its_points(device):
    voxels = torch.zeros(3, 2, 4, device=device)
    voxels[0, 0] = torch.tensor([1.0, 2, 3, 4])
    voxels[0, 1] = torch.tensor([3.0, 2, 5, 0])
    voxels[1, 0] = torch.tensor([5.0, 6, 7, 8])
    vfe = lookup("vfe", "MeanVFE")(EasyDict(), num_point_features=4)
    counts = torch.tensor([2.0, 1, 0], device=device)
    batch = vfe({"voxels": voxels, "voxel_num_points": counts})
    expected = [[2.0, 2, 4, 2], [5, 6, 7, 8], [0, 0, 0, 0]]  # an empty voxel is no division by zero
    assert batch["voxel_features"].tolist() == expected
    assert vfe.get_output_feature_dim() == 4


def test_heights_become_channels_within_each_feature(device):
    indices = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2], [1, 1, 0, 0]], dtype=torch.int32)
    features = torch.tensor([[1.0, 10], [2, 20], [3, 30]], device=device, requires_grad=True)
    sparse = spconv.SparseConvTensor(features, indices.to(device), [2, 2, 3], batch_size=2)
    compress = lookup("map_to_bev", "HeightCompression")(EasyDict(NUM_BEV_FEATURES=4))
    batch = compress({"encoded_spconv_tensor": sparse, "encoded_spconv_tensor_stride": 8})
    bev = batch["spatial_features"]
    assert bev.shape == (2, 4, 2, 3)
    assert bev[0, :, 1, 2].tolist() == [1, 2, 10, 20]  # channel 0 at z 0 and 1, then channel 1
    assert bev[1, :, 0, 0].tolist() == [0, 3, 0, 30]
    assert bev.count_nonzero() == 6
    assert batch["spatial_features_stride"] == 8
    bev.backward(torch.full_like(bev, 5.0))
    assert features.grad.tolist() == [[5, 5]] * 3


def test_the_fuser_reads_the_camera_first():
    fuser = lookup("fuser", "ConvFuser")(EasyDict(IN_CHANNEL=3, OUT_CHANNEL=2))
    identity_norms(fuser)
    weight = torch.zeros(2, 3, 3, 3)
    weight[0, 0, 1, 1] = 1.0  # output 0: the camera's only channel
    weight[1, 2, 1, 1] = -1.0  # output 1: minus the second LiDAR channel, so ReLU makes it 0
    fuser.conv[0].weight.data = weight
    camera, lidar = torch.full((1, 1, 2, 2), 4.0), torch.full((1, 2, 2, 2), 9.0)
    batch = fuser({"spatial_features_img": camera, "spatial_features": lidar})
    assert batch["spatial_features"][0].flatten(1).tolist() == [[4.0] * 4, [0.0] * 4]


def make_fpn(**changes):
    cfg = {"IN_CHANNELS": [1, 1, 1], "OUT_CHANNELS": 1, "NUM_OUTS": 3}
    return lookup("neck", "GeneralizedLSSFPN")(
        EasyDict({**cfg, "START_LEVEL": 0, "END_LEVEL": -1, **changes})
    )


def test_the_pyramid_adds_up_from_coarse_to_fine():
    """With weights of one, each output is its level plus everything coarser, upsampled."""
    fpn = identity_norms(make_fpn())
    for lateral, smooth in zip(fpn.lateral_convs, fpn.fpn_convs, strict=True):
        nn.init.ones_(lateral.conv.weight)
        nn.init.dirac_(smooth.conv.weight)
    levels = [torch.full((2, 1, 8 // 2**i, 4 // 2**i), 10.0**i) for i in range(3)]
    fine, middle = fpn({"image_features": levels})["image_fpn"]
    assert (fine.shape, middle.shape) == ((2, 1, 8, 4), (2, 1, 4, 2))
    assert torch.equal(fine, torch.full_like(fine, 111.0))
    assert torch.equal(middle, torch.full_like(middle, 110.0))


def test_the_pyramid_leaves_its_input_as_it_was():
    fpn = make_fpn()
    levels = [torch.rand(2, 1, 8 // 2**i, 4 // 2**i) for i in range(3)]
    copies = [level.clone() for level in levels]
    fpn({"image_features": levels})
    assert len(levels) == 3
    assert all(torch.equal(*pair) for pair in zip(levels, copies, strict=True))


def make_backbone(**changes):
    cfg = {
        "LAYER_NUMS": [0, 1],
        "LAYER_STRIDES": [1, 2],
        "NUM_FILTERS": [1, 1],
        "UPSAMPLE_STRIDES": [1, 2],
        "NUM_UPSAMPLE_FILTERS": [1, 1],
    }
    return lookup("backbone_2d", "BaseBEVBackbone")(EasyDict({**cfg, **changes}), input_channels=1)


def test_levels_are_brought_to_one_resolution_and_concatenated():
    """Kernels that pick the centre: level 0 is the map, level 1 every second cell, doubled."""
    backbone = identity_norms(make_backbone())
    for module in backbone.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
    bev = torch.arange(16.0).view(1, 1, 4, 4)
    merged = backbone({"spatial_features": bev})["spatial_features_2d"]
    assert torch.equal(merged[0, 0], bev[0, 0])
    coarse = torch.tensor([[0.0, 2], [8, 10]])
    assert torch.equal(merged[0, 1], coarse.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert backbone.num_bev_features == 2


def test_without_upsampling_the_levels_are_the_output():
    backbone = make_backbone(LAYER_STRIDES=[1, 1], UPSAMPLE_STRIDES=[], NUM_UPSAMPLE_FILTERS=[])
    merged = backbone({"spatial_features": torch.rand(2, 1, 4, 4)})["spatial_features_2d"]
    assert merged.shape == (2, backbone.num_bev_features, 4, 4) == (2, 2, 4, 4)


def test_a_way_back_for_some_levels_is_refused():
    with pytest.raises(ConfigError, match="takes no or 2 UPSAMPLE_STRIDES, one per level, not 1"):
        make_backbone(UPSAMPLE_STRIDES=[1], NUM_UPSAMPLE_FILTERS=[1])
