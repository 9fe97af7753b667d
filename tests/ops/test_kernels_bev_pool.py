"""The fused pooling kernels against the PyTorch formulation, which has references of its own.

Without a CUDA device they run in Triton's interpreter: the numbers of a program, not its speed.
"""

from types import SimpleNamespace

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.ops.bev_pool import bev_pool
from nsmae_plugin.ops.pooling_plan import build_plan, frustum_cells
from tests.ops.test_bev_pool import random_factors, values_and_gradients


def assert_same_as_torch(depth, context, plan, weight, tolerance=1e-12):
    """Values and both gradients; 1e-12 of float64 is the order of a few hundred sums."""
    fused, expected = (
        values_and_gradients(
            lambda d, c, k=kernels: bev_pool(d, c, plan, k), depth, context, weight
        )
        for kernels in ("triton", "torch")
    )
    for one, other in zip(fused, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("pixels", "bins", "channels", "num_cells"),
    [
        (1, 1, 1, 1),
        (37, 11, 6, 1),  # 407 pairs at most in one cell: many tiles, the last not full
        (37, 11, 17, 7),  # several bins of a pixel share a cell
        (20, 45, 80, 60),  # more pairs of a pixel than a tile has
        (7, 5, 130, 90),  # most cells empty
    ],
)
def test_kernels_equal_the_torch_formulation(pixels, bins, channels, num_cells, kernel_device):
    depth, context, cells = random_factors(pixels, bins, channels, num_cells, kernel_device)
    weight = torch.randn(num_cells, channels, dtype=torch.float64).to(kernel_device)
    plan = build_plan(cells, num_cells)
    assert_same_as_torch(depth, context, plan, weight)


def test_float32_sums_differ_by_their_order_only(kernel_device):
    """1e-5 of values of order ten: sums of some hundred float32 products."""
    factors = random_factors(40, 9, 24, 5, kernel_device)
    depth, context = (x.detach().float().requires_grad_() for x in factors[:2])
    plan = build_plan(factors[2], 5)
    assert bev_pool(depth, context, plan, "triton").dtype == torch.float32
    assert_same_as_torch(depth, context, plan, 1.0, tolerance=1e-5)


def test_a_hand_computed_example(kernel_device):
    """Pixel 0 names cell 2 twice, pixel 1 once, pixel 2 no cell; nothing falls into cell 1."""
    depth = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    context = torch.tensor([[4.0, 1.0], [8.0, 2.0], [3.0, 3.0]])
    cells = torch.tensor([[0, 2, 2], [2, -1, -1], [-1, -1, -1]], dtype=torch.int32)
    depth, context = (x.to(kernel_device).requires_grad_() for x in (depth, context))
    pooled = bev_pool(depth, context, build_plan(cells.to(kernel_device), 3), "triton")
    assert pooled.tolist() == [[1.0, 0.25], [0.0, 0.0], [7.0, 1.75]]
    upstream = torch.tensor([[1.0, 0.0], [5.0, 5.0], [10.0, 100.0]]).to(kernel_device)
    grad_depth, grad_context = torch.autograd.grad(pooled, (depth, context), upstream)
    assert grad_depth.tolist() == [[4.0, 140.0, 140.0], [280.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert grad_context.tolist() == [[7.75, 75.0], [5.0, 50.0], [0.0, 0.0]]


def test_a_grid_that_no_pair_enters_gives_zeros_and_zero_gradients(kernel_device):
    depth, context, cells = random_factors(4, 3, 2, 5, kernel_device, outside=2.0)
    pooled = bev_pool(depth, context, build_plan(cells, 5), "triton")
    assert pooled.shape == (5, 2)
    assert not pooled.any()
    gradients = torch.autograd.grad(pooled.sum(), (depth, context))
    assert all(not gradient.any() for gradient in gradients)


def test_several_layers_along_z_are_cells_like_others(kernel_device):
    grid = BEVGrid((-2.0, 2.0, 1.0), (-1.0, 1.0, 0.5), (-1.0, 1.0, 0.5))
    generator = torch.Generator().manual_seed(0)
    rays = torch.randn(2, 3, 10, 3, generator=generator)
    depths = torch.arange(0.5, 3.0, 0.5)
    cells = frustum_cells(rays, torch.zeros(2, 3, 3), depths, grid).to(kernel_device)
    assert len((cells[cells >= 0] % 4).unique()) == 4
    depth, context, _ = random_factors(60, 5, 6, 1, kernel_device)
    weight = torch.randn(128, 6, generator=generator, dtype=torch.float64).to(kernel_device)
    assert_same_as_torch(depth, context, build_plan(cells, 128), weight)


def test_inputs_and_gradients_need_not_be_contiguous(kernel_device):
    depth, context, cells = random_factors(12, 5, 8, 6, kernel_device)
    depth = depth.detach().t().contiguous().t().requires_grad_()
    context = context.detach().repeat(1, 2)[:, ::2].requires_grad_()
    weight = torch.randn(8, 6, dtype=torch.float64).to(kernel_device).t()
    assert not any(x.is_contiguous() for x in (depth, context, weight))
    assert_same_as_torch(depth, context, build_plan(cells, 6), weight)


def test_gradients_agree_with_finite_differences(kernel_device):
    depth, context, cells = random_factors(3, 4, 2, 5, kernel_device)
    plan = build_plan(cells, 5)
    assert torch.autograd.gradcheck(lambda d, c: bev_pool(d, c, plan, "triton"), (depth, context))


def test_repeated_runs_are_identical_to_the_bit(kernel_device):
    depth, context, cells = random_factors(30, 20, 8, 9, kernel_device)
    depth, context = (x.detach().float().requires_grad_() for x in (depth, context))

    def run():
        plan = build_plan(cells, 9)
        return values_and_gradients(lambda d, c: bev_pool(d, c, plan, "triton"), depth, context, 1)

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_only_the_gradient_that_is_asked_for_is_given(kernel_device):
    depth, context, cells = random_factors(5, 4, 3, 6, kernel_device)
    bev_pool(depth.detach(), context, build_plan(cells, 6), "triton").sum().backward()
    assert context.grad is not None
    assert depth.grad is None


def test_cells_with_the_most_pairs_come_first():
    cells = torch.tensor([[3, 1, 3], [3, 1, -1], [0, -1, -1]], dtype=torch.int32)
    order = build_plan(cells, 5).longest_cells_first
    assert order.dtype == torch.int32
    assert order.tolist() == [3, 1, 0, 2, 4]


def test_tensors_on_the_cpu_are_refused_with_the_remedy(monkeypatch):
    pytest.importorskip("triton")
    from nsmae_plugin.ops.kernels import launch

    # What a kernel is outside the interpreter.
    monkeypatch.setattr(launch, "triton", SimpleNamespace(JITFunction=object))
    depth, context, cells = random_factors(2, 3, 2, 4, "cpu")
    with pytest.raises(ConfigError, match=r"not on cpu: set MODEL.VTRANSFORM.KERNELS to 'torch'"):
        bev_pool(depth, context, build_plan(cells, 4), "triton")
