"""Perspective rendering of the factorised frustum, without building the frustum.

The lift of the view transform gives every pixel a distribution ``p`` over ``D`` depth bins (softmax
of logits) and a context vector. What the frustum holds in a bin is their product, and a 1×1
projection commutes with it: ``W (p_d · context) = p_d · (W context)``. So only the projected
context (3 colour channels, 1 density channel a pixel) is needed, never the (D, C) frustum of a
pixel::

    c_d = sigmoid(D p_d · raw_rgb)
    σ_d = D p_d · softplus(raw_density + bias)

rendered as in :mod:`nsmae_plugin.ops.compositing`. The factor D makes the uniform distribution
a gain of one.

The published density ``relu(p_d · raw_density)`` equals ``p_d · relu(raw_density)``, as ``p_d`` is
never negative: the sign is one number per pixel, and half of all rays start empty and without
gradient. Softplus in the place of that ReLU keeps every ray alive. (Softplus *around* the product
would not do: where ``p_d = 0`` a fog of ``softplus(bias)`` would remain that no network can lift,
and no ray could end far away.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsmae_plugin.ops.compositing import (
    BACKGROUND,
    at_least_float32,
    ray_weights,
    ray_weights_backward,
)

_CPU_CHUNK = 1 << 20  # elements; measured: smaller is overhead, larger falls out of the caches


def render_frustum(
    depth_logits: Tensor,
    raw_features: Tensor,
    centres: Tensor,
    edges: Tensor,
    density_bias: float,
    kernels: str = "torch",
) -> tuple[Tensor, Tensor, Tensor]:
    """Render colour, depth and opacity of every pixel of the feature grid.

    Computed in float32 (float64 when ``depth_logits`` is), also under autocast. Nothing of the size
    of the frustum is kept for the backward pass except ``depth_logits`` itself.

    Args:
        depth_logits: (BN, D, H, W), before the softmax over D.
        raw_features: (BN, 4, H, W) projected context: red, green, blue, density.
        centres: (D,) where the bins sit, metres along the camera's z axis.
        edges: (D+1,) their boundaries.
        density_bias: see :func:`nsmae_plugin.ops.compositing.density_bias`.
        kernels: 'torch', or 'triton' for those of
            :mod:`nsmae_plugin.ops.kernels.rendering`.

    Returns:
        ``rgb`` (BN, 3, H, W) in [0, 1], ``depth`` (BN, H, W) in metres, ``opacity`` (BN, H, W).
    """
    with torch.autocast(depth_logits.device.type, enabled=False):
        depth_logits = at_least_float32(depth_logits)
        raw_features = raw_features.to(depth_logits.dtype)
        density = F.softplus(raw_features[:, 3:] + density_bias)
        coefficients = depth_logits.shape[1] * torch.cat([raw_features[:, :3], density], dim=1)
        return _function(kernels).apply(
            depth_logits, coefficients, centres.to(depth_logits), edges.to(depth_logits)
        )


def _function(kernels: str) -> type[torch.autograd.Function]:
    if kernels == "triton":
        from nsmae_plugin.ops.kernels.rendering import FusedRenderFrustum

        return FusedRenderFrustum
    return _RenderFrustum


class _RenderFrustum(torch.autograd.Function):
    """``c_d = sigmoid(p_d k_c)`` and ``σ_d = p_d k_3``, with the coefficients ``k`` (BN, 4, H, W).

    The temporaries have the bins last and live for one chunk of images.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, coefficients: Tensor, centres: Tensor, edges: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(logits, coefficients, centres, edges)
        rgb = torch.empty_like(coefficients[:, :3], memory_format=torch.contiguous_format)
        depth, opacity = torch.empty_like(rgb[:, 0]), torch.empty_like(rgb[:, 0])
        for part in _chunks(logits):
            prob = _softmax_last(logits[part])
            scale = coefficients[part, ..., None]
            thickness = (prob * scale[:, 3]).mul_(edges.diff())
            opacity[part] = -torch.expm1(-thickness.sum(-1))
            weights, behind = ray_weights(thickness)
            remaining = behind[..., -1]
            depth[part] = (weights * centres).sum(-1) + edges[-1] * remaining
            for c in range(3):
                colour = (prob * scale[:, c]).sigmoid_()
                rgb[part, c] = colour.mul_(weights).sum(-1) + BACKGROUND * remaining
        return rgb, depth, opacity

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rgb: Tensor, grad_depth: Tensor, grad_opacity: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, coefficients, centres, edges = ctx.saved_tensors
        grad_logits, grad_coefficients = torch.empty_like(logits), torch.empty_like(coefficients)
        # T_S = 1 - Σ w: what lies behind the bins becomes an offset of the weights' gradient.
        grad_offset = grad_opacity - BACKGROUND * grad_rgb.sum(1)
        for part in _chunks(logits):
            grad_weights = torch.addcmul(
                grad_offset[part, ..., None], grad_depth[part, ..., None], centres - edges[-1]
            )
            grad_logits[part], grad_coefficients[part] = _backward_chunk(
                logits[part], coefficients[part], edges.diff(), grad_rgb[part], grad_weights
            )
        return grad_logits, grad_coefficients, None, None


def _backward_chunk(
    logits: Tensor, coefficients: Tensor, widths: Tensor, grad_rgb: Tensor, grad_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients by logits and coefficients; ``grad_weights`` (n, H, W, D) is overwritten."""
    prob = _softmax_last(logits)
    scale, upstream = coefficients[..., None], grad_rgb[..., None]
    weights, behind = ray_weights((prob * scale[:, 3]).mul_(widths))
    grad_prob = torch.zeros_like(prob)
    grad_coefficients = torch.empty_like(coefficients)
    for c in range(3):
        colour = (prob * scale[:, c]).sigmoid_()
        grad_weights.addcmul_(colour, upstream[:, c])
        grad_raw = torch.ops.aten.sigmoid_backward(weights * upstream[:, c], colour)
        grad_prob.addcmul_(grad_raw, scale[:, c])
        grad_coefficients[:, c] = grad_raw.mul_(prob).sum(-1)
    grad_density = ray_weights_backward(grad_weights, weights, behind).mul_(widths)
    grad_prob.addcmul_(grad_density, scale[:, 3])
    grad_coefficients[:, 3] = grad_density.mul_(prob).sum(-1)
    # Σ p ∂L/∂p of the softmax, known from the sums per pixel: one pass over the bins less.
    expected = (coefficients * grad_coefficients).sum(1)
    grad_logits = grad_prob.sub_(expected[..., None]).mul_(prob)
    return grad_logits.movedim(-1, 1), grad_coefficients


def _chunks(logits: Tensor) -> list[slice]:
    """Slices of images: on a CPU the temporaries of a chunk should stay in its caches."""
    images, elements = len(logits), max(1, logits.shape[1:].numel())
    step = max(1, _CPU_CHUNK // elements) if logits.device.type == "cpu" else images
    return [slice(start, start + step) for start in range(0, images, step)]


def _softmax_last(logits: Tensor) -> Tensor:
    """(n, D, H, W) logits to (n, H, W, D) probabilities."""
    return logits.movedim(1, -1).softmax(-1)
