"""Convolution, norm and ReLU: what the layers compute, and the names of their parameters."""

from functools import partial

import pytest
import torch
from torch import nn

from nsmae_plugin.ops.conv_block import ConvBlock, conv_block


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_layers_convolve_normalise_and_cut_off_below_zero(kernel):
    torch.manual_seed(0)
    norm = partial(nn.BatchNorm2d, eps=1e-9)
    block = nn.Sequential(*conv_block(2, 3, kernel, bias=True, norm=norm))
    maps = torch.randn(4, 2, 8, 6)
    result = block(maps)
    raw = block[0](maps)
    assert raw.shape == (4, 3, 8, 6)
    variance, mean = torch.var_mean(raw, dim=(0, 2, 3), correction=0, keepdim=True)
    expected = ((raw - mean) / variance.sqrt()).clamp(min=0)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_a_stride_halves_the_map():
    block = nn.Sequential(*conv_block(1, 1, 3, stride=2))
    assert block(torch.zeros(1, 1, 8, 6)).shape == (1, 1, 4, 3)


def test_the_module_computes_the_same_under_openpcdets_names():
    layers, block = nn.Sequential(*conv_block(2, 3, 3)), ConvBlock(2, 3, 3)
    assert [name for name, _ in block.named_parameters()] == ["conv.weight", "bn.weight", "bn.bias"]
    block.conv.load_state_dict(layers[0].state_dict())
    maps = torch.randn(4, 2, 8, 6)
    torch.testing.assert_close(block(maps), layers(maps), rtol=0, atol=0)
