"""Volume rendering along rays: densities on bins to weights, opacity, depth and colour.

(:mod:`nsmae_plugin.ops.frustum_render` evaluates the same weights for cameras, fused.)

With bins ``i = 0 … S-1`` between the edges ``t_0 < … < t_S`` (metres), density ``σ_i`` (1/m)::

    τ_i = σ_i (t_{i+1} - t_i)            optical thickness of the bin
    T_i = exp(-Σ_{j<i} τ_j)              transmittance in front of the bin, T_0 = 1
    w_i = T_i (1 - exp(-τ_i))            share of the ray that ends in the bin
    opacity = Σ_i w_i = 1 - T_S
    depth   = Σ_i w_i (t_i + t_{i+1})/2 + T_S t_S
    colour  = Σ_i w_i c_i               + T_S background

What passes all bins lands on the far edge, in the background's colour. (Max 1995, "Optical models
for direct volume rendering"; NeRF, arXiv 2003.08934, eq. 3.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BACKGROUND = 0.5


class Composited(NamedTuple):
    """Output of :func:`composite`; ``...`` are the ray dimensions."""

    weights: Tensor  # (..., S)
    opacity: Tensor  # (...), in [0, 1]
    depth: Tensor  # (...), metres, between the centre of the first bin and the far edge
    colour: Tensor | None  # (..., K)


def composite(
    density: Tensor, edges: Tensor, colour: Tensor | None = None, background: float = BACKGROUND
) -> Composited:
    """Render rays by the equations at the head of this module.

    In float32 (float64 when ``density`` is), also under autocast; differentiable in both inputs.

    Args:
        density: (..., S) non-negative, 1/m; bins ordered from the eye outwards.
        edges: (S+1,) increasing distances from the eye in metres.
        colour: (..., S, K) colour of each bin.
        background: colour behind the last bin.
    """
    with torch.autocast(density.device.type, enabled=False):
        density = at_least_float32(density)
        edges = edges.to(density)
        thickness = density * edges.diff()
        weights = _RayWeights.apply(thickness)
        total = thickness.sum(-1)
        opacity, remaining = -torch.expm1(-total), torch.exp(-total)
        depth = (weights * bin_centres(edges)).sum(-1) + remaining * edges[-1]
        if colour is not None:
            colour = (weights[..., None] * colour.to(density)).sum(-2)
            colour = colour + background * remaining[..., None]
    return Composited(weights, opacity, depth, colour)


def ray_weights(thickness: Tensor) -> tuple[Tensor, Tensor]:
    """``w_i`` and the transmittance *behind* each bin, ``T_{i+1}``, from ``τ`` of (..., S).

    A running product keeps the relative error of the transmittance near S roundings however opaque
    the ray is, and ``expm1`` the weights of thin bins exact.
    """
    exponent = -thickness
    behind = exponent.exp().cumprod(-1)
    weights = exponent.expm1_().neg_()
    weights[..., 1:] *= behind[..., :-1]
    return weights, behind


def ray_weights_backward(grad_weights: Tensor, weights: Tensor, behind: Tensor) -> Tensor:
    """Gradient by ``τ``, given the gradient by ``w``; all (..., S).

    ``∂L/∂τ_i = g_i T_{i+1} - Σ_{j>i} g_j w_j``, summed from the far end, where terms are tiny.
    """
    grad_thickness = grad_weights * behind
    suffix = (grad_weights * weights).flip(-1).cumsum(-1).flip(-1)
    grad_thickness[..., :-1] -= suffix[..., 1:]
    return grad_thickness


class _RayWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, thickness: Tensor) -> Tensor:
        weights, behind = ray_weights(thickness)
        ctx.save_for_backward(weights, behind)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_weights: Tensor) -> Tensor:
        return ray_weights_backward(grad_weights, *ctx.saved_tensors)


def bin_centres(edges: Tensor) -> Tensor:
    """(S,) middles of the bins between (S+1,) edges."""
    return (edges[:-1] + edges[1:]) / 2


def density_bias(length: float, opacity: float = 0.95) -> float:
    """The ``b`` for which a constant density ``softplus(b)`` over ``length`` metres is so opaque.

    With it all bins of an untrained network have a gradient: no ray is empty or opaque at once.
    """
    return math.log(math.expm1(-math.log1p(-opacity) / length))


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
