"""Window attention: an independent reference in loops, and the properties of its parts."""

import math

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.builtin.modules.window_attention import (
    BLOCKED,
    DropPath,
    ShiftedWindowAttention,
    WindowAttention,
    merge,
    partition,
    relative_position_index,
    shift_mask,
)


def make_attention(side: int, shift: int, channels: int = 6, heads: int = 2):
    torch.manual_seed(0)
    attention = ShiftedWindowAttention(channels, heads, side, shift, 0.0, 0.0, 0.0).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def attention_by_loop(module: ShiftedWindowAttention, features: torch.Tensor) -> torch.Tensor:
    """Each token attends to the tokens of its window that were its neighbours before the shift.

    Written from the paper in terms of image positions: no cyclic shift and no mask. Windows start
    at ``shift - side``, so those at the border are smaller; the map is padded below and on the
    right with zero tokens, which take part.
    """
    side, shift, inner = module.side, module.shift, module.w_msa
    batch, height, width, channels = features.shape
    rows, columns = (math.ceil(size / side) * side for size in (height, width))
    padded = features.new_zeros(batch, rows, columns, channels)
    padded[:, :height, :width] = features
    starts = [range(shift - side if shift else 0, size + side, side) for size in (rows, columns)]
    size, out = channels // inner.heads, torch.zeros_like(padded)
    for top in starts[0]:
        for left in starts[1]:
            cells = [
                (y, x)
                for y in range(max(top, 0), min(top + side, rows))
                for x in range(max(left, 0), min(left + side, columns))
            ]
            for y, x in cells:
                for head in range(inner.heads):
                    part = slice(head * size, (head + 1) * size)
                    out[:, y, x, part] = attend(inner, padded, (y, x), cells, head, size)
    return inner.proj(out[:, :height, :width])


def attend(inner: WindowAttention, padded, token, cells, head, size) -> torch.Tensor:
    channels = padded.shape[-1]
    side = math.isqrt(inner.relative_position_index.shape[0])
    weight, bias = inner.qkv.weight, inner.qkv.bias

    def project(cell, kind):
        rows = slice(kind * channels + head * size, kind * channels + (head + 1) * size)
        return padded[:, cell[0], cell[1]] @ weight[rows].T + bias[rows]

    query, logits = project(token, 0), []
    for cell in cells:
        dy, dx = token[0] - cell[0], token[1] - cell[1]
        offset = (dy + side - 1) * (2 * side - 1) + dx + side - 1
        logit = (query * project(cell, 1)).sum(1) / math.sqrt(size)
        logits.append(logit + inner.relative_position_bias_table[offset, head])
    weights = torch.stack(logits).softmax(0)
    return sum(w[:, None] * project(cell, 2) for w, cell in zip(weights, cells, strict=True))


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 8), (5, 7), (3, 3)])
def test_attention_matches_the_loop_over_image_positions(size, shift):
    module = make_attention(side=4, shift=shift)
    features = torch.randn(2, *size, 6, dtype=torch.float64)
    expected = attention_by_loop(module, features)
    torch.testing.assert_close(module(features), expected, atol=1e-10, rtol=0)


def test_gradients_are_those_of_finite_differences():
    module = make_attention(side=2, shift=1, channels=2, heads=1)
    table = module.w_msa.relative_position_bias_table
    features = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)

    def attend(features, table_values):
        return torch.func.functional_call(
            module, {"w_msa.relative_position_bias_table": table_values}, features
        )

    assert torch.autograd.gradcheck(attend, (features, table.detach().requires_grad_()))


@pytest.mark.parametrize(("height", "width", "side"), [(4, 6, 2), (7, 14, 7), (3, 3, 3)])
def test_merging_reverses_partitioning(height, width, side):
    features = torch.randn(2, height, width, 5)
    windows = partition(features, side)
    assert windows.shape == (2, height * width // side**2, side**2, 5)
    assert torch.equal(merge(windows, side, height, width), features)


def test_windows_are_numbered_row_by_row():
    positions = torch.arange(4 * 6).view(1, 4, 6, 1)
    windows = partition(positions, 2)[0, :, :, 0].tolist()
    assert windows[0] == [0, 1, 6, 7]
    assert windows[1] == [2, 3, 8, 9]
    assert windows[3] == [12, 13, 18, 19]


@pytest.mark.parametrize(("height", "width", "side", "shift"), [(4, 8, 4, 2), (9, 6, 3, 1)])
def test_the_mask_blocks_exactly_the_pairs_that_the_shift_brought_together(
    height, width, side, shift
):
    """Two tokens of a window are neighbours if their distance did not change by the shift."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    original = torch.stack((y, x), dim=-1)[None].roll((-shift, -shift), dims=(1, 2))
    now = torch.stack((y, x), dim=-1)[None]
    before, after = (partition(grid, side)[0] for grid in (original, now))
    distance = [one[:, :, None] - one[:, None, :] for one in (before, after)]
    neighbours = (distance[0] == distance[1]).all(dim=-1)
    mask = shift_mask(height, width, side, shift, torch.device("cpu"))
    assert torch.equal(mask, torch.where(neighbours, 0.0, BLOCKED))


def test_a_mask_cached_during_inference_serves_training():
    with torch.inference_mode():
        mask = shift_mask(10, 15, 5, 2, torch.device("cpu"))
    assert not mask.is_inference()
    assert shift_mask(10, 15, 5, 2, torch.device("cpu")) is mask


def test_offsets_share_a_row_of_the_bias_table():
    index = relative_position_index(2)  # tokens: (0, 0), (0, 1), (1, 0), (1, 1)
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_attention_weights_are_dropped_only_while_training():
    torch.manual_seed(0)
    module = ShiftedWindowAttention(8, 2, 4, 0, 0.5, 0.0, 0.0)
    features = torch.randn(2, 4, 4, 8)
    module.train()
    assert not torch.equal(module(features), module(features))
    module.eval()
    assert torch.equal(module(features), module(features))


def test_a_dropped_path_is_zero_for_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    branch = drop(torch.ones(4000, 3))
    assert branch.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(branch.amin(1), branch.amax(1))
    assert branch.mean() == pytest.approx(1, abs=0.04)  # 4 standard deviations: 0.037
    assert torch.equal(drop.eval()(torch.ones(4, 3)), torch.ones(4, 3))


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ConfigError, match="8 channels cannot be shared by NUM_HEADS 3"):
        WindowAttention(8, 3, 4, 0.0, 0.0)
