"""The frustum path alone: lift, BEV pooling, perspective rendering; forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.projection import frustum_pixels, frustum_rays
from nsmae_plugin.models.lift_splat import GEOMETRY_KEYS
from nsmae_plugin.ops.bev_pool import bev_pool, to_rows
from nsmae_plugin.ops.compositing import density_bias
from nsmae_plugin.ops.frustum_render import render_frustum
from nsmae_plugin.ops.kernels import triton_installed
from nsmae_plugin.ops.pooling_plan import PoolingPlan, build_plan, frustum_cells
from tools.benchmarks.inputs import ring_of_cameras
from tools.benchmarks.materialised import (
    MaterialisedPlan,
    lift,
    materialised_plan,
    pool_frustum,
    render_materialised,
)
from tools.benchmarks.measure import measure_calls

VARIANTS = ("factorised", "materialised", "triton")


def variants(device: torch.device) -> tuple[str, ...]:
    """Those that run on the device: the fused kernels need CUDA."""
    fused = device.type == "cuda" and triton_installed()
    return VARIANTS if fused else VARIANTS[:2]


@dataclass(frozen=True)
class Size:
    """Shapes of one problem; lengths in metres, grids square."""

    image: tuple[int, int]
    cameras: int
    channels: int
    depth: tuple[float, float, float]
    bev: tuple[float, float, float]

    @property
    def features(self) -> tuple[int, int]:
        return self.image[0] // 8, self.image[1] // 8

    @property
    def bins(self) -> int:
        return round((self.depth[1] - self.depth[0]) / self.depth[2])


SIZES = {
    "full": Size((256, 704), 6, 80, (1.0, 60.0, 0.5), (-54.0, 54.0, 0.3)),
    "tiny": Size((64, 96), 2, 8, (1.0, 21.0, 1.0), (-16.0, 16.0, 1.0)),
}


@dataclass
class Problem:
    """Inputs, geometry and upstream gradients, the same for all formulations.

    leaves: depth logits (BN, D, fH, fW), context (BN, C, fH, fW), projection (4, C, 1, 1).
    upstream: gradients by the BEV rows (cells, C), rgb (BN, 3, fH, fW), depth and opacity
    (BN, fH, fW).
    """

    leaves: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    upstream: tuple[torch.Tensor, ...]
    cells: torch.Tensor
    num_cells: int
    centres: torch.Tensor
    edges: torch.Tensor
    bias: float


def make_problem(
    size: Size, batch: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Problem:
    """Draw a problem of the given size; seeded."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    grid = BEVGrid.from_bounds({"x": size.bev, "y": size.bev, "z": (-10.0, 10.0, 20.0)})
    images = batch * size.cameras
    centres = size.depth[0] + size.depth[2] * torch.arange(size.bins, dtype=torch.float64)
    edges = torch.cat((centres - size.depth[2] / 2, centres[-1:] + size.depth[2] / 2))
    leaves = (
        2 * randn(images, size.bins, *size.features),
        randn(images, size.channels, *size.features),
        randn(4, size.channels, 1, 1) / size.channels**0.5,
    )
    for leaf in leaves:
        leaf.requires_grad_()
    upstream = (
        randn(batch * grid.num_voxels, size.channels),
        randn(images, 3, *size.features),
        randn(images, *size.features),
        randn(images, *size.features),
    )
    return Problem(
        leaves=leaves,
        upstream=upstream,
        cells=_rig_cells(size, batch, centres.float(), grid).to(device),
        num_cells=batch * grid.num_voxels,
        centres=centres.to(device, dtype),
        edges=edges.to(device, dtype),
        bias=density_bias(size.depth[1] - size.depth[0]),
    )


def _rig_cells(size: Size, batch: int, centres: torch.Tensor, grid: BEVGrid) -> torch.Tensor:
    """(P, D) cells of a ring of cameras."""
    rig = ring_of_cameras(batch, size.cameras, size.image)
    matrices = (rig[key] for key in GEOMETRY_KEYS)
    rays, origins = frustum_rays(frustum_pixels(size.image, size.features), *matrices)
    return frustum_cells(rays, origins, centres, grid)


def factorised(
    problem: Problem, plan: PoolingPlan, kernels: str = "torch"
) -> tuple[torch.Tensor, ...]:
    """BEV rows, colour, depth and opacity, as the model computes them."""
    logits, context, weight = problem.leaves
    bev = bev_pool(to_rows(logits).softmax(1), to_rows(context), plan, kernels)
    raw = F.conv2d(context, weight)
    rendered = render_frustum(logits, raw, problem.centres, problem.edges, problem.bias, kernels)
    return bev, *rendered


def materialised(problem: Problem, plan: MaterialisedPlan) -> tuple[torch.Tensor, ...]:
    """The same through the lifted tensor."""
    logits, context, weight = problem.leaves
    depth = logits.softmax(1)
    frustum = lift(depth, context)
    rendered = render_materialised(
        frustum, depth, weight, problem.centres, problem.edges, problem.bias
    )
    return pool_frustum(frustum, plan), *rendered


def make_step(variant: str, problem: Problem) -> Callable[[], tuple[torch.Tensor, ...]]:
    """A function that runs forward and backward and returns results and gradients."""
    run: Callable[[], tuple[torch.Tensor, ...]]
    if variant == "materialised":
        lifted = materialised_plan(problem.cells, problem.leaves[0].shape, problem.num_cells)
        run = partial(materialised, problem, lifted)
    else:
        plan = build_plan(problem.cells, problem.num_cells)
        run = partial(factorised, problem, plan, "triton" if variant == "triton" else "torch")

    def step() -> tuple[torch.Tensor, ...]:
        results = run()
        gradients = torch.autograd.grad(results, problem.leaves, problem.upstream)
        return (*(result.detach() for result in results), *gradients)

    return step


QUANTITIES = ("bev", "rgb", "depth", "opacity", "logit_grad", "context_grad", "projection_grad")


def largest_differences(size: str, batch: int, device: torch.device) -> dict[str, float]:
    """Largest difference of each result and gradient, relative to the largest value; in float64.

    Between the first formulation and any of the others that run on the device.
    """
    problem = make_problem(SIZES[size], batch, device, torch.float64)
    results = [make_step(variant, problem)() for variant in variants(device)]
    return {
        name: max(((ours - other).abs().max() / other.abs().max()).item() for other in others)
        for name, ours, *others in zip(QUANTITIES, *results, strict=True)
    }


def measure(
    variant: str, size: str, batch: int, device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds and MiB of one formulation."""
    # Once at tiny size, so that code that is loaded at its first use does not count as memory.
    make_step(variant, make_problem(SIZES["tiny"], 1, device))()
    step = make_step(variant, make_problem(SIZES[size], batch, device))
    return measure_calls(step, device, repeats)
