"""Heatmaps of centres: radius, drawing and focal loss, against hand-computed numbers."""

import math

import pytest
import torch

from nsmae_plugin.ops.heatmap import (
    clipped_sigmoid,
    draw_gaussian,
    gaussian_focal_loss,
    gaussian_radius,
)


def test_a_gaussian_has_its_peak_at_the_centre_and_three_sigmas_at_the_edge():
    heatmap = torch.zeros(7, 9)
    draw_gaussian(heatmap, (5, 2), radius=2)  # sigma = 5 / 6
    assert heatmap[2, 5] == 1
    assert heatmap[2, 6] == pytest.approx(math.exp(-0.72))  # 1 / (2 * 25 / 36)
    assert heatmap[4, 7] == pytest.approx(math.exp(-0.72 * 8))
    assert (heatmap > 0).sum() == 25
    assert torch.equal(heatmap[:5, 3:8], heatmap[:5, 3:8].T)


def test_overlapping_gaussians_keep_the_larger_value():
    both, first, second = (torch.zeros(8, 8) for _ in range(3))
    for heatmap in (both, first):
        draw_gaussian(heatmap, (2, 3), radius=3)
    for heatmap in (both, second):
        draw_gaussian(heatmap, (4, 3), radius=1)
    assert torch.equal(both, torch.maximum(first, second))


@pytest.mark.parametrize("center", [(0, 0), (8, 6), (-2, 3), (4, 8), (-1, -1)])
def test_a_window_that_leaves_the_map_is_cut_off(center):
    heatmap, wide = torch.zeros(7, 9), torch.zeros(27, 29)
    draw_gaussian(heatmap, center, radius=3)
    draw_gaussian(wide, (center[0] + 10, center[1] + 10), radius=3)
    assert torch.equal(heatmap, wide[10:17, 10:19])
    assert (heatmap > 0).any()


@pytest.mark.parametrize("center", [(-4, 2), (12, 2), (3, 10), (40, -40)])
def test_a_window_outside_of_the_map_changes_nothing(center):
    heatmap = torch.zeros(7, 9)
    draw_gaussian(heatmap, center, radius=3)
    assert (heatmap == 0).all()


def test_the_radius_is_that_of_the_three_published_cases():
    height, width, overlap = 4.0, 10.0, 0.1
    area, around = height * width, height + width
    shifted = (around + math.sqrt(around**2 - 4 * area * 0.9 / 1.1)) / 2
    inside = (2 * around + math.sqrt(4 * around**2 - 16 * 0.9 * area)) / 2
    b = -2 * overlap * around
    outside = (b + math.sqrt(b**2 + 16 * overlap * 0.9 * area)) / 2
    radius = gaussian_radius(torch.tensor([height]), torch.tensor([width]), overlap)
    assert radius.item() == pytest.approx(min(shifted, inside, outside))


def test_the_radius_scales_with_the_box():
    sizes = torch.linspace(1, 50, 20)
    radii = gaussian_radius(sizes, sizes / 2, 0.1)
    torch.testing.assert_close(radii, radii[0] * sizes)


def test_the_focal_loss_of_three_cells_by_hand():
    probability = torch.tensor([0.8, 0.3, 0.4])
    target = torch.tensor([1.0, 0.0, 0.5])
    peak = -(0.2**2) * math.log(0.8)
    far = -(0.3**2) * math.log(0.7)
    near = -(0.5**4) * 0.4**2 * math.log(0.6)
    assert gaussian_focal_loss(probability, target).item() == pytest.approx(peak + far + near)
    two_peaks = gaussian_focal_loss(probability.repeat(2), target.repeat(2))
    assert two_peaks.item() == pytest.approx(peak + far + near)  # divided by the peaks


def test_a_heatmap_without_peaks_has_a_finite_loss():
    loss = gaussian_focal_loss(torch.full((4,), 0.5), torch.zeros(4))
    assert loss.item() == pytest.approx(-4 * 0.25 * math.log(0.5))


def test_saturated_logits_have_finite_losses_and_gradients():
    logits = torch.tensor([200.0, -200.0, 0.0], dtype=torch.bfloat16, requires_grad=True)
    loss = gaussian_focal_loss(clipped_sigmoid(logits), torch.tensor([0.0, 1.0, 1.0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
