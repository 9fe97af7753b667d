"""A device compared with the CPU: every operation, and a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from nsmae_plugin import host
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.depth_map import image_returns, z_buffer
from nsmae_plugin.geometry.projection import frustum_pixels, frustum_rays
from nsmae_plugin.models.lift_splat import GEOMETRY_KEYS
from nsmae_plugin.ops.bev_pool import bev_pool, to_rows
from nsmae_plugin.ops.compositing import composite
from nsmae_plugin.ops.frustum_render import render_frustum
from nsmae_plugin.ops.pooling_plan import build_plan, frustum_cells
from tools.benchmarks import frustum
from tools.benchmarks.inputs import made_up_batch, ring_of_cameras, scan, stack_samples
from tools.benchmarks.step import build_model

CPU = torch.device("cpu")
# Relative to the norm of the CPU's result. Operations differ by the order of float32 sums. A step
# goes through some fifty layers, and a frustum point on a cell's face may change its cell.
OPERATION_TOLERANCE = 1e-5
STEP_TOLERANCE = 1e-2

Tensors = dict[str, torch.Tensor]


def operation_differences(device: torch.device, size: str = "full") -> dict[str, float]:
    """Relative L2 difference between ``device`` and the CPU, of values and gradients."""
    problem_size = frustum.SIZES[size]
    operations: dict[str, Callable[[torch.device], Tensors]] = {
        "bev_pool": lambda place: _pooling(problem_size, place),
        "render_frustum": lambda place: _rendering(problem_size, place),
        "composite": _compositing,
        "frustum_cells": lambda place: _cells(problem_size, place),
        "lidar_depth_map": lambda place: _depth_maps(problem_size, place),
    }
    if "triton" in frustum.variants(device):
        kernels = {CPU: "torch", device: "triton"}
        operations |= {
            "fused bev_pool": lambda place: _pooling(problem_size, place, kernels[place]),
            "fused render_frustum": lambda place: _rendering(problem_size, place, kernels[place]),
        }
    differences = {}
    for name, run in operations.items():
        expected, actual = run(CPU), run(device)
        for part, value in expected.items():
            differences[f"{name} {part}"] = _difference(value, actual[part].cpu())
    return differences


def step_differences(config: Any, device: torch.device, batch_size: int = 1) -> dict[str, float]:
    """The same for the loss terms and for the gradient of every slot, from equal weights."""
    expected, actual = (_training_step(config, place, batch_size) for place in (CPU, device))
    return {name: _difference(value, actual[name].cpu()) for name, value in expected.items()}


def _difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    scale = expected.double().norm().clamp(min=1e-30)
    return ((actual.double() - expected.double()).norm() / scale).item()


def _pooling(size: frustum.Size, device: torch.device, kernels: str = "torch") -> Tensors:
    problem = frustum.make_problem(size, 1, device)
    logits, context, _ = problem.leaves
    plan = build_plan(problem.cells, problem.num_cells)
    pooled = bev_pool(to_rows(logits).softmax(1), to_rows(context), plan, kernels)
    gradients = torch.autograd.grad(pooled, (logits, context), problem.upstream[0])
    return {"value": pooled, "logit gradient": gradients[0], "context gradient": gradients[1]}


def _rendering(size: frustum.Size, device: torch.device, kernels: str = "torch") -> Tensors:
    problem = frustum.make_problem(size, 1, device)
    logits, context, weight = problem.leaves
    raw = F.conv2d(context.detach(), weight.detach()).requires_grad_()
    rendered = render_frustum(logits, raw, problem.centres, problem.edges, problem.bias, kernels)
    gradients = torch.autograd.grad(rendered, (logits, raw), problem.upstream[1:])
    names = ("colour", "depth", "opacity", "logit gradient", "feature gradient")
    return dict(zip(names, (*rendered, *gradients), strict=True))


def _compositing(device: torch.device) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(32400, 41, generator=generator).to(device).requires_grad_()
    edges = 0.2 * torch.arange(42.0, device=device)
    rendered = composite(density, edges)
    results = (rendered.depth, rendered.opacity)
    upstream = [torch.ones_like(result) for result in results]
    (gradient,) = torch.autograd.grad(results, density, upstream)
    return {"depth": rendered.depth, "opacity": rendered.opacity, "gradient": gradient}


def _cells(size: frustum.Size, device: torch.device) -> Tensors:
    """In float64, as the next: no point lies so near to a face that it changes its cell."""
    rig = ring_of_cameras(1, size.cameras, size.image, device)
    pixels = frustum_pixels(size.image, size.features).double().to(device)
    rays, origins = frustum_rays(pixels, *(rig[key] for key in GEOMETRY_KEYS))
    depths = torch.arange(size.bins, dtype=torch.float64, device=device) + size.depth[0]
    grid = BEVGrid.from_bounds({"x": size.bev, "y": size.bev, "z": (-10.0, 10.0, 20.0)})
    return {"value": frustum_cells(rays, origins, depths, grid)}


def _depth_maps(size: frustum.Size, device: torch.device) -> Tensors:
    rig = ring_of_cameras(1, size.cameras, size.image, device)
    keys = ("lidar2image", "img_aug_matrix", "lidar_aug_matrix")
    extent = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
    points = torch.from_numpy(stack_samples([scan(1, extent, np.random.default_rng(0))])).double()
    returns = image_returns(points.to(device), *(rig[key] for key in keys), size.image)
    depth, valid = z_buffer(returns, size.cameras, size.image, stride=8)
    return {"depth": depth, "mask": valid}


def without_dropout(config: Any) -> Any:
    """A copy: what is dropped is drawn on the device and would differ."""
    config = copy.deepcopy(config)
    if config.MODEL.get("IMAGE_BACKBONE") is not None:
        rates = ("DROP_PATH_RATE", "DROP_RATE", "ATTN_DROP_RATE")
        config.MODEL.IMAGE_BACKBONE.update(dict.fromkeys(rates, 0.0))
    return config


def _training_step(config: Any, device: torch.device, batch_size: int) -> Tensors:
    model = build_model(without_dropout(config)).to(device)
    result, terms, _ = model(host.to_device(made_up_batch(config, batch_size), device))
    result["loss"].backward()
    values = {name: torch.as_tensor(value) for name, value in terms.items()}
    gradients: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(name.split(".")[0], []).append(parameter.grad.flatten())
    return values | {f"{slot} gradient": torch.cat(parts) for slot, parts in gradients.items()}
