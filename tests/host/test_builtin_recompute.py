"""What is computed again gives the same values and gradients, and is not kept."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nsmae_plugin.host.builtin.modules import recompute
from nsmae_plugin.host.builtin.modules.recompute import attend_windows, gelu_linear
from nsmae_plugin.host.builtin.modules.swin import FeedForward
from nsmae_plugin.host.builtin.modules.window_attention import WindowAttention
from nsmae_plugin.host.builtin.modules.window_partition import partition_windows

CPU = torch.device("cpu")


def kept_bytes(function):
    """Of the tensors that autograd keeps of a call, and its result."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    return sum(one.nbytes() for one in storages.values()), result


def gradients(result, *leaves):
    upstream = torch.linspace(-1, 1, result.numel(), device=result.device).view(result.shape)
    return torch.autograd.grad(result, leaves, upstream.to(result))


@pytest.mark.parametrize("chunk", [1, 5 * 16, 1 << 30])
def test_the_activation_is_exact_and_not_kept(device, chunk, monkeypatch):
    """A row, five rows, or all at a time, of 100 rows with 16 numbers; 1e-12 is roundings."""
    monkeypatch.setattr(recompute, "_HIDDEN_CHUNK", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(2, 50, 16, device=device, dtype=torch.float64, requires_grad=True)
    layer = nn.Linear(16, 4).to(device, torch.float64)
    weights = (layer.weight, layer.bias)
    plain_bytes, plain = kept_bytes(lambda: F.linear(F.gelu(hidden), *weights))
    bytes_, result = kept_bytes(lambda: gelu_linear(hidden, *weights))
    torch.testing.assert_close(result, plain, rtol=0, atol=1e-12)
    for mine, other in zip(
        gradients(result, hidden, *weights), gradients(plain, hidden, *weights), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    assert plain_bytes - bytes_ == hidden.numel() * 8


@pytest.mark.parametrize("chunk", [8, 1 << 30])
def test_gradients_through_the_activation_are_those_of_finite_differences(chunk, monkeypatch):
    monkeypatch.setattr(recompute, "_HIDDEN_CHUNK", chunk)
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in [(2, 3, 4), (5, 4), (5,)]]
    assert torch.autograd.gradcheck(gelu_linear, [one.requires_grad_() for one in inputs])


def test_a_feed_forward_with_dropout_still_drops():
    torch.manual_seed(0)
    layer = FeedForward(4, 400, drop=0.5, path_drop=0.0)
    features = torch.randn(1, 4)
    assert not torch.equal(layer(features, features), layer(features, features))
    layer.eval()
    expected = features + layer.layers(features)
    assert torch.equal(layer(features, features), expected)


def reference(module, tokens, partition):
    """The same module by torch's attention, which this one is also for other devices."""
    qkv = module.qkv(tokens)
    padded = F.pad(qkv, (0, 0, 0, 1))  # a token behind the last one for the padding
    padded = torch.cat((padded[:, :-1], module.qkv.bias.expand(len(qkv), 1, -1)), dim=1)
    index = partition.forth.clone()
    index[partition.padding] = tokens.shape[1]
    attended = module._attend(padded[:, index], partition.mask)
    return module.proj(attended[:, partition.back])


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("chunk", [1, 1 << 30])
def test_attention_gives_the_values_and_gradients_of_torchs_own(shift, chunk, monkeypatch):
    """Images one by one or all at once; maps with padding. float64: 1e-12 is roundings."""
    monkeypatch.setattr(recompute, "_CHUNK", chunk)
    torch.manual_seed(0)
    module = WindowAttention(8, 2, 4, 0.0, 0.0).double()
    nn.init.normal_(module.relative_position_bias_table)
    partition = partition_windows(6, 9, 4, shift, CPU)
    tokens = torch.randn(3, 54, 8, dtype=torch.float64, requires_grad=True)
    leaves = (tokens, *module.parameters())
    expected, result = reference(module, tokens, partition), module(tokens, partition)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    for mine, other in zip(gradients(result, *leaves), gradients(expected, *leaves), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_attention_keeps_only_queries_keys_and_values():
    module = WindowAttention(8, 2, 4, 0.0, 0.0)
    partition = partition_windows(8, 8, 4, 2, CPU)
    qkv = torch.randn(2, 64, 24, requires_grad=True)
    bias = module._bias(None)[0]
    kept, _ = kept_bytes(lambda: attend_windows(qkv, module.qkv.bias, bias, partition, heads=2))
    assert kept == 4 * (qkv.numel() + module.qkv.bias.numel() + bias.numel())


def test_half_precision_attends_in_float32_and_returns_its_own_type():
    """The differences are bfloat16's last digit of inputs and result, three decimal digits."""
    torch.manual_seed(0)
    module = WindowAttention(8, 2, 4, 0.0, 0.0)
    partition = partition_windows(8, 8, 4, 2, CPU)
    tokens = torch.randn(2, 64, 8, requires_grad=True)
    expected = module(tokens, partition)
    with torch.autocast("cpu", torch.bfloat16):
        result = module(tokens, partition)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.02)
    assert gradients(result, tokens)[0].dtype == torch.float32


def test_attention_with_dropout_still_drops():
    module = WindowAttention(8, 2, 4, attention_drop=0.5, output_drop=0.0).train()
    partition = partition_windows(8, 8, 4, 0, CPU)
    tokens = torch.randn(1, 64, 8)
    assert not torch.equal(module(tokens, partition), module(tokens, partition))
    module.eval()
    torch.testing.assert_close(module(tokens, partition), reference(module, tokens, partition))
