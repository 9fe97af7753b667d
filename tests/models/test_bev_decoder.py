"""The BEV decoder against a plain re-computation from its state dict, and its names."""

import pytest
import torch
import torch.nn.functional as F
from easydict import EasyDict

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.bev_decoder import GeneralizedResNetLSSFPN
from tests.models.test_lss_transform import unsettle

CONFIG = {
    "NAME": "GeneralizedResNetLSSFPN",
    "LAYER_NUMS": [2, 1, 2],
    "LAYER_STRIDES": [2, 2, 1],
    "NUM_FILTERS": [5, 6, 8],
    "OUT_CHANNEL": 7,
    "UPSAMPLE_STRIDE": 2,
}


def make_decoder(inputs=4, **changes):
    torch.manual_seed(0)
    decoder = GeneralizedResNetLSSFPN(EasyDict({**CONFIG, **changes}), input_channels=inputs)
    unsettle(decoder)
    return decoder


def normed(maps, state, name, training):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
    scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
    shift = state[f"{name}.bias"] - mean * scale
    return maps * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def enlarged(maps, size):
    """Linear interpolation along y, then x, value by value; corners stay corners."""
    for axis, count in zip((2, 3), size, strict=True):
        lines = []
        for i in range(count):
            position = i * (maps.shape[axis] - 1) / max(count - 1, 1)
            low = min(int(position), maps.shape[axis] - 1)
            high, share = min(low + 1, maps.shape[axis] - 1), position - low
            low, high = maps.select(axis, low), maps.select(axis, high)
            lines.append((1 - share) * low + share * high)
        maps = torch.stack(lines, dim=axis)
    return maps


def recomputed(state, features, config, training):
    """The published decoder with these weights, layer by layer."""
    levels = []
    for level in range(len(config["LAYER_NUMS"])):
        for block in range(config["LAYER_NUMS"][level]):
            name = f"backbone.{level}.{block}"
            stride = config["LAYER_STRIDES"][level] if block == 0 else 1
            out = F.conv2d(features, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = normed(out, state, f"{name}.bn1", training).relu()
            out = F.conv2d(out, state[f"{name}.conv2.weight"], padding=1)
            out = normed(out, state, f"{name}.bn2", training)
            if f"{name}.downsample.0.weight" in state:
                weight = state[f"{name}.downsample.0.weight"]
                features = F.conv2d(features, weight, stride=stride)
                features = normed(features, state, f"{name}.downsample.1", training)
            features = (out + features).relu()
        levels.append(features)
    coarse = enlarged(levels[-1], levels[0].shape[-2:])
    out = torch.cat((coarse, levels[0]), dim=1)  # the coarsest first, as published
    out = normed(F.conv2d(out, state["neck.fuse.0.weight"]), state, "neck.fuse.1", training).relu()
    out = F.conv2d(out, state["neck.fuse.3.weight"], padding=1)
    out = normed(out, state, "neck.fuse.4", training).relu()
    if (stride := config["UPSAMPLE_STRIDE"]) > 1:
        out = enlarged(out, [stride * side for side in out.shape[-2:]])
        out = F.conv2d(out, state["neck.upsample.1.weight"], padding=1)
        out = normed(out, state, "neck.upsample.2", training).relu()
    return out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"UPSAMPLE_STRIDE": 1},
        # The first level keeps grid and channels: its identity has no convolution.
        {"LAYER_STRIDES": [1, 2, 2], "NUM_FILTERS": [4, 6, 8], "UPSAMPLE_STRIDE": 1},
    ],
)
def test_values_and_gradients_are_those_of_a_plain_recomputation(changes, training):
    decoder = make_decoder(**changes).double().train(training)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 12, 8, generator=generator, dtype=torch.float64).requires_grad_()
    state = {name: one.detach().clone() for name, one in decoder.state_dict().items()}
    parameters = dict(decoder.named_parameters())
    for name in parameters:
        state[name].requires_grad_()
    expected = recomputed(state, features, {**CONFIG, **changes}, training)
    found = decoder({"spatial_features": features})["spatial_features_2d"]
    # float64: sums in another order.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert (found > 0).float().mean() > 0.2
    upstream = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    mine = torch.autograd.grad(found, [features, *parameters.values()], upstream)
    theirs = torch.autograd.grad(expected, [features, *(state[n] for n in parameters)], upstream)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


def test_gradients_are_those_of_finite_differences():
    decoder = make_decoder(LAYER_NUMS=[1, 1, 1], NUM_FILTERS=[2, 2, 3], OUT_CHANNEL=2, inputs=2)
    decoder = decoder.double().eval()
    features = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda maps: decoder({"spatial_features": maps})["spatial_features_2d"], features
    )


def test_the_grid_of_the_input_comes_back_at_every_size_that_the_levels_divide():
    decoder = make_decoder().eval()
    assert decoder.num_bev_features == 7
    for rows, columns in ((4, 8), (12, 4), (180, 180)):
        maps = torch.zeros(1, 4, rows, columns)
        with torch.no_grad():
            out = decoder({"spatial_features": maps})["spatial_features_2d"]
        assert out.shape == (1, 7, rows, columns)


def test_parameters_are_bevfusions_behind_the_prefixes_of_its_decoder():
    """Written down from the published layers: levels of two blocks, a pyramid of three."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = set()
    for level in range(3):
        for block in range(2):
            name = f"backbone.{level}.{block}"
            convolutions = {"conv1": "bn1", "conv2": "bn2"}
            if block == 0:
                convolutions["downsample.0"] = "downsample.1"
            for convolution, after in convolutions.items():
                expected |= {f"{name}.{convolution}.weight"}
                expected |= {f"{name}.{after}.{one}" for one in norm}
    for convolution, after in (("fuse.0", "fuse.1"), ("fuse.3", "fuse.4")):
        expected |= {f"neck.{convolution}.weight", *(f"neck.{after}.{one}" for one in norm)}
    expected |= {"neck.upsample.1.weight", *(f"neck.upsample.2.{one}" for one in norm)}
    published = make_decoder(80, LAYER_NUMS=[2, 2, 2], NUM_FILTERS=[160, 320, 640], OUT_CHANNEL=256)
    state = published.state_dict()
    assert set(state) == expected
    assert state["backbone.2.0.conv1.weight"].shape == (640, 320, 3, 3)
    assert state["backbone.2.0.downsample.0.weight"].shape == (640, 320, 1, 1)
    assert state["neck.fuse.0.weight"].shape == (256, 160 + 640, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LAYER_NUMS": [2, 2]}, r"one entry per level, not LAYER_NUMS \[2, 2\], LAYER_STRIDES"),
        ({"LAYER_NUMS": [2]}, r"BACKBONE_2D.LAYER_NUMS must be a list of 2 or more positive int"),
    ],
)
def test_lists_that_do_not_fit_together_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_decoder(**changes)


def test_the_host_builds_it_by_name():
    nsmae_plugin.register()
    assert host.lookup("backbone_2d", "GeneralizedResNetLSSFPN") is GeneralizedResNetLSSFPN
