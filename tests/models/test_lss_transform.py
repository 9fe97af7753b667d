"""The view transform without LiDAR depth, against the frustum built point by point."""

import pytest
import torch
import torch.nn.functional as F
from easydict import EasyDict

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.models.view_transform import FactorizedLSSTransform
from tests.models.test_view_transform import BINS, CHANNELS, CONFIG, make_batch, pooled_by_loop

LIDAR_KEYS = ("points", "lidar2image")


def make_module(**changes):
    torch.manual_seed(0)
    return FactorizedLSSTransform(model_cfg=EasyDict({**CONFIG, **changes}))


def unsettle(module):
    """Give every BatchNorm weights and statistics that are not those of its first day."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for values in (norm.weight.data, norm.running_var, norm.bias.data):
                values.copy_(torch.rand_like(values) + 0.5)
            norm.running_mean.copy_(0.2 * torch.rand_like(norm.running_mean))


def blind_batch(dtype=torch.float32, **sizes):
    """Cameras alone: nothing of the LiDAR but its frame."""
    batch = {k: v for k, v in make_batch(**sizes).items() if k not in LIDAR_KEYS}
    shift = torch.zeros(4, 4)
    shift[:2, 3] = torch.tensor([1.7, -0.8])
    batch["img_aug_matrix"] = batch["img_aug_matrix"] + shift
    features = [one.to(dtype) for one in batch.pop("image_fpn")]
    return {**{k: v.to(dtype) for k, v in batch.items()}, "image_fpn": features}


def frustum_cells(batch, rounding):
    """(images, D, fH, fW) row of a (B, X, Y) map that each frustum point falls into, or -1."""
    v, u = torch.meshgrid(torch.tensor([0.0, 15.0]), torch.tensor([0.0, 11.5, 23.0]), indexing="ij")
    pixels = torch.stack((u, v, torch.zeros_like(u), torch.ones_like(u)), dim=-1).double()
    cells = []
    for sample, calibration in enumerate(
        zip(batch["img_aug_matrix"], batch["camera_intrinsics"], batch["camera2lidar"], strict=True)
    ):
        for augmentation, intrinsics, pose in zip(*calibration, strict=True):
            raw = pixels @ torch.linalg.inv(augmentation).T
            rays = torch.stack((raw[..., 0], raw[..., 1], torch.ones_like(u).double()), dim=-1)
            rays = rays @ torch.linalg.inv(intrinsics[:3, :3]).T
            for metres in range(1, 1 + BINS):
                points = F.pad(rays * metres, (0, 1), value=1.0)
                points = points @ (batch["lidar_aug_matrix"][sample] @ pose).T
                x, y, z = points[..., 0] + 8, points[..., 1] + 6, (points[..., 2] + 2) / 4
                indices = [
                    getattr(one, "trunc" if rounding == "truncate" else "floor")()
                    for one in (x, y, z)
                ]
                inside = (indices[0] >= 0) & (indices[0] < 16) & (indices[1] >= 0)
                inside &= (indices[1] < 12) & (indices[2] == 0)
                row = (sample * 16 + indices[0]) * 12 + indices[1]
                cells.append(torch.where(inside, row, -1.0).long())
    return torch.stack(cells).view(-1, BINS, 2, 3)


def built_frustum(state, batch, rounding="floor", training=True):
    """BEV, logits and context from a state dict, with all of the frustum in memory."""
    mixed = F.conv2d(batch["image_fpn"][0], state["depthnet.weight"], state["depthnet.bias"])
    logits, context = mixed[:, :BINS], mixed[:, BINS:]
    frustum = logits.softmax(1)[:, None] * context[:, :, None]  # (images, C, D, fH, fW)
    rows = frustum.permute(0, 2, 3, 4, 1).reshape(-1, CHANNELS)
    cells = frustum_cells(batch, rounding).flatten()
    pooled = rows.new_zeros(len(batch["lidar_aug_matrix"]) * 16 * 12, CHANNELS)
    pooled = pooled.index_add(0, cells[cells >= 0], rows[cells >= 0])
    bev = pooled.view(-1, 16, 12, CHANNELS).permute(0, 3, 1, 2)
    for layer, stride in (("0", 1), ("3", 2), ("6", 1)):
        bev = F.conv2d(bev, state[f"downsample.{layer}.weight"], stride=stride, padding=1)
        norm = f"downsample.{int(layer) + 1}"
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        if training:
            mean, var = bev.mean((0, 2, 3)), bev.var((0, 2, 3), correction=0)
        shape = (1, -1, 1, 1)
        bev = (bev - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        bev = bev * state[f"{norm}.weight"].view(shape) + state[f"{norm}.bias"].view(shape)
        bev = bev.relu()
    return bev.transpose(2, 3), logits, context


@pytest.mark.parametrize("rounding", ["floor", "truncate"])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_those_of_a_frustum_in_memory(training, rounding):
    module = make_module(ROUNDING=rounding).double().train(training)
    unsettle(module)
    batch = blind_batch(torch.float64, cameras=5)
    features = batch["image_fpn"][0].requires_grad_()
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    parameters = dict(module.named_parameters())
    for name in parameters:
        state[name].requires_grad_()
    expected = built_frustum(state, batch, rounding, training)
    module(batch)
    found = [batch[k] for k in ("spatial_features_img", "depth_logits", "depth_context")]
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(one.shape, generator=generator).double() for one in expected]
    # float64: sums in another order.
    torch.testing.assert_close(found, list(expected), rtol=1e-9, atol=1e-11)
    assert (found[0] > 0).sum() > 20
    mine = torch.autograd.grad(found, [features, *parameters.values()], upstream)
    theirs = torch.autograd.grad(expected, [features, *(state[n] for n in parameters)], upstream)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_either_kernels_give_the_map_of_a_loop_over_all_frustum_points(kernels, kernel_device):
    module = make_module(KERNELS=kernels, DOWNSAMPLE=1, ROUNDING="floor").to(kernel_device)
    batch = blind_batch()
    on_device = {k: v.to(kernel_device) for k, v in batch.items() if torch.is_tensor(v)}
    on_device["image_fpn"] = [one.to(kernel_device) for one in batch["image_fpn"]]
    module(on_device)["spatial_features_img"].square().sum().backward()
    on_cpu = {k: v.detach().cpu() for k, v in on_device.items() if torch.is_tensor(v)}
    expected = pooled_by_loop(on_cpu).transpose(2, 3)
    assert expected.count_nonzero() > 20
    bev = on_device["spatial_features_img"].detach().cpu()
    assert (bev - expected).abs().max() < 1e-5 * expected.abs().max()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in module.parameters())


def test_gradients_are_those_of_finite_differences():
    module = make_module(DOWNSAMPLE=1).double()
    batch = blind_batch(torch.float64, batch=1, cameras=1)
    features = batch["image_fpn"][0]

    def bev(features, weight, bias):
        state = {"depthnet.weight": weight, "depthnet.bias": bias}
        inputs = ({**batch, "image_fpn": [features]},)
        return torch.func.functional_call(module, state, inputs)["spatial_features_img"]

    leaves = (features, module.depthnet.weight, module.depthnet.bias)
    assert torch.autograd.gradcheck(bev, [one.detach().requires_grad_() for one in leaves])


def test_lidar_in_the_batch_changes_nothing():
    module = make_module().eval()
    seeing = {k: v for k, v in make_batch().items() if k in LIDAR_KEYS} | blind_batch()
    with_points = module(seeing)["spatial_features_img"]
    without = module(blind_batch())["spatial_features_img"]
    assert torch.equal(with_points, without)
    assert module.prepare(blind_batch()).depth is None


def test_checkpoints_hold_the_names_of_bevfusion_and_no_grid():
    state = make_module().state_dict()
    shapes = {name: tuple(one.shape) for name, one in state.items() if "downsample" not in name}
    assert shapes == {
        "depthnet.weight": (BINS + CHANNELS, 8, 1, 1),
        "depthnet.bias": (BINS + CHANNELS,),
    }
    layers = {name.split(".")[1] for name in state if name.startswith("downsample")}
    assert layers == set("013467")
    stock = dict(state) | {"dx": torch.ones(3), "bx": torch.ones(3), "nx": torch.ones(3).long()}
    make_module().load_state_dict({**stock, "frustum": torch.zeros(1)}, strict=True)


def test_features_need_not_be_an_eighth_of_the_image():
    module = make_module(FEATURE_SIZE=[4, 6])
    batch = {**blind_batch(), "image_fpn": [torch.randn(6, 8, 4, 6)]}
    assert module(batch)["depth_logits"].shape == (6, BINS, 4, 6)


def test_the_host_builds_it_by_name():
    nsmae_plugin.register()
    assert host.lookup("vtransform", "FactorizedLSSTransform") is FactorizedLSSTransform
