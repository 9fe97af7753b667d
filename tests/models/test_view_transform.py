"""The factorised view transform: its BEV, its keys, its configuration errors."""

import math

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.models.view_transform import FactorizedDepthLSSTransform, OneChannelConv2d
from nsmae_plugin.ops import kernels

BINS, CHANNELS = 6, 4
CONFIG = {
    "NAME": "FactorizedDepthLSSTransform",
    "IMAGE_SIZE": [16, 24],
    "FEATURE_SIZE": [2, 3],
    "IN_CHANNEL": 8,
    "OUT_CHANNEL": CHANNELS,
    "XBOUND": [-8.0, 8.0, 1.0],
    "YBOUND": [-6.0, 6.0, 1.0],
    "ZBOUND": [-2.0, 2.0, 4.0],
    "DBOUND": [1.0, 7.0, 1.0],
    "DOWNSAMPLE": 2,
}
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def make_module(**changes) -> FactorizedDepthLSSTransform:
    torch.manual_seed(0)
    return FactorizedDepthLSSTransform(model_cfg=EasyDict({**CONFIG, **changes}))


def turn(angle: float) -> torch.Tensor:
    matrix = torch.eye(4)
    matrix[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return matrix


def make_batch(batch=2, cameras=3, device="cpu") -> dict:
    generator = torch.Generator().manual_seed(3)
    intrinsics = torch.eye(4)
    intrinsics[:2, :3] = torch.tensor([[11.0, 0, 12.3], [0, 11.0, 7.9]])
    camera2lidar = torch.stack([turn(2 * math.pi * n / cameras) @ FORWARD for n in range(cameras)])
    camera2lidar[:, :3, 3] = torch.tensor([0.31, -0.17, 0.23])
    points = torch.rand(300, 5, generator=generator) * 12 - 6
    points[:, 0] = torch.arange(300) % batch
    data = {
        "image_fpn": [torch.randn(batch * cameras, 8, 2, 3, generator=generator)],
        "points": points,
        "camera_intrinsics": intrinsics.expand(batch, cameras, 4, 4),
        "camera2lidar": camera2lidar.expand(batch, cameras, 4, 4),
        "lidar2image": (intrinsics @ torch.linalg.inv(camera2lidar)).expand(batch, cameras, 4, 4),
        "img_aug_matrix": torch.eye(4).expand(batch, cameras, 4, 4),
        "lidar_aug_matrix": torch.stack([turn(0.2 * sample) for sample in range(batch)]),
    }
    moved = {key: value.to(device) for key, value in data.items() if key != "image_fpn"}
    return {**moved, "image_fpn": [feature.to(device) for feature in data["image_fpn"]]}


def pooled_by_loop(batch_dict) -> torch.Tensor:
    """(B, C, X, Y): every frustum point carried to its cell step by step, one after the other."""
    depth = batch_dict["depth_logits"].softmax(1)
    context = batch_dict["depth_context"]
    batch, cameras = batch_dict["camera2lidar"].shape[:2]
    pooled = torch.zeros(batch, CHANNELS, 16, 12)
    corners = [("XBOUND", 16), ("YBOUND", 12), ("ZBOUND", 1)]
    for image in range(batch * cameras):
        sample, camera = divmod(image, cameras)
        inverse_pixel = torch.linalg.inv(batch_dict["img_aug_matrix"][sample, camera])
        inverse_camera = torch.linalg.inv(batch_dict["camera_intrinsics"][sample, camera])
        pose = batch_dict["lidar_aug_matrix"][sample] @ batch_dict["camera2lidar"][sample, camera]
        for row, v in enumerate((0.0, 15.0)):
            for column, u in enumerate((0.0, 11.5, 23.0)):
                raw = inverse_pixel @ torch.tensor([u, v, 0.0, 1.0])
                for bin_ in range(BINS):
                    metres = 1.0 + bin_
                    ray = inverse_camera[:3, :3] @ torch.tensor([raw[0], raw[1], 1.0]) * metres
                    point = pose @ torch.cat((ray, torch.ones(1)))
                    cell = [
                        math.floor((point[axis].item() - CONFIG[key][0]) / CONFIG[key][2])
                        for axis, (key, _) in enumerate(corners)
                    ]
                    if all(0 <= i < n for i, (_, n) in zip(cell, corners, strict=True)):
                        share = depth[image, bin_, row, column] * context[image, :, row, column]
                        pooled[sample, :, cell[0], cell[1]] += share
    return pooled


@pytest.mark.parametrize("cameras", [1, 3, 7])
def test_the_bev_matches_a_loop_over_all_frustum_points(cameras, device):
    module = make_module(ROUNDING="floor").eval().to(device)
    batch_dict = make_batch(cameras=cameras, device=device)
    batch_dict["img_aug_matrix"] = batch_dict["img_aug_matrix"].clone()
    batch_dict["img_aug_matrix"][..., :2, 3] = torch.tensor([1.7, -0.8], device=device)
    with torch.no_grad():
        module(batch_dict)
        pooled = pooled_by_loop(
            {key: value.cpu() for key, value in batch_dict.items() if key != "image_fpn"}
        )
        expected = module.downsample(pooled.to(device)).transpose(2, 3)
    assert pooled.count_nonzero() > 20
    bev = batch_dict["spatial_features_img"]
    assert bev.shape == (2, CHANNELS, 6, 8)
    torch.testing.assert_close(bev, expected, rtol=1e-4, atol=1e-5)


def test_the_factors_are_published_for_the_render_head():
    batch_dict = make_module()(make_batch())
    assert batch_dict["depth_logits"].shape == (6, BINS, 2, 3)
    assert batch_dict["depth_context"].shape == (6, CHANNELS, 2, 3)
    assert batch_dict["depth_logits"].requires_grad


def test_every_parameter_receives_a_gradient():
    module = make_module()
    module(make_batch())["spatial_features_img"].square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_without_downsampling_layers_are_stacked_as_channels():
    module = make_module(DOWNSAMPLE=1, ZBOUND=[-2.0, 2.0, 2.0], ROUNDING="floor").eval()
    flat = make_module(DOWNSAMPLE=1, ROUNDING="floor").eval()
    layers = module(make_batch())["spatial_features_img"]
    whole = flat(make_batch())["spatial_features_img"]
    assert layers.shape == (2, 2 * CHANNELS, 12, 16)
    below, above = layers.split(CHANNELS, dim=1)
    assert below.any()
    assert above.any()
    torch.testing.assert_close(below + above, whole, rtol=1e-5, atol=1e-6)


def test_the_outer_product_is_a_convolution(device):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(1, 5, 1).double().to(device)
    ours = OneChannelConv2d(5).double().to(device)
    ours.load_state_dict(plain.state_dict())
    maps = torch.randn(3, 1, 4, 6, dtype=torch.float64, device=device, requires_grad=True)
    upstream = torch.randn(3, 5, 4, 6, dtype=torch.float64, device=device)

    def run(module):
        result = module(maps)
        return result, *torch.autograd.grad(result, (maps, *module.parameters()), upstream)

    for mine, other in zip(run(ours), run(plain), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_samples_do_not_leak_into_each_other():
    module = make_module().eval()
    reference = module(make_batch())["spatial_features_img"]
    changed = make_batch()
    changed["image_fpn"][0][3:] += 1.0
    changed["points"] = changed["points"].clone()
    changed["points"][1::2, 1:] *= 0.5
    other = module(changed)["spatial_features_img"]
    torch.testing.assert_close(other[0], reference[0])
    assert not torch.allclose(other[1], reference[1])


def test_hidden_points_give_no_hints():
    module = make_module()
    batch_dict = make_batch()
    every_other = torch.arange(300) % 4 < 2
    batch_dict["depth_point_mask"] = every_other
    depth = module.depth_points(batch_dict)
    visible = {**make_batch(), "points": batch_dict["points"][~every_other]}
    assert torch.equal(depth, module.depth_points(visible))
    assert depth.count_nonzero() < module.depth_points(make_batch()).count_nonzero()
    batch_dict["depth_point_mask"] = torch.ones(300, dtype=torch.bool)
    assert not module.depth_points(batch_dict).any()


@pytest.mark.parametrize("points", [None, torch.zeros(0, 5)])
def test_a_batch_without_points_passes(points):
    batch_dict = {**make_batch(), "points": points}
    assert make_module().eval()(batch_dict)["spatial_features_img"].isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_without_a_hint_the_weights_of_hints_do_not_matter(training, device):
    """BatchNorm has forgotten the spread of depth points, and the bias before it has moved on."""
    module = make_module().to(device)
    blind = {k: v for k, v in make_batch(device=device).items() if k != "points"}
    for _ in range(60):  # 0.9^60 of the first running variance remains
        module.train()(dict(blind))
    module.train(training)
    before = module(dict(blind))["depth_logits"]
    with torch.no_grad():
        for parameter in module.dtransform.parameters():
            parameter += 0.1
    after = module(dict(blind))["depth_logits"]
    torch.testing.assert_close(after, before)
    after.sum().backward()
    assert all((p.grad == 0).all() for p in module.dtransform.parameters())
    seeing = module(make_batch(device=device))["depth_logits"]
    assert not torch.allclose(seeing, after, atol=1e-3)


def test_the_batch_is_left_as_it_was():
    batch_dict = make_batch()
    before = {key: value.clone() for key, value in batch_dict.items() if key != "image_fpn"}
    make_module()(batch_dict)
    for key, value in before.items():
        assert torch.equal(batch_dict[key], value), key


def test_the_plan_is_kept_until_a_matrix_changes():
    module = make_module()
    batch_dict = make_batch()
    first = module.plan(batch_dict)
    assert module.plan({**make_batch()}) is first
    batch_dict["lidar_aug_matrix"][0] = turn(1e-3)  # in place: the module must hold its own copy
    second = module.plan(batch_dict)
    assert second is not first
    assert not torch.equal(second.pixel_cells, first.pixel_cells) or not torch.equal(
        second.pixel_pairs, first.pixel_pairs
    )


def test_another_batch_size_gets_another_plan():
    module = make_module().eval()
    for size in (2, 1, 3):
        assert len(module(make_batch(batch=size))["spatial_features_img"]) == size


def test_bf16_autocast_pools_in_float32():
    module = make_module()
    batch_dict = make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        module(batch_dict)
    assert batch_dict["depth_logits"].dtype == torch.float32
    assert batch_dict["spatial_features_img"].isfinite().all()


def test_checkpoints_hold_openpcdet_names_and_no_grid():
    state = make_module().state_dict()
    assert {key.split(".")[0] for key in state} == {"dtransform", "depthnet", "downsample"}
    assert state["dtransform.3.weight"].shape == (32, 8, 5, 5)
    assert state["depthnet.0.weight"].shape == (8, 8 + 64, 3, 3)
    assert state["depthnet.6.weight"].shape == (BINS + CHANNELS, 8, 1, 1)
    assert state["downsample.3.weight"].shape == (CHANNELS, CHANNELS, 3, 3)
    assert "downsample.0.bias" not in state
    assert "depthnet.0.bias" in state


def test_the_grid_of_a_stock_checkpoint_is_ignored():
    module = make_module()
    stock = dict(module.state_dict())
    stock |= {"dx": torch.ones(3), "bx": torch.ones(3), "nx": torch.ones(3).long()}
    stock["frustum"] = torch.zeros(BINS, 2, 3, 3)
    module.load_state_dict(stock, strict=True)
    assert set(stock) >= {"dx", "bx", "nx", "frustum"}  # the caller's dict is not edited
    assert module.grid.size == (16, 12, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"XBOUND": [-8.0, 8.0, 0.9]}, "VTRANSFORM.XBOUND"),
        ({"DBOUND": [1.0, 60.0, 0.7]}, "VTRANSFORM.DBOUND"),
        ({"FEATURE_SIZE": [4, 6]}, "FEATURE_SIZE.*IMAGE_SIZE"),
        ({"ROUNDING": "nearest"}, "ROUNDING"),
        ({"KERNELS": "tritn"}, "VTRANSFORM.KERNELS must be torch or triton, not 'tritn'"),
        ({"DOWNSAMPLE": 4}, "DOWNSAMPLE"),
        ({"ZBOUND": [-2.0, 2.0, 1.0]}, "ZBOUND.*DOWNSAMPLE"),
    ],
)
def test_a_configuration_that_cannot_work_is_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_module(**changes)


