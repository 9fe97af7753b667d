"""Points in boxes and pooling in them against scalar loops and numerical gradients."""

import math

import pytest
import torch

from nsmae_plugin.ops.compiled import roiaware_pool3d_cuda as ops
from nsmae_plugin.ops.compiled import uncompiled
from nsmae_plugin.ops.compiled.ingroup_inds_cuda import forward as ingroup_forward

GRID = (3, 2, 2)


def scene(device="cpu", points=300):
    """A crowd of points around two overlapping boxes and an empty one."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor(
        [
            [0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.4],
            [1.0, 0.5, 0.2, 3.0, 2.0, 2.0, -1.1],
            [50.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0],
        ],
        dtype=torch.float64,
    )
    pts = 6 * torch.rand(points, 3, generator=generator, dtype=torch.float64) - 3
    features = torch.randn(points, 4, generator=generator, dtype=torch.float64)
    return boxes.to(device), pts.to(device), features.to(device)


def local(point, box):
    """Coordinates of the point along and across the box, and its height above the centre."""
    x, y, z = (point[k] - box[k] for k in range(3))
    cos, sin = math.cos(box[6]), math.sin(box[6])
    return x * cos + y * sin, y * cos - x * sin, z


def contains(point, box, margin):
    u, v, z = local(point, box)
    sides = abs(u) < box[3] / 2 + margin and abs(v) < box[4] / 2 + margin
    return sides and abs(z) <= box[5] / 2


def pool_loop(boxes, pts, features, capacity, method):
    """Cells, their first points, and the pooled features, as nested loops."""
    pooled = torch.zeros(len(boxes), *GRID, features.shape[1], dtype=features.dtype)
    members = {}
    for b, box in enumerate(boxes.tolist()):
        for p, point in enumerate(pts.tolist()):
            if not contains(point, box, 1e-5):
                continue
            position = zip(local(point, box), box[3:6], GRID, strict=True)
            index = (int((v + size / 2) / (size / n)) for v, size, n in position)
            cell = tuple(min(max(i, 0), n - 1) for i, n in zip(index, GRID, strict=True))
            members.setdefault((b, *cell), []).append(p)
    for cell, found in members.items():
        members[cell] = found[: capacity - 1]
        rows = features[members[cell]]
        pooled[cell] = rows.max(dim=0).values if method == ops.MAX_POOL else rows.mean(dim=0)
    return pooled, members


def run_forward(boxes, pts, features, capacity, method):
    shape = (len(boxes), *GRID)
    pooled = features.new_zeros(*shape, features.shape[1])
    argmax = torch.zeros(pooled.shape, dtype=torch.int32, device=features.device)
    table = torch.zeros(*shape, capacity, dtype=torch.int32, device=features.device)
    ops.forward(boxes, pts, features, argmax, table, pooled, method)
    return pooled, argmax, table


class Pool(torch.autograd.Function):
    """Forward and backward put together as OpenPCDet's autograd function does."""

    @staticmethod
    def forward(ctx, features, boxes, pts, capacity, method):
        pooled, argmax, table = run_forward(boxes, pts, features, capacity, method)
        ctx.saved = argmax, table, method, features.shape
        return pooled

    @staticmethod
    def backward(ctx, gradient):
        argmax, table, method, shape = ctx.saved
        grad = gradient.new_zeros(shape)
        ops.backward(table, argmax, gradient.contiguous(), grad, method)
        return grad, None, None, None, None


def test_points_are_found_in_every_box_that_holds_them(device):
    boxes, pts, _ = scene(device)
    found = torch.full((len(boxes), len(pts)), -5, dtype=torch.int32, device=device)
    ops.points_in_boxes_cpu(boxes, pts, found)
    expected = [[int(contains(p, b, 1e-2)) for p in pts.tolist()] for b in boxes.tolist()]
    assert found.tolist() == expected
    assert 10 < found[0].sum() < 100
    assert found[2].sum() == 0


def test_the_first_box_wins_and_points_outside_keep_their_value(device):
    boxes, pts, _ = scene(device)
    batch_boxes = torch.stack([boxes, boxes.flip(0)])
    batch_points = torch.stack([pts, pts])
    found = torch.full((2, len(pts)), -1, dtype=torch.int32, device=device)
    ops.points_in_boxes_gpu(batch_boxes, batch_points, found)
    for row, sample in zip(found.tolist(), batch_boxes.tolist(), strict=True):
        for index, point in zip(row, pts.tolist(), strict=True):
            holders = [k for k, b in enumerate(sample) if contains(point, b, 1e-5)]
            assert index == (holders[0] if holders else -1)


