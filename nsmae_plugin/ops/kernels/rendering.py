"""Perspective rendering as two kernels, forward and backward.

Arguments, results and formulas as :mod:`nsmae_plugin.ops.frustum_render`. A program holds all
bins of a few pixels at once, (BINS, PIXELS), so that it reads each logit once and no step along a
ray waits for memory; what accumulates along the ray is a scan of this tile. Computed in the type of
the logits, float32 or float64.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsmae_plugin.ops.compositing import BACKGROUND
from nsmae_plugin.ops.kernels.launch import launch

TILE = 2048  # bins x pixels of a program
FEWEST_PIXELS, MOST_PIXELS = 8, 64  # of a program; eight are a sector of memory
SERIES_TERMS = {torch.float32: 7, torch.float64: 13}


@triton.jit
def _product_before(before_a, a, before_b, b):
    """Join two stretches of bins: the product of all but the last one, and the last."""
    return before_a * a * before_b, b


@triton.jit
def _sum_before(before_a, a, before_b, b):
    """As :func:`_product_before`, the sum."""
    return before_a + a + before_b, b


@triton.jit
def _one_minus_exp(x, TERMS: tl.constexpr):
    """``1 - exp(-x)`` for x >= 0, exact also where it is nearly x: Triton has no ``expm1``.

    By its series below 0.35, where the difference would lose more than two bits. What the series
    leaves out is less than 2e-8 of the result with 7 terms, 2e-17 with 13.
    """
    small = tl.minimum(x, 0.35)
    series = 1.0 - small * (1.0 / TERMS)
    for k in tl.static_range(TERMS - 1, 1, -1):
        series = 1.0 - small * (1.0 / k) * series
    return tl.where(x < 0.35, small * series, 1.0 - tl.exp(-x))


@triton.jit
def _tile(num_bins, num_pixels, BINS: tl.constexpr, PIXELS: tl.constexpr):
    """Bins (BINS, 1) and pixels (1, PIXELS) of this program, and which of them exist."""
    bins = tl.arange(0, BINS)[:, None]
    pixels = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[None, :]
    return bins, pixels, bins < num_bins, pixels < num_pixels


@triton.jit
def _probabilities(pointers, is_bin, is_pixel):
    """Softmax over the bins, (BINS, PIXELS); 0 where there is no bin."""
    logits = tl.load(pointers, mask=is_bin & is_pixel, other=0.0)
    logits = tl.where(is_bin, logits, -float("inf"))
    powers = tl.exp(logits - tl.max(logits, axis=0, keep_dims=True))
    return powers / tl.sum(powers, axis=0, keep_dims=True)


@triton.jit
def _ray_weights(thickness, TERMS: tl.constexpr):
    """``w_i``, and the transmittance behind each bin, ``T_{i+1}``; both (BINS, PIXELS)."""
    passed = tl.exp(-thickness)
    ones = tl.full(passed.shape, 1.0, passed.dtype)
    in_front, _ = tl.associative_scan((ones, passed), 0, _product_before)
    return in_front * _one_minus_exp(thickness, TERMS), in_front * passed


@triton.jit
def _widths(edges, bins, is_bin):
    near = tl.load(edges + bins, mask=is_bin, other=0.0)
    return tl.load(edges + bins + 1, mask=is_bin, other=0.0) - near


@triton.jit
def _render(
    logits,
    coefficients,
    centres,
    edges,
    rgb,
    depth,
    opacity,
    num_bins,
    num_pixels,
    image_stride,
    bin_stride,
    pixel_stride,
    BACKGROUND: tl.constexpr,
    TERMS: tl.constexpr,
    BINS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One program per tile of pixels of an image."""
    image = tl.program_id(1).to(tl.int64)
    bins, pixels, is_bin, is_pixel = _tile(num_bins, num_pixels, BINS, PIXELS)
    own = logits + image * image_stride + bins * bin_stride + pixels * pixel_stride
    prob = _probabilities(own, is_bin, is_pixel)
    scales = coefficients + image * 4 * num_pixels + pixels
    scale = tl.load(scales + 3 * num_pixels, mask=is_pixel, other=0.0)
    thickness = prob * scale * _widths(edges, bins, is_bin)
    weights, _ = _ray_weights(thickness, TERMS)
    total = tl.sum(thickness, axis=0, keep_dims=True)
    remaining = tl.exp(-total)
    centre = tl.load(centres + bins, mask=is_bin, other=0.0)
    distance = tl.sum(weights * centre, axis=0, keep_dims=True)
    distance += tl.load(edges + num_bins) * remaining
    place = image * num_pixels + pixels
    tl.store(depth + place, distance, mask=is_pixel)
    tl.store(opacity + place, _one_minus_exp(total, TERMS), mask=is_pixel)
    colours = rgb + image * 3 * num_pixels + pixels
    for c in tl.static_range(3):
        scale = tl.load(scales + c * num_pixels, mask=is_pixel, other=0.0)
        colour = tl.sum(weights * tl.sigmoid(prob * scale), axis=0, keep_dims=True)
        tl.store(colours + c * num_pixels, colour + BACKGROUND * remaining, mask=is_pixel)


