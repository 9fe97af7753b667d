"""Pooling of lifted features against hand-computed sums, a loop, and numerical gradients."""

import pytest
import torch

from nsmae_plugin.ops.compiled import bev_pool_ext

GRID = {"b": 2, "d": 1, "h": 3, "w": 4}


class Pool(torch.autograd.Function):
    """The two functions put together as OpenPCDet's autograd function does."""

    @staticmethod
    def forward(ctx, x, cells, lengths, starts):
        ctx.save_for_backward(cells, lengths, starts)
        return bev_pool_ext.bev_pool_forward(x, cells, lengths, starts, *GRID.values())

    @staticmethod
    def backward(ctx, gradient):
        cells, lengths, starts = ctx.saved_tensors
        grad = bev_pool_ext.bev_pool_backward(gradient, cells, lengths, starts, *GRID.values())
        return grad, None, None, None


def random_points(count, device="cpu", dtype=torch.float64):
    """Features and cells (row, column, layer, sample) sorted by cell, with their intervals."""
    generator = torch.Generator().manual_seed(3)
    bounds = (GRID["h"], GRID["w"], GRID["d"], GRID["b"])
    cells = torch.stack([torch.randint(n, (count,), generator=generator) for n in bounds], dim=1)
    cells = cells[(cells * torch.tensor([1000, 100, 10, 1])).sum(dim=1).argsort()].int()
    _, lengths = torch.unique_consecutive(cells, dim=0, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64).to(device, dtype)
    return x, cells.to(device), lengths.int().to(device), starts.int().to(device)


def test_each_cell_holds_the_sum_of_its_points(device):
    x = torch.tensor([[1.0, 10], [2, 20], [4, 40]], device=device)
    cells = torch.tensor([[2, 3, 0, 1], [2, 3, 0, 1], [0, 1, 0, 0]], dtype=torch.int32)
    lengths, starts = torch.tensor([2, 1]).int().to(device), torch.tensor([0, 2]).int().to(device)
    out = bev_pool_ext.bev_pool_forward(x, cells.to(device), lengths, starts, **GRID)
    expected = torch.zeros(2, 1, 3, 4, 2)
    expected[1, 0, 2, 3] = torch.tensor([3.0, 30.0])
    expected[0, 0, 0, 1] = torch.tensor([4.0, 40.0])
    assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_matches_a_loop(device, dtype):
    x, cells, lengths, starts = random_points(100, device, dtype)
    expected = torch.zeros(2, 1, 3, 4, 5, dtype=torch.float64)
    for feature, (row, column, layer, sample) in zip(x.cpu().double(), cells.tolist(), strict=True):
        expected[sample, layer, row, column] += feature
    out = bev_pool_ext.bev_pool_forward(x, cells, lengths, starts, **GRID)
    assert out.dtype == dtype
    # sums of at most a dozen numbers of size one
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=tolerance)


def test_gradient_is_numerically_right():
    x, cells, lengths, starts = random_points(30)
    assert torch.autograd.gradcheck(
        lambda features: Pool.apply(features, cells, lengths, starts), x.requires_grad_()
    )


def test_no_point_pools_to_zero(device):
    x, cells, lengths, starts = random_points(0, device)
    out = bev_pool_ext.bev_pool_forward(x, cells, lengths, starts, **GRID)
    assert out.shape == (2, 1, 3, 4, 5)
    assert not out.any()
    grad = bev_pool_ext.bev_pool_backward(out, cells, lengths, starts, **GRID)
    assert grad.shape == (0, 5)