def test_kernels_that_need_triton_are_refused_without_it(monkeypatch):
    monkeypatch.setattr(kernels, "triton_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"Triton is not installed: install .*KERNELS to 'torch'"):
        make_module(KERNELS="triton")
    assert make_module(KERNELS="torch").kernels == "torch"


@pytest.mark.parametrize(
    ("kernels", "function"), [("torch", "_BevPoolBackward"), ("triton", "FusedBevPoolBackward")]
)
def test_either_kernels_give_the_map_of_the_loop_reference(kernels, function, kernel_device):
    module = make_module(KERNELS=kernels, DOWNSAMPLE=1, ROUNDING="floor").eval().to(kernel_device)
    batch_dict = module(make_batch(device=kernel_device))
    pooled = module.pool(batch_dict, module.plan(batch_dict))
    assert pooled.grad_fn.name() == function
    on_cpu = {key: value.cpu() for key, value in batch_dict.items() if torch.is_tensor(value)}
    expected = pooled_by_loop(on_cpu).transpose(2, 3)
    difference = batch_dict["spatial_features_img"].cpu() - expected
    assert difference.abs().max() < 1e-5 * expected.abs().max()


def test_features_of_another_size_name_the_keys():
    batch_dict = make_batch()
    batch_dict["image_fpn"] = [torch.zeros(6, 8, 4, 6)]
    with pytest.raises(ConfigError, match=r"FEATURE_SIZE.*IMAGE_SIZE.*FINAL_DIM"):
        make_module()(batch_dict)


def test_images_that_the_calibration_does_not_know_are_an_error():
    batch_dict = make_batch()
    batch_dict["image_fpn"] = [torch.zeros(5, 8, 2, 3)]
    with pytest.raises(DataError, match=r"5 maps.*2 samples"):
        make_module()(batch_dict)
