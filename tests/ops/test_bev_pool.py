"""Factorised BEV pooling against the materialised frustum, and the assignment of cells."""

import pytest
import torch

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.ops import bev_pool as module
from nsmae_plugin.ops.bev_pool import bev_pool, to_rows
from nsmae_plugin.ops.pooling_plan import build_plan, frustum_cells

GRID = BEVGrid((-2.0, 2.0, 1.0), (-1.0, 1.0, 0.5), (-1.0, 1.0, 2.0))


def materialised(depth, context, cells, num_cells):
    """The published formulation: build pixels x bins x channels, keep what is inside, add it up."""
    lifted = depth.unsqueeze(2) * context.unsqueeze(1)
    inside = cells >= 0
    pooled = context.new_zeros(num_cells, context.shape[1])
    return pooled.index_add(0, cells[inside].long(), lifted[inside])


def random_factors(pixels, bins, channels, num_cells, device, outside=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(pixels, bins, generator=generator, dtype=torch.float64)
    context = torch.randn(pixels, channels, generator=generator, dtype=torch.float64)
    cells = torch.randint(num_cells, (pixels, bins), generator=generator, dtype=torch.int32)
    cells[torch.rand(pixels, bins, generator=generator) < outside] = -1
    return (
        depth.to(device).requires_grad_(),
        context.to(device).requires_grad_(),
        cells.to(device),
    )


def values_and_gradients(pool, depth, context, weight):
    pooled = pool(depth, context)
    return pooled.detach(), *torch.autograd.grad((pooled * weight).sum(), (depth, context))


@pytest.mark.parametrize("num_cells", [1, 7, 400])
def test_pooling_equals_the_materialised_frustum(num_cells, device):
    """One cell takes all, several bins of a pixel share cells, most cells empty: sums to 1e-12.

    With fewer cells than bins there are more pairs than pixels x cells.
    """
    depth, context, cells = random_factors(50, 11, 6, num_cells, device)
    weight = torch.randn(num_cells, 6, dtype=torch.float64).to(device)
    plan = build_plan(cells, num_cells)
    ours = values_and_gradients(lambda d, c: bev_pool(d, c, plan), depth, context, weight)
    theirs = values_and_gradients(
        lambda d, c: materialised(d, c, cells, num_cells), depth, context, weight
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences(device):
    depth, context, cells = random_factors(5, 4, 3, 6, device)
    plan = build_plan(cells, 6)
    assert torch.autograd.gradcheck(lambda d, c: bev_pool(d, c, plan), (depth, context))


def test_a_hand_computed_example():
    """Two pixels, two bins, three cells: cell 0 gets 0.25 * 4, cell 2 gets 0.75 * 4 + 0.5 * 8."""
    depth = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    context = torch.tensor([[4.0], [8.0]])
    plan = build_plan(torch.tensor([[0, 2], [2, -1]], dtype=torch.int32), 3)
    assert bev_pool(depth, context, plan).tolist() == [[1.0], [0.0], [7.0]]


def test_a_grid_that_no_pair_enters_gives_zeros_and_zero_gradients(device):
    depth, context, cells = random_factors(4, 3, 2, 5, device, outside=2.0)
    pooled = bev_pool(depth, context, build_plan(cells, 5))
    assert pooled.shape == (5, 2)
    assert not pooled.any()
    gradients = torch.autograd.grad(pooled.sum(), (depth, context))
    assert all(not gradient.any() for gradient in gradients)


def test_repeated_runs_are_identical_to_the_bit(device):
    depth, context, cells = random_factors(300, 20, 8, 9, device)
    depth, context = (x.detach().float().requires_grad_() for x in (depth, context))
    runs = []
    for _ in range(3):
        plan = build_plan(cells, 9)
        runs.append(values_and_gradients(lambda d, c, p=plan: bev_pool(d, c, p), depth, context, 1))
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


def test_gathered_and_sampled_products_agree(monkeypatch):
    """The CUDA path, run on the CPU in chunks that do not divide the number of pairs."""
    _, context, cells = random_factors(40, 9, 6, 7, "cpu")
    plan = build_plan(cells, 7)
    grad = torch.randn(7, 6, dtype=torch.float64)
    monkeypatch.setattr(module, "GATHER_CHUNK", 17)
    gathered = module._gathered_products(context.detach(), grad, plan)
    sampled = module._sampled_products(context.detach(), grad, plan)
    torch.testing.assert_close(gathered, sampled, rtol=1e-12, atol=1e-12)


def test_only_the_gradient_that_is_asked_for_is_computed():
    depth, context, cells = random_factors(5, 4, 3, 6, "cpu")
    plan = build_plan(cells, 6)
    bev_pool(depth.detach(), context, plan).sum().backward()
    assert context.grad is not None
    assert depth.grad is None


def test_rows_are_pixels_in_reading_order():
    maps = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    rows = to_rows(maps)
    assert rows.shape == (8, 3)
    assert torch.equal(rows[1 * 4 + 1 * 2 + 0], maps[1, :, 1, 0])


def cells_by_loop(rays, origins, depths, grid, rounding):
    """Point by point in Python, with the stock order of operations."""
    cells = torch.empty(*rays.shape[:3], len(depths), dtype=torch.int32)
    for sample, camera, pixel in torch.cartesian_prod(*map(torch.arange, rays.shape[:3])).tolist():
        for bin_, depth in enumerate(depths.tolist()):
            point = origins[sample, camera] + rays[sample, camera, pixel] * depth
            index = []
            for axis in range(3):
                position = ((point[axis] - grid.lower[axis]) / grid.step[axis]).item()
                index.append(int(position) if rounding == "truncate" else int(position // 1))
            inside = all(0 <= i < n for i, n in zip(index, grid.size, strict=True))
            x, y, z = index
            row = ((sample * grid.size[0] + x) * grid.size[1] + y) * grid.size[2] + z
            cells[sample, camera, pixel, bin_] = row if inside else -1
    return cells.flatten(0, 2)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rounding", ["floor", "truncate"])
def test_cells_agree_with_the_loop_reference(rounding, layers, device):
    grid = BEVGrid((-2.0, 2.0, 1.0), (-1.0, 1.0, 0.5), (-1.0, 1.0, 2.0 / layers))
    generator = torch.Generator().manual_seed(0)
    rays = torch.randn(2, 3, 10, 3, generator=generator, dtype=torch.float64)
    origins = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    depths = torch.arange(0.5, 3.0, 0.5, dtype=torch.float64)
    cells = frustum_cells(rays.to(device), origins.to(device), depths.to(device), grid, rounding)
    expected = cells_by_loop(rays, origins, depths, grid, rounding)
    assert (expected < 0).any()
    assert torch.equal(cells.cpu(), expected)


def cell_of(point, rounding):
    """Cell of one point, as the ray of a single pixel at depth 1."""
    rays = torch.tensor(point).view(1, 1, 1, 3)
    return frustum_cells(rays, torch.zeros(1, 1, 3), torch.ones(1), GRID, rounding).item()


def test_truncation_folds_the_cell_below_into_the_first():
    below = [-2.5, 0.0, 0.0]  # half a cell below the lower x face
    assert cell_of(below, "truncate") == 2
    assert cell_of(below, "floor") == -1
    assert cell_of([-3.0, 0.0, 0.0], "truncate") == -1  # a whole cell below


def test_faces_belong_to_the_cell_above_them():
    assert cell_of([-2.0, -1.0, -1.0], "floor") == 0
    assert cell_of([1.99, 0.99, 0.99], "floor") == 15
    assert cell_of([2.0, 0.0, 0.0], "floor") == -1


@pytest.mark.parametrize("rounding", ["floor", "truncate"])
def test_points_that_are_not_finite_or_far_away_fall_into_no_cell(rounding):
    for value in (float("nan"), float("inf"), float("-inf"), 1e30, -1e30):
        assert cell_of([value, 0.0, 0.0], rounding) == -1
