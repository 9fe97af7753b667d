"""Compositing against hand-computed rays, a loop in plain Python, and float64 gradients."""

import math

import pytest
import torch

from nsmae_plugin.ops.compositing import composite, density_bias


def render_with_loops(density, edges, colour, background=0.5):
    """One ray, one bin after the other, by the definition; all arguments are lists of floats."""
    transmittance, opacity, depth, rendered = 1.0, 0.0, 0.0, [0.0] * len(colour[0])
    for i, sigma in enumerate(density):
        alpha = 1.0 - math.exp(-sigma * (edges[i + 1] - edges[i]))
        weight = transmittance * alpha
        opacity += weight
        depth += weight * (edges[i] + edges[i + 1]) / 2
        rendered = [total + weight * c for total, c in zip(rendered, colour[i], strict=True)]
        transmittance *= 1.0 - alpha
    depth += transmittance * edges[-1]
    return opacity, depth, [total + transmittance * background for total in rendered]


def random_rays(rays=6, bins=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    density = 2 * torch.rand(rays, bins, generator=generator, dtype=dtype)
    edges = 1 + torch.rand(bins + 1, generator=generator, dtype=dtype).cumsum(0)
    colour = torch.rand(rays, bins, 3, generator=generator, dtype=dtype)
    return density, edges, colour


def test_rendering_matches_the_loop_reference(device):
    density, edges, colour = random_rays()
    result = composite(density.to(device), edges.to(device), colour.to(device))
    for ray in range(len(density)):
        opacity, depth, rendered = render_with_loops(
            density[ray].tolist(), edges.tolist(), colour[ray].tolist()
        )
        assert result.opacity[ray].item() == pytest.approx(opacity, abs=1e-12)
        assert result.depth[ray].item() == pytest.approx(depth, abs=1e-12)
        assert result.colour[ray].tolist() == pytest.approx(rendered, abs=1e-12)


def test_three_bins_by_hand():
    # Bins of 1, 1 and 2 m; each of the first two lets half through, the last one a quarter.
    half = math.log(2)
    result = composite(torch.tensor([half, half, half]), torch.tensor([1.0, 2.0, 3.0, 5.0]))
    assert result.weights.tolist() == pytest.approx([1 / 2, 1 / 4, 3 / 16])
    assert result.opacity.item() == pytest.approx(15 / 16)
    assert result.depth.item() == pytest.approx(1.5 / 2 + 2.5 / 4 + 4 * 3 / 16 + 5 / 16)


def test_an_empty_ray_shows_the_background_at_the_far_edge():
    edges = torch.tensor([1.0, 2.0, 4.0])
    result = composite(torch.zeros(2), edges, torch.rand(2, 3))
    assert result.opacity.item() == 0
    assert result.depth.item() == 4
    assert result.colour.tolist() == [0.5, 0.5, 0.5]


def test_an_opaque_bin_hides_what_lies_behind():
    density = torch.tensor([0.0, 1e4, 7.0])
    colour = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    result = composite(density, torch.tensor([0.0, 1.0, 2.0, 3.0]), colour)
    assert result.weights.tolist() == [0, 1, 0]
    assert result.depth.item() == 1.5
    assert result.colour.tolist() == [0, 1, 0]


def test_weights_and_what_passes_sum_to_one():
    density, edges, _ = random_rays(rays=100, bins=40, dtype=torch.float32)
    result = composite(density, edges)
    torch.testing.assert_close(result.weights.sum(-1), result.opacity)
    assert (result.opacity <= 1).all()
    assert (result.depth >= edges[0]).all()
    assert (result.depth <= edges[-1]).all()


def test_splitting_a_bin_does_not_change_the_ray():
    density, edges = torch.tensor([0.3, 0.8]), torch.tensor([0.0, 2.0, 5.0])
    split = composite(torch.tensor([0.3, 0.3, 0.8]), torch.tensor([0.0, 0.5, 2.0, 5.0]))
    whole = composite(density, edges)
    torch.testing.assert_close(split.opacity, whole.opacity)
    torch.testing.assert_close(split.weights[2], whole.weights[1])


def test_gradients_match_finite_differences():
    density, edges, colour = random_rays(rays=3)

    def outputs(density, colour):
        return composite(density, edges, colour)

    assert torch.autograd.gradcheck(outputs, (density.requires_grad_(), colour.requires_grad_()))


@pytest.mark.parametrize("thickness", [1e-7, 1.0, 5.0, 40.0])
def test_float32_keeps_relative_accuracy_in_thin_and_in_opaque_rays(device, thickness):
    # At 40 per bin, the sixth bin is reached by exp(-200) of the light, below float32's range.
    # At 5, the fourth by 3e-7 of it, where a difference of prefix sums has no digit left.
    edges = torch.linspace(1, 7, 7, dtype=torch.float64, device=device)
    base = thickness * torch.linspace(0.9, 1.1, 6, dtype=torch.float64, device=device)
    upstream = torch.tensor([2.0, 3, 1, 4, 1, 5], dtype=torch.float64, device=device)
    results = {}
    for dtype in (torch.float64, torch.float32):
        density = base.to(dtype, copy=True).requires_grad_()
        weights = composite(density, edges.to(dtype)).weights
        weights.backward(upstream.to(dtype))
        results[dtype] = torch.stack([weights.detach(), density.grad]).double()
    # 1e-5 relative: a few hundred float32 roundings. 1e-37: results that float32 cannot hold.
    torch.testing.assert_close(
        results[torch.float32], results[torch.float64], rtol=1e-5, atol=1e-37
    )


def test_autocast_and_half_inputs_are_rendered_in_float32(device):
    density, edges, colour = (t.float().to(device) for t in random_rays())
    half = density.bfloat16()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = composite(half, edges, colour.bfloat16())
    assert all(tensor.dtype == torch.float32 for tensor in result)
    expected = composite(half.float(), edges, colour.bfloat16().float())
    torch.testing.assert_close(result.depth, expected.depth, rtol=0, atol=0)


@pytest.mark.parametrize("length", [8.2, 59.0])
def test_density_bias_gives_the_opacity_asked_for(length):
    density = torch.nn.functional.softplus(torch.tensor(density_bias(length, 0.95)))
    edges = torch.tensor([0.0, length])
    assert composite(density[None], edges).opacity.item() == pytest.approx(0.95, abs=1e-6)
