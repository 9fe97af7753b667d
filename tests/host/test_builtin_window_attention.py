"""Window attention: an independent reference in loops, and the properties of its parts."""

import math

import pytest
import torch

from nsmae_plugin.host.builtin.modules.window_attention import (
    DropPath,
    ShiftedWindowAttention,
    WindowAttention,
    relative_position_index,
)
from nsmae_plugin.host.builtin.modules.window_partition import BLOCKED, partition_windows

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("shift", [0, 1])
def test_gradients_are_those_of_finite_differences(shift):
    module = make_attention(side=2, shift=shift, channels=2, heads=1)
    names, values = zip(*module.named_parameters(), strict=True)
    features = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)

    def attend(features, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), features)

    assert torch.autograd.gradcheck(attend, (features, *values))


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize(("height", "width", "side"), [(4, 6, 2), (5, 7, 3), (2, 2, 3)])
def test_every_token_has_one_place_and_the_other_places_are_padding(height, width, side, shift):
    partition = partition_windows(height, width, side, min(shift, side - 1), CPU)
    tokens = torch.arange(height * width)
    assert torch.equal(partition.forth[partition.back], tokens)
    rows, columns = (math.ceil(size / side) * side for size in (height, width))
    assert len(partition.forth) == rows * columns
    assert torch.equal(
        torch.cat((partition.back, partition.padding)).sort().values,
        torch.arange(len(partition.forth)),
    )


def test_windows_and_their_tokens_are_numbered_row_by_row():
    plain = partition_windows(4, 6, 2, 0, CPU)
    assert plain.mask is None
    windows = plain.forth.view(-1, 4).tolist()
    assert windows[:2] == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert windows[3] == [12, 13, 18, 19]
    shifted = partition_windows(4, 6, 2, 1, CPU).forth.view(-1, 4).tolist()
    assert shifted[0] == [7, 8, 13, 14]  # one down and one to the right
    assert shifted[-1] == [23, 18, 5, 0]  # the four corners of the image


@pytest.mark.parametrize(("height", "width", "side", "shift"), [(4, 8, 4, 2), (9, 6, 3, 1)])
def test_the_mask_blocks_exactly_the_pairs_that_the_shift_brought_together(
    height, width, side, shift
):
    """Two tokens are neighbours if they lie as far apart in the image as in their window."""
    partition = partition_windows(height, width, side, shift, CPU)
    tokens = partition.forth.view(-1, side * side)
    in_image = torch.stack((tokens // width, tokens % width), dim=-1)
    place = torch.arange(side * side)
    in_window = torch.stack((place // side, place % side), dim=-1)
    apart = in_image[:, :, None] - in_image[:, None]
    neighbours = (apart == in_window[:, None] - in_window).all(dim=-1)
    assert torch.equal(partition.mask, torch.where(neighbours, 0.0, BLOCKED))


def test_a_plan_made_during_inference_serves_training():
    with torch.inference_mode():
        partition = partition_windows(10, 15, 5, 2, CPU)
    assert not any(tensor.is_inference() for tensor in partition)
    assert partition_windows(10, 15, 5, 2, CPU) is partition


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
