"""The fused rendering kernels against loops, the PyTorch formulation and float64 gradients.

Without a CUDA device they run in Triton's interpreter: the numbers of a program, not its speed.
"""

import pytest
import torch

from nsmae_plugin.ops.frustum_render import render_frustum
from tests.ops.test_frustum_render import assert_matches_loops, frustum

# The interpreter's NumPy remarks on exp(-x) = inf in a sigmoid, which is 1 / inf = 0 as it should,
# and on infinities that are there on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in subtract"),
]


def values_and_gradients(logits, raw, rest, kernels):
    """Three results and two gradients under random upstream gradients."""
    leaves = [leaf.detach().requires_grad_() for leaf in (logits, raw)]
    results = render_frustum(*leaves, *rest, kernels)
    generator = torch.Generator().manual_seed(7)
    upstream = [
        torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result)
        for result in results
    ]
    gradients = torch.autograd.grad(results, leaves, upstream)
    return [value.detach() for value in (*results, *gradients)]


def assert_same_as_torch(logits, raw, *rest):
    fused = values_and_gradients(logits, raw, rest, "triton")
    expected = values_and_gradients(logits, raw, rest, "torch")
    # float64; the results are of order one to ten.
    torch.testing.assert_close(fused, expected, rtol=1e-11, atol=1e-13)
    assert all(value.shape == other.shape for value, other in zip(fused, expected, strict=True))


def test_rendering_matches_the_loop_reference(kernel_device):
    assert_matches_loops(kernel_device, "triton")


@pytest.mark.parametrize(
    ("images", "bins", "height", "width"),
    [
        (1, 1, 1, 1),
        (2, 6, 1, 67),  # more pixels than a tile, the last tile not full
        (3, 16, 3, 3),  # bins that fill the tile
        (1, 118, 3, 7),  # the bins of the configurations: two tiles of pixels
    ],
)
def test_kernels_equal_the_torch_formulation(images, bins, height, width, kernel_device):
    assert_same_as_torch(*frustum(images, bins, height, width, device=kernel_device))


def test_gradients_match_finite_differences(kernel_device):
    logits, raw, *rest = frustum(images=1, bins=4, height=1, width=2, device=kernel_device)

    def outputs(logits, raw):
        return render_frustum(logits, raw, *rest, "triton")

    assert torch.autograd.gradcheck(
        outputs, (logits.requires_grad_(), raw.requires_grad_()), fast_mode=True
    )


def split_of_a_larger_map(logits):
    """As in the view transform: the first channels of what the depth network gives."""
    return torch.cat((logits, logits), dim=1)[:, : logits.shape[1]]


@pytest.mark.parametrize(
    "arrange",
    [
        split_of_a_larger_map,
        lambda logits: logits.contiguous(memory_format=torch.channels_last),
        lambda logits: logits.repeat_interleave(2, dim=3)[..., ::2],  # rows that do not join up
        lambda logits: logits[:1].expand(2, -1, -1, -1),
    ],
    ids=["split", "channels last", "every second column", "one image twice"],
)
def test_inputs_may_lie_in_memory_as_they_like(arrange, kernel_device):
    logits, raw, centres, edges, bias = frustum(height=2, width=5, device=kernel_device)
    logits = arrange(logits)
    assert not logits.is_contiguous()
    raw = raw.contiguous(memory_format=torch.channels_last)
    centres, edges = (values.repeat_interleave(2)[::2] for values in (centres, edges))
    assert_same_as_torch(logits, raw, centres, edges, bias)


def test_float32_gradients_stay_accurate_in_front_of_and_behind_opaque_bins(kernel_device):
    """Raw densities of ±20 and logits of ±6: rays from clear to opaque within one bin."""
    logits, raw, *rest = frustum(1, 30, 5, 5, seed=3, device=kernel_device)
    logits, raw = 6 * logits, 10 * raw
    exact = values_and_gradients(logits, raw, rest, "torch")
    rounded = values_and_gradients(logits.float(), raw.float(), rest, "triton")
    for expected, value in zip(exact, rounded, strict=True):
        assert value.dtype == torch.float32
        # Softmax gradients are differences of terms of the size of the largest one: 1e-5 of that.
        assert (expected - value).abs().max() < 1e-5 * expected.abs().max()


def test_thin_rays_keep_their_digits_in_float32(kernel_device):
    """Opacities of 2e-9 to 1, to some roundings; of 2e-9, 1 - exp(-x) would lose all digits."""
    logits, raw, *rest = frustum(1, 6, 1, 30, device=kernel_device)
    raw[0, 3, 0] = torch.linspace(-22, 2, 30)
    exact = values_and_gradients(logits, raw, rest, "torch")
    rounded = values_and_gradients(logits.float(), raw.float(), rest, "triton")
    assert exact[2].min() < 2e-9
    assert exact[2].max() > 0.99
    torch.testing.assert_close(rounded[2].double(), exact[2], rtol=2e-6, atol=0)


def test_half_precision_under_autocast_is_rendered_in_float32(kernel_device):
    logits, raw, *rest = frustum(dtype=torch.float32, device=kernel_device)
    leaves = [logits.bfloat16().requires_grad_(), raw.bfloat16().requires_grad_()]
    with torch.autocast(kernel_device.type, dtype=torch.bfloat16):
        outputs = render_frustum(*leaves, *rest, "triton")
        sum(output.sum() for output in outputs).backward()
    expected = render_frustum(*(leaf.detach().float() for leaf in leaves), *rest, "triton")
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
    assert all(leaf.grad.dtype == torch.bfloat16 for leaf in leaves)


def test_logits_that_are_not_finite_are_not_hidden(kernel_device):
    """A NaN or an infinity spoils its own pixel, as it does in PyTorch, and no other."""
    logits, raw, *rest = frustum(1, 6, 1, 4, device=kernel_device)
    logits[0, 2, 0, 1], logits[0, 3, 0, 2] = float("nan"), float("inf")
    _, depth, _ = render_frustum(logits, raw, *rest, "triton")
    assert depth[0, 0].isnan().tolist() == [False, True, True, False]


def test_only_the_logits_are_kept_for_the_backward_pass(kernel_device):
    logits, raw, *rest = frustum(images=2, bins=40, device=kernel_device)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        render_frustum(logits.requires_grad_(), raw.requires_grad_(), *rest, "triton")
    frustum_sized = [t for t in saved if t.numel() >= logits.numel()]
    assert [t.data_ptr() for t in frustum_sized] == [logits.data_ptr()]
