"""The fused perspective renderer against loops, the materialised frustum and float64 gradients."""

import math

import pytest
import torch

from nsmae_plugin.ops import frustum_render
from nsmae_plugin.ops.compositing import bin_centres, composite, density_bias
from nsmae_plugin.ops.frustum_render import render_frustum


def frustum(images=2, bins=6, height=2, width=3, dtype=torch.float64, seed=0, device="cpu"):
    """Logits, raw features, centres, edges and bias of a small random frustum from 1 to 4 m."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, bins, height, width, generator=generator, dtype=dtype)
    raw = torch.randn(images, 4, height, width, generator=generator, dtype=dtype)
    edges = torch.linspace(1, 4, bins + 1, dtype=dtype)
    return (
        logits.to(device),
        raw.to(device),
        bin_centres(edges).to(device),
        edges.to(device),
        density_bias(3.0),
    )


def render_pixel_with_loops(logits, raw, edges, bias):
    """One pixel from lists of floats, by the equations of the module and of compositing."""
    bins = len(logits)
    total = sum(math.exp(logit) for logit in logits)
    density_scale = math.log1p(math.exp(raw[3] + bias))
    transmittance, opacity, depth, rgb = 1.0, 0.0, 0.0, [0.0, 0.0, 0.0]
    for d in range(bins):
        gain = bins * math.exp(logits[d]) / total
        alpha = 1 - math.exp(-gain * density_scale * (edges[d + 1] - edges[d]))
        weight = transmittance * alpha
        opacity += weight
        depth += weight * (edges[d] + edges[d + 1]) / 2
        rgb = [rgb[c] + weight / (1 + math.exp(-gain * raw[c])) for c in range(3)]
        transmittance *= 1 - alpha
    depth += transmittance * edges[-1]
    return [value + 0.5 * transmittance for value in rgb], depth, opacity


def render_materialised(logits, context, projection, edges, bias):
    """The published order of things: lift all channels, project every bin, composite.

    The frustum tensor is (BN, H, W, D, C + 1): the context and, beside it, the activated density
    (which is not linear in the context, so it is lifted and not projected).
    """
    prob = logits.softmax(1) * logits.shape[1]
    raw_density = torch.einsum("nchw,c->nhw", context, projection[3])
    density = torch.nn.functional.softplus(raw_density + bias)
    lifted = torch.cat([context, density[:, None]], 1)
    tensor = torch.einsum("ndhw,nchw->nhwdc", prob, lifted)
    colour = torch.sigmoid(tensor[..., :-1] @ projection[:3].T)
    result = composite(tensor[..., -1], edges, colour)
    return result.colour.movedim(-1, 1), result.depth, result.opacity


def assert_matches_loops(device, kernels="torch"):
    """Some pixels of a rendering against one pixel, one bin after the other."""
    logits, raw, centres, edges, bias = frustum(device=device)
    rgb, depth, opacity = render_frustum(logits, raw, centres, edges, bias, kernels)
    for n, h, w in [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 2)]:
        expected = render_pixel_with_loops(
            logits[n, :, h, w].tolist(), raw[n, :, h, w].tolist(), edges.tolist(), bias
        )
        assert rgb[n, :, h, w].tolist() == pytest.approx(expected[0], abs=1e-12)
        assert depth[n, h, w].item() == pytest.approx(expected[1], abs=1e-12)
        assert opacity[n, h, w].item() == pytest.approx(expected[2], abs=1e-12)


def test_rendering_matches_the_loop_reference(device):
    assert_matches_loops(device)


def test_factorised_equals_materialised_in_values_and_gradients(device):
    logits, _, centres, edges, bias = frustum(device=device)
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 8, 2, 3, generator=generator, dtype=torch.float64).to(device)
    projection = torch.randn(4, 8, generator=generator, dtype=torch.float64).to(device)
    inputs = [t.requires_grad_() for t in (logits, context, projection)]

    raw = torch.einsum("nchw,kc->nkhw", context, projection)
    ours = render_frustum(logits, raw, centres, edges, bias)
    reference = render_materialised(logits, context, projection, edges, bias)
    upstream = [torch.randn(o.shape, generator=generator, dtype=o.dtype).to(o) for o in ours]
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(reference, inputs, upstream),
        rtol=1e-9,
        atol=1e-12,
    )


def test_gradients_match_finite_differences():
    logits, raw, centres, edges, bias = frustum(images=1, bins=4, height=1, width=2)

    def outputs(logits, raw):
        return render_frustum(logits, raw, centres, edges, bias)

    assert torch.autograd.gradcheck(outputs, (logits.requires_grad_(), raw.requires_grad_()))


def test_chunking_over_images_changes_nothing(monkeypatch):
    results = []
    for chunk in (1, 1 << 20):
        monkeypatch.setattr(frustum_render, "_CPU_CHUNK", chunk)
        logits, raw, *rest = frustum(images=5)
        inputs = [logits.requires_grad_(), raw.requires_grad_()]
        outputs = render_frustum(*inputs, *rest)
        results.append(outputs + torch.autograd.grad(sum(o.sum() for o in outputs), inputs))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-14)


def test_float32_gradients_stay_accurate_in_front_of_and_behind_opaque_bins(device):
    # Raw densities of ±20 and logits of ±6 give rays from clear to opaque within one bin.
    gradients = {}
    for dtype in (torch.float64, torch.float32):
        logits, raw, centres, edges, bias = frustum(4, 30, 8, 8, seed=3, device=device)
        inputs = [(6 * logits).to(dtype).requires_grad_(), (10 * raw).to(dtype).requires_grad_()]
        outputs = render_frustum(*inputs, centres, edges, bias)
        gradients[dtype] = [
            g.double() for g in torch.autograd.grad(sum(map(torch.sum, outputs)), inputs)
        ]
    for exact, rounded in zip(gradients[torch.float64], gradients[torch.float32], strict=True):
        assert torch.isfinite(rounded).all()
        # Softmax gradients are differences of terms of the size of the largest one: 1e-5 of that.
        assert (exact - rounded).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("bin_index", [0, 20, 117])
def test_a_ray_can_end_in_any_bin(bin_index):
    edges = 0.75 + 0.5 * torch.arange(119)
    logits = torch.zeros(1, 118, 1, 1)
    logits[0, bin_index] = 30
    raw = torch.tensor([0.0, 0.0, 0.0, 3.0]).reshape(1, 4, 1, 1)
    _, depth, opacity = render_frustum(logits, raw, bin_centres(edges), edges, density_bias(59.0))
    assert opacity.item() == pytest.approx(1, abs=1e-6)
    assert depth.item() == pytest.approx(1 + 0.5 * bin_index, abs=1e-4)


def test_an_untrained_network_has_no_empty_ray_and_gradients_everywhere():
    # What a depth net and a projection put out before training: zero-mean, of order one.
    generator = torch.Generator().manual_seed(5)
    logits = (0.5 * torch.randn(6, 118, 8, 22, generator=generator)).requires_grad_()
    raw = torch.randn(6, 4, 8, 22, generator=generator).requires_grad_()
    edges = 0.75 + 0.5 * torch.arange(119)
    rgb, depth, opacity = render_frustum(logits, raw, bin_centres(edges), edges, density_bias(59.0))
    assert opacity.min() > 0.1
    assert opacity.mean().item() == pytest.approx(0.9, abs=0.1)
    grad_logits, grad_raw = torch.autograd.grad(rgb.square().sum() + depth.sum(), (logits, raw))
    assert (grad_logits.abs().amax(1) > 0).all()
    assert (grad_raw != 0).all()


def test_half_precision_under_autocast_is_rendered_in_float32(device):
    logits, raw, centres, edges, bias = frustum(dtype=torch.float32, device=device)
    leaves = [logits.bfloat16().requires_grad_(), raw.bfloat16().requires_grad_()]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        outputs = render_frustum(*leaves, centres, edges, bias)
        sum(o.sum() for o in outputs).backward()
    expected = render_frustum(*(leaf.detach().float() for leaf in leaves), centres, edges, bias)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
    assert all(leaf.grad.dtype == torch.bfloat16 for leaf in leaves)


def test_only_the_logits_are_kept_for_the_backward_pass():
    logits, raw, *rest = frustum(images=2, bins=40)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        render_frustum(logits.requires_grad_(), raw.requires_grad_(), *rest)
    frustum_sized = [t for t in saved if t.numel() >= logits.numel()]
    assert [t.data_ptr() for t in frustum_sized] == [logits.data_ptr()]