def test_the_two_margins_differ():
    """A point 5 mm outside of a side: in for the CPU function, out for the GPU function."""
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    pts = torch.tensor([[1.005, 0, 0], [0, 0, 1.005]])  # above the top there is no margin
    cpu = torch.zeros(1, 2, dtype=torch.int32)
    ops.points_in_boxes_cpu(boxes, pts, cpu)
    gpu = torch.full((1, 2), -1, dtype=torch.int32)
    ops.points_in_boxes_gpu(boxes[None], pts[None], gpu)
    assert cpu.tolist() == [[1, 0]]
    assert gpu.tolist() == [[-1, -1]]


@pytest.mark.parametrize("capacity", [4, 64])
@pytest.mark.parametrize("method", [ops.MAX_POOL, ops.AVERAGE_POOL])
def test_pooling_matches_nested_loops(capacity, method, device):
    boxes, pts, features = scene(device)
    pooled, argmax, table = run_forward(boxes, pts, features, capacity, method)
    expected, members = pool_loop(boxes.cpu(), pts.cpu(), features.cpu(), capacity, method)
    torch.testing.assert_close(pooled.cpu(), expected, rtol=0, atol=1e-12)
    assert table[..., 0].sum() == sum(map(len, members.values()))
    for cell, found in members.items():
        assert table[cell].tolist()[: len(found) + 1] == [len(found), *found]
    if method == ops.MAX_POOL:
        filled = argmax >= 0
        assert filled[..., 0].sum() == len(members)
        winners = features[argmax.clamp(min=0).long(), torch.arange(4, device=device)]
        assert torch.equal(winners[filled], pooled[filled])


@pytest.mark.parametrize("method", [ops.MAX_POOL, ops.AVERAGE_POOL])
def test_pooling_gradient_is_numerically_right(method):
    boxes, pts, features = scene(points=60)
    pts = pts / 3  # a crowd: several points in most cells
    assert torch.autograd.gradcheck(
        lambda f: Pool.apply(f, boxes, pts, 4, method), features.requires_grad_()
    )


def test_the_first_of_equal_maxima_wins(device):
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]], device=device)
    pts = torch.full((3, 3), 0.1, device=device)
    features = torch.tensor([[1.0], [7.0], [7.0]], device=device)
    _, argmax, _ = run_forward(boxes, pts, features, 8, ops.MAX_POOL)
    assert argmax.max() == 1


def test_small_pieces_change_nothing(monkeypatch, device):
    boxes, pts, features = scene(device)
    whole = run_forward(boxes, pts, features, 8, ops.MAX_POOL)
    flags = torch.zeros(2, len(boxes), len(pts), dtype=torch.int32, device=device)
    ops.points_in_boxes_cpu(boxes, pts, flags[0])
    monkeypatch.setattr(ops, "_PAIRS_PER_CHUNK", 50)
    ops.points_in_boxes_cpu(boxes, pts, flags[1])
    assert torch.equal(flags[0], flags[1])
    for a, b in zip(whole, run_forward(boxes, pts, features, 8, ops.MAX_POOL), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("number_of_boxes", "number_of_points"), [(0, 5), (3, 0)])
def test_nothing_to_pool_gives_zeros(number_of_boxes, number_of_points, device):
    boxes, pts, features = scene(device)
    boxes, pts, features = (
        boxes[:number_of_boxes],
        pts[:number_of_points],
        features[:number_of_points],
    )
    pooled, argmax, _ = run_forward(boxes, pts, features, 8, ops.MAX_POOL)
    assert not pooled.any()
    assert (argmax == -1).all()
    found = torch.full((1, number_of_points), -1, dtype=torch.int32, device=device)
    ops.points_in_boxes_gpu(boxes[None], pts[None], found)
    assert (found == -1).all()


def test_members_of_a_group_are_numbered_in_order(device):
    groups = torch.tensor([5, 0, 5, 2, 0, 5], device=device)
    numbers = torch.full_like(groups, -1)
    ingroup_forward(groups, numbers)
    assert numbers.tolist() == [0, 0, 1, 0, 1, 2]
    ingroup_forward(groups[:0], numbers[:0])


def test_operators_without_a_substitute_name_the_remedy():
    from nsmae_plugin.errors import HostError

    for extension, operators in uncompiled.OPERATORS.items():
        functions = uncompiled.refusing_functions(extension)
        assert set(functions) == set(operators)
        with pytest.raises(HostError, match=rf"{extension}\.{operators[-1]}.*setup\.py"):
            functions[operators[-1]](1, out=2)