@triton.jit
def _render_backward(
    logits,
    coefficients,
    centres,
    edges,
    grad_rgb,
    grad_depth,
    grad_opacity,
    grad_logits,
    grad_coefficients,
    num_bins,
    num_pixels,
    image_stride,
    bin_stride,
    pixel_stride,
    BACKGROUND: tl.constexpr,
    TERMS: tl.constexpr,
    BINS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One program per tile of pixels of an image; ``grad_logits`` is contiguous."""
    image = tl.program_id(1).to(tl.int64)
    bins, pixels, is_bin, is_pixel = _tile(num_bins, num_pixels, BINS, PIXELS)
    own = logits + image * image_stride + bins * bin_stride + pixels * pixel_stride
    prob = _probabilities(own, is_bin, is_pixel)
    width = _widths(edges, bins, is_bin)
    scales = coefficients + image * 4 * num_pixels + pixels
    density = tl.load(scales + 3 * num_pixels, mask=is_pixel, other=0.0)
    weights, behind = _ray_weights(prob * density * width, TERMS)

    # T_S = 1 - Σ w: what lies behind the bins becomes an offset of the weights' gradient.
    place = image * num_pixels + pixels
    centre = tl.load(centres + bins, mask=is_bin, other=0.0) - tl.load(edges + num_bins)
    grad_weights = tl.load(grad_depth + place, mask=is_pixel, other=0.0) * centre
    grad_weights += tl.load(grad_opacity + place, mask=is_pixel, other=0.0)
    grad_prob = tl.zeros_like(prob)
    grad_scales = grad_coefficients + image * 4 * num_pixels + pixels
    expected = tl.zeros_like(density)  # Σ p ∂L/∂p of the softmax, from the sums per pixel
    for c in tl.static_range(3):
        scale = tl.load(scales + c * num_pixels, mask=is_pixel, other=0.0)
        upstream = tl.load(
            grad_rgb + image * 3 * num_pixels + c * num_pixels + pixels, mask=is_pixel, other=0.0
        )
        colour = tl.sigmoid(prob * scale)
        grad_weights += (colour - BACKGROUND) * upstream
        grad_raw = weights * upstream * colour * (1.0 - colour)
        grad_prob += grad_raw * scale
        grad_scale = tl.sum(grad_raw * prob, axis=0, keep_dims=True)
        expected += scale * grad_scale
        tl.store(grad_scales + c * num_pixels, grad_scale, mask=is_pixel)

    # A true suffix sum: a difference of prefix sums would drown where the transmittance is tiny.
    shares = grad_weights * weights
    zeros = tl.zeros_like(shares)
    farther, _ = tl.associative_scan((zeros, shares), 0, _sum_before, reverse=True)
    grad_density = (grad_weights * behind - farther) * width
    grad_prob += grad_density * density
    grad_scale = tl.sum(grad_density * prob, axis=0, keep_dims=True)
    expected += density * grad_scale
    tl.store(grad_scales + 3 * num_pixels, grad_scale, mask=is_pixel)
    grad_own = grad_logits + (image * num_bins + bins) * num_pixels + pixels
    tl.store(grad_own, (grad_prob - expected) * prob, mask=is_bin & is_pixel)


class FusedRenderFrustum(torch.autograd.Function):
    """``_RenderFrustum`` of :mod:`nsmae_plugin.ops.frustum_render`."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, coefficients: Tensor, centres: Tensor, edges: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        coefficients, centres, edges = (
            tensor.contiguous() for tensor in (coefficients, centres, edges)
        )
        ctx.save_for_backward(logits, coefficients, centres, edges)
        images, _, height, width = logits.shape
        rgb = logits.new_empty(images, 3, height, width)
        depth, opacity = logits.new_empty(2, images, height, width).unbind()
        _launch(_render, logits, coefficients, centres, edges, rgb, depth, opacity)
        return rgb, depth, opacity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, coefficients, centres, edges = ctx.saved_tensors
        grad_logits = logits.new_empty(logits.shape)
        grad_coefficients = torch.empty_like(coefficients)
        upstream = tuple(gradient.contiguous() for gradient in upstream)
        others = (*upstream, grad_logits, grad_coefficients)
        _launch(_render_backward, logits, coefficients, centres, edges, *others)
        return grad_logits, grad_coefficients, None, None


def _launch(kernel: Any, logits: Tensor, *tensors: Tensor) -> None:
    """``logits`` (BN, D, H, W) may have any strides; all others are contiguous."""
    rays = logits.flatten(2)
    images, bins, pixels = rays.shape
    height = max(16, triton.next_power_of_2(bins))
    width = max(FEWEST_PIXELS, min(MOST_PIXELS, TILE // height))
    # Eight values of a thread: more registers than 255 would spill into memory in backward.
    launch(
        kernel,
        (triton.cdiv(pixels, width), images),
        (rays, *tensors, bins, pixels, *rays.stride()),
        warps=min(32, height * width // 256),
        BACKGROUND=BACKGROUND,
        TERMS=SERIES_TERMS[logits.dtype],
        BINS=height,
        PIXELS=width,
    )
