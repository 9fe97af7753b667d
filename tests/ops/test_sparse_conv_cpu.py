"""Sparse convolutions on the CPU against dense ones, against spconv, and against themselves."""

import pytest
import spconv.pytorch as spconv
import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.ops import sparse_conv_cpu, spconv_cpu
from tools.benchmarks.sparse import spconv_alone

spconv_cpu.apply()

SHAPE = (7, 6, 9)
BATCH = 3


def make_cells(count: int = 150, seed: int = 0) -> torch.Tensor:
    """(count, 4) b, z, y, x in random order, of the first and the last of three samples."""
    generator = torch.Generator().manual_seed(seed)
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    places = torch.randperm(2 * size, generator=generator)[:count]
    zyx = torch.unravel_index(places % size, SHAPE)
    return torch.stack((places // size * 2, *zyx), dim=1)


def make_conv(kind: str, channels=(5, 4), seed: int = 0, dtype=torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    kernel, options = KINDS[kind]
    layer = spconv.SubMConv3d if kind.startswith("submanifold") else spconv.SparseConv3d
    conv = layer(*channels, kernel, bias=True, indice_key="key", **options)
    nn.init.normal_(conv.bias)
    return conv.to(dtype)


KINDS = {
    "submanifold": (3, {"padding": 1}),
    "submanifold, flat": ((1, 3, 5), {"padding": (0, 1, 2)}),
    "submanifold, dilated": (3, {"padding": 2, "dilation": 2}),
    "strided": (3, {"padding": 1, "stride": 2}),
    "strided in height": ((3, 1, 1), {"stride": (2, 1, 1)}),
    "even": (2, {"stride": 2}),
    "dense": (3, {"padding": 1}),
}


def to_volume(rows: torch.Tensor, cells: torch.Tensor, shape=SHAPE) -> torch.Tensor:
    """(BATCH, C, z, y, x), zero where no cell is."""
    volume = rows.new_zeros(BATCH, *shape, rows.shape[1])
    return volume.index_put(cells.long().unbind(1), rows).permute(0, 4, 1, 2, 3)


def of_volume(volume: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    b, z, y, x = cells.long().unbind(1)
    return volume[b, :, z, y, x]


def convolve(conv: nn.Module, features: torch.Tensor, cells: torch.Tensor):
    return conv(spconv.SparseConvTensor(features, cells.int(), list(SHAPE), BATCH))


def dense_convolution(conv: nn.Module, features, cells, out_cells) -> torch.Tensor:
    """Rows of the dense convolution of the dense volume."""
    weight = conv.weight.permute(0, 4, 1, 2, 3)
    volume = to_volume(features, cells)
    out = F.conv3d(volume, weight, conv.bias, conv.stride, conv.padding, conv.dilation)
    return of_volume(out, out_cells)


def gradients(out: torch.Tensor, wanted) -> list[torch.Tensor]:
    """By features and parameters, of a sum with fixed random weights."""
    generator = torch.Generator().manual_seed(1)
    slopes = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return list(torch.autograd.grad((out * slopes).sum(), wanted))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_a_dense_convolution(kind, training):
    conv, cells = make_conv(kind).train(training), make_cells()
    features = torch.randn(len(cells), 5, dtype=torch.float64, requires_grad=True)
    result = convolve(conv, features, cells)
    expected = dense_convolution(conv, features, cells, result.indices)
    expect_equal(result.features, expected, [features, *conv.parameters()])


@pytest.mark.parametrize("kind", ["strided", "strided in height", "even"])
def test_an_inverse_convolution_is_a_dense_transposed_one(kind):
    conv, cells = make_conv(kind), make_cells()
    inverse = spconv.SparseInverseConv3d(4, 6, conv.kernel_size, indice_key="key").double()
    coarse = convolve(conv, torch.randn(len(cells), 5, dtype=torch.float64), cells)
    features = coarse.features.detach().requires_grad_()
    result = inverse(coarse.replace_feature(features))
    assert torch.equal(result.indices, cells.int())
    volume = to_volume(features, coarse.indices, coarse.spatial_shape)
    weight = inverse.weight.permute(4, 0, 1, 2, 3)
    place = (conv.stride, conv.padding)
    left_over = torch.tensor(SHAPE) - torch.tensor(
        F.conv_transpose3d(volume, weight, None, *place).shape[2:]
    )
    out = F.conv_transpose3d(volume, weight, inverse.bias, *place, left_over.tolist())
    expect_equal(result.features, of_volume(out, cells), [features, *inverse.parameters()])


def expect_equal(result, expected, wanted, **tolerance) -> None:
    torch.testing.assert_close(result, expected, **tolerance)
    pairs = zip(gradients(result, wanted), gradients(expected, wanted), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_gradients_are_those_of_finite_differences(kind):
    conv, cells = make_conv(kind, channels=(2, 2)), make_cells(20)
    features = torch.randn(len(cells), 2, dtype=torch.float64, requires_grad=True)

    def forward(features, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        out = torch.func.functional_call(conv, parameters, (tensor.replace_feature(features),))
        return out.features

    tensor = spconv.SparseConvTensor(features, cells.int(), list(SHAPE), BATCH)
    assert torch.autograd.gradcheck(forward, (features, conv.weight, conv.bias))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [(3, 16), (64, 80)])
def test_single_precision_gives_the_result_of_spconv(kind, channels):
    """To the rounding of a sum of at most 80 x 27 products, in another order."""
    conv, cells = make_conv(kind, channels, dtype=torch.float32), make_cells(500)
    features = torch.randn(len(cells), channels[0], requires_grad=True)
    result = convolve(conv, features, cells)
    wanted = [features, *conv.parameters()]
    with spconv_alone():
        theirs = convolve(conv, features, cells)
        _, order = torch.unique(theirs.indices, dim=0, return_inverse=True)
        if kind.startswith("submanifold"):
            order = torch.arange(len(cells))
        expected = torch.empty_like(theirs.features).index_copy(0, order, theirs.features)
        assert torch.equal(result.indices[order], theirs.indices)
        expect_equal(result.features, expected, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7])
def test_blocks_of_rows_do_not_change_the_result(monkeypatch, rows):
    """One of 64 channels is large enough for oneDNN, and blocks of few rows are not."""
    conv, cells = make_conv("strided", (64, 64), dtype=torch.float32), make_cells(600)
    features = torch.randn(len(cells), 64, requires_grad=True)
    whole = convolve(conv, features, cells).features
    monkeypatch.setattr(sparse_conv_cpu, "_BLOCK", 64 * rows)
    pieces = convolve(conv, features, cells).features
    expect_equal(pieces, whole, [features, conv.weight], rtol=1e-5, atol=1e-4)


def test_blocks_have_few_sizes_and_little_padding():
    """oneDNN compiles every size anew."""
    sizes = {count: sparse_conv_cpu._padded(count) for count in range(1, 8192)}
    assert all(count < size <= 1.125 * count + 32 for count, size in sizes.items())
    assert len({size for count, size in sizes.items() if count >= 512}) <= 4 * 8 + 1
    assert not any(size % 1024 == 0 for size in sizes.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_voxel(kind):
    conv = make_conv(kind)
    cells, features = torch.tensor([[1, 4, 2, 6]]), torch.ones(1, 5, dtype=torch.float64)
    result = convolve(conv, features, cells)
    expected = dense_convolution(conv, features, cells, result.indices)
    expect_equal(result.features, expected, [conv.weight, conv.bias])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_result_is_the_same_bit_for_bit_every_time(threads):
    conv, cells = make_conv("strided", (32, 64), dtype=torch.float32), make_cells(600)
    features = torch.randn(len(cells), 32, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = [convolve(conv, features, cells).features for _ in range(5)]
        slopes = [gradients(out, [features, *conv.parameters()]) for out in results]
    finally:
        torch.set_num_threads(before)
    for out, found in zip(results, slopes, strict=True):
        assert torch.equal(out, results[0])
        assert all(map(torch.equal, found, slopes[0]))


def test_features_without_a_gradient_still_train_the_weights():
    conv, cells = make_conv("submanifold"), make_cells()
    features = torch.randn(len(cells), 5, dtype=torch.float64)
    conv.bias.requires_grad_(False)
    convolve(conv, features, cells).features.sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert conv.bias.grad is None
    frozen, features = conv.requires_grad_(False), features.requires_grad_()
    convolve(frozen, features, cells).features.sum().backward()
    assert features.grad.abs().sum() > 0


def test_nothing_is_kept_without_gradients():
    conv, cells = make_conv("submanifold"), make_cells()
    with torch.no_grad():
        out = convolve(conv, torch.randn(len(cells), 5, dtype=torch.float64), cells).features
    assert not out.requires_grad


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_features_are_summed_in_float32(half):
    conv, cells = make_conv("submanifold", dtype=torch.float32), make_cells()
    features = torch.randn(len(cells), 5).to(half)
    result = convolve(conv, features, cells).features
    assert result.dtype == torch.float32
    assert torch.equal(result, convolve(conv, features.float(), cells).features)
    both = convolve(conv.to(half), features, cells).features
    assert both.dtype == half
    # Weights and result are rounded to 8 (bfloat16) or 11 bits.
    torch.testing.assert_close(both.float(), result, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("supported", [True, False])
def test_products_are_made_in_bfloat16_where_the_processor_can(monkeypatch, supported):
    monkeypatch.setattr(sparse_conv_cpu, "multiplies_bfloat16", lambda: supported)
    conv, cells = make_conv("submanifold", (32, 32), dtype=torch.float32), make_cells(500)
    features = torch.randn(len(cells), 32, requires_grad=True)
    expected = convolve(conv, features, cells).features
    with sparse_conv_cpu.bfloat16_products(True):
        result = convolve(conv, features, cells).features
    assert result.dtype == torch.float32
    assert torch.equal(result, expected) == (not supported)
    # Factors of 8 bits change a sum by about 2**-9 of its root mean square.
    wanted = [features, *conv.parameters()]
    ours, theirs = gradients(result, wanted), gradients(expected, wanted)
    for one, other in zip([result, *ours], [expected, *theirs], strict=True):
        assert (one - other).norm() <= 0.01 * other.norm()
    assert torch.equal(convolve(conv, features, cells).features, expected)
