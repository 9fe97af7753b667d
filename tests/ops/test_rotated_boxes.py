"""Rotated overlap, IoU and suppression against an independent scalar reference and shapely."""

import math

import pytest
import torch
from shapely.geometry import Polygon

from nsmae_plugin.ops import rotated_boxes
from nsmae_plugin.ops.compiled import iou3d_nms_cuda


def box(x, y, dx, dy, heading=0.0):
    return [x, y, 0.0, dx, dy, 1.0, heading]


def random_boxes(count, seed, spread=10.0, dtype=torch.float64):
    """Crowded boxes of the sizes of nuScenes classes, any heading."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    low = torch.tensor([-spread / 2, -spread / 2, -1, 0.3, 0.3, 0.5, -math.pi])
    high = torch.tensor([spread / 2, spread / 2, 1, 12.0, 3.0, 3.5, math.pi])
    return (low + draw * (high - low)).to(dtype)


def detections(seed):
    """Boxes as a detector gives them: several guesses for each of a few objects, in any order."""
    generator = torch.Generator().manual_seed(seed)
    guesses = random_boxes(15, seed, spread=40.0).repeat(6, 1)
    guesses += 0.2 * torch.randn(guesses.shape, generator=generator)
    guesses[:, 3:6].clamp_(min=0.2)
    return guesses[torch.randperm(len(guesses), generator=generator)]


def corners(b):
    cos, sin = math.cos(b[6]), math.sin(b[6])
    signs = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    local = [(sx * b[3] / 2, sy * b[4] / 2) for sx, sy in signs]
    return [(b[0] + u * cos - v * sin, b[1] + u * sin + v * cos) for u, v in local]


def inside(point, b, margin=0.01):
    cos, sin = math.cos(b[6]), math.sin(b[6])
    u, v = point[0] - b[0], point[1] - b[1]
    along, across = u * cos + v * sin, v * cos - u * sin
    return abs(along) < b[3] / 2 + margin and abs(across) < b[4] / 2 + margin


def crossing(p, q, r, s):
    """Where the open segments pq and rs meet: solves p + t (q - p) = r + u (s - r)."""
    a, b = q[0] - p[0], r[0] - s[0]
    c, d = q[1] - p[1], r[1] - s[1]
    determinant = a * d - b * c
    if determinant == 0:
        return None
    t = ((r[0] - p[0]) * d - b * (r[1] - p[1])) / determinant
    u = (a * (r[1] - p[1]) - c * (r[0] - p[0])) / determinant
    return (p[0] + t * a, p[1] + t * c) if 0 < t < 1 and 0 < u < 1 else None


def kernel_overlap(a, b):
    """What OpenPCDet's kernel computes: the polygon through proper crossings of the edges and
    corners that are less than 1 cm outside of the other box, ordered by angle about their mean."""
    ca, cb = corners(a), corners(b)
    points = [
        crossing(ca[i], ca[(i + 1) % 4], cb[j], cb[(j + 1) % 4]) for i in range(4) for j in range(4)
    ]
    points = [p for p in points if p is not None]
    points += [p for p in cb if inside(p, a)] + [p for p in ca if inside(p, b)]
    if len(points) < 3:
        return 0.0
    mx, my = (sum(p[k] for p in points) / len(points) for k in (0, 1))
    points.sort(key=lambda p: math.atan2(p[1] - my, p[0] - mx))
    twice = sum(
        p[0] * q[1] - p[1] * q[0] for p, q in zip(points, points[1:] + points[:1], strict=True)
    )
    return abs(twice) / 2


def kernel_iou(a, b):
    overlap = kernel_overlap(a, b)
    return overlap / max(a[3] * a[4] + b[3] * b[4] - overlap, 1e-8)


def loop_nms(boxes, threshold, iou):
    kept = []
    for i, candidate in enumerate(boxes):
        if all(iou(boxes[k], candidate) <= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize(
    ("a", "b", "area"),
    [
        (box(0, 0, 4, 2), box(0, 0, 4, 2, math.pi / 2), 4.0),  # a cross: its 2 x 2 centre
        (box(0, 0, 2, 2), box(0, 0, 2, 2, math.pi / 4), 8 * (math.sqrt(2) - 1)),  # an octagon
        (box(0, 0, 1, 1), box(0.5, 0, 1, 1), 0.5),
        (box(0, 0, 4, 4), box(0.5, -0.5, 1, 2, 0.3), 2.0),  # one inside the other
        (box(7, -3, 4, 2, 0.7), box(7, -3, 4, 2, 0.7), 8.0),  # identical
        (box(0, 0, 1, 1), box(3, 0, 1, 1), 0.0),
        # A gap of 5 mm lies within the kernel's margin: it counts as a sliver of 1 m x 5 mm.
        (box(0, 0, 1, 1), box(1.005, 0, 1, 1), 0.005),
        (box(0, 0, 1, 1), box(1.015, 0, 1, 1), 0.0),
    ],
)
def test_overlap_has_the_hand_computed_area(a, b, area, device):
    a, b = (torch.tensor([values], device=device) for values in (a, b))
    for function in (rotated_boxes.paired_overlap, rotated_boxes.pairwise_overlap):
        # float32, areas of a few square metres
        assert function(a, b).item() == pytest.approx(area, abs=1e-5)
        assert function(b, a).item() == pytest.approx(area, abs=1e-5)


def test_overlap_matches_the_scalar_reference_of_the_kernel(device):
    a, b = random_boxes(40, seed=0).to(device), random_boxes(50, seed=1).to(device)
    expected = [[kernel_overlap(x, y) for y in b.tolist()] for x in a.tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    overlap = rotated_boxes.pairwise_overlap(a, b).cpu()
    # float64 on both sides: rounding only
    torch.testing.assert_close(overlap, expected, rtol=0, atol=1e-9)
    assert (overlap > 0).float().mean() > 0.2  # the boxes do meet


def test_float32_far_from_the_origin_keeps_the_area(device):
    """At 50 m float32 resolves 4 um; an overlap of up to 36 m2 must not lose more than 1e-3."""
    shift = torch.tensor([50.0, -50.0, 0, 0, 0, 0, 0])
    a, b = random_boxes(60, seed=2) + shift, random_boxes(60, seed=3) + shift
    exact = rotated_boxes.paired_overlap(a, b)
    single = rotated_boxes.paired_overlap(a.float().to(device), b.float().to(device))
    torch.testing.assert_close(single.cpu().double(), exact, rtol=0, atol=1e-3)


def test_overlap_differs_from_the_polygon_by_the_margin_only():
    a, b = random_boxes(40, seed=4), random_boxes(40, seed=5)
    exact = torch.tensor(
        [[Polygon(corners(x)).intersection(Polygon(corners(y))).area for y in b] for x in a]
    )
    # a 12 m edge times 1 cm, of which the margin can add about a third
    assert (rotated_boxes.pairwise_overlap(a, b) - exact).abs().max() < 0.05


def test_iou_does_not_depend_on_order_half_turns_or_place():
    a, b = random_boxes(50, seed=6), random_boxes(50, seed=7)
    iou = rotated_boxes.paired_iou(a, b)
    half_turn = torch.tensor([0, 0, 0, 0, 0, 0, math.pi], dtype=torch.float64)
    moved = torch.tensor([31, -17, 2, 0, 0, 0, 0], dtype=torch.float64)
    for other in (
        rotated_boxes.paired_iou(b, a),
        rotated_boxes.paired_iou(a + half_turn, b),
        rotated_boxes.paired_iou(a + moved, b + moved),
    ):
        torch.testing.assert_close(other, iou, rtol=0, atol=1e-9)
    assert iou.max() <= 1 + 1e-9


def test_neighbours_lose_no_overlapping_pair(monkeypatch):
    """Pairs left out must have no overlap, also when the distances are computed in pieces."""
    monkeypatch.setattr(rotated_boxes, "_DISTANCES_PER_CHUNK", 100)
    a, b = random_boxes(30, seed=8, spread=60.0), random_boxes(40, seed=9, spread=60.0)
    everything = rotated_boxes.paired_overlap(
        a.repeat_interleave(len(b), dim=0), b.repeat(len(a), 1)
    ).view(len(a), len(b))
    torch.testing.assert_close(rotated_boxes.pairwise_overlap(a, b), everything)
    rows, _ = rotated_boxes.neighbours(a, b)
    assert len(rows) < everything.numel() / 2
    assert bool((rows.diff() >= 0).all())


def test_pieces_give_the_same_overlap(monkeypatch):
    a, b = random_boxes(23, seed=10), random_boxes(23, seed=11)
    whole = rotated_boxes.paired_overlap(a, b)
    monkeypatch.setattr(rotated_boxes, "_PAIRS_PER_CHUNK", 5)
    torch.testing.assert_close(rotated_boxes.paired_overlap(a, b), whole, rtol=0, atol=0)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.7])
def test_rotated_suppression_matches_the_loop_over_the_kernel_iou(threshold, device):
    boxes = detections(seed=12)
    expected = loop_nms(boxes.tolist(), threshold, kernel_iou)
    assert 5 < len(expected) < len(boxes)
    keep = torch.full((len(boxes),), -1)
    count = iou3d_nms_cuda.nms_gpu(boxes.to(device), keep, threshold)
    assert keep[:count].tolist() == expected


def test_axis_aligned_suppression_ignores_the_heading(device):
    boxes = detections(seed=13)

    def iou(a, b):
        width = min(a[0] + a[3] / 2, b[0] + b[3] / 2) - max(a[0] - a[3] / 2, b[0] - b[3] / 2)
        height = min(a[1] + a[4] / 2, b[1] + b[4] / 2) - max(a[1] - a[4] / 2, b[1] - b[4] / 2)
        overlap = max(width, 0) * max(height, 0)
        return overlap / (a[3] * a[4] + b[3] * b[4] - overlap)

    expected = loop_nms(boxes.tolist(), 0.2, iou)
    assert 5 < len(expected) < len(boxes)
    keep = torch.full((len(boxes),), -1)
    count = iou3d_nms_cuda.nms_normal_gpu(boxes.to(device), keep, 0.2)
    assert keep[:count].tolist() == expected


def test_a_suppressed_box_suppresses_nothing():
    """b loses against a and must not remove c, which only b overlaps."""
    chain = torch.tensor([box(0, 0, 2, 1), box(1, 0, 2, 1), box(2, 0, 2, 1)])
    assert rotated_boxes.non_maximum_suppression(chain, 0.3).tolist() == [0, 2]


@pytest.mark.parametrize("count", [0, 1])
def test_suppression_of_none_and_one(count, device):
    boxes = random_boxes(count, seed=14, dtype=torch.float32).to(device)
    for suppress in (iou3d_nms_cuda.nms_gpu, iou3d_nms_cuda.nms_normal_gpu):
        assert suppress(boxes, torch.zeros(count, dtype=torch.long), 0.5) == count


def test_empty_sets_have_empty_overlaps(device):
    none, some = torch.zeros(0, 7, device=device), random_boxes(3, 15).float().to(device)
    assert rotated_boxes.pairwise_iou(none, some).shape == (0, 3)
    assert rotated_boxes.pairwise_iou(some, none).shape == (3, 0)
    assert rotated_boxes.paired_iou(none, none).shape == (0,)


def test_boxes_without_a_number_overlap_nothing(device):
    boxes = torch.tensor([box(0, 0, 4, 2), box(math.nan, 0, 4, 2)], device=device)
    assert rotated_boxes.pairwise_iou(boxes, boxes).tolist() == [[pytest.approx(1), 0], [0, 0]]


def test_extension_functions_write_into_their_output(device):
    a, b = random_boxes(6, 16).to(device), random_boxes(6, 17).to(device)
    matrix = rotated_boxes.pairwise_overlap(a, b)
    iou = rotated_boxes.pairwise_iou(a, b)
    for function, expected in (
        (iou3d_nms_cuda.boxes_overlap_bev_gpu, matrix),
        (iou3d_nms_cuda.boxes_iou_bev_gpu, iou),
        (iou3d_nms_cuda.boxes_iou_bev_cpu, iou),
        (iou3d_nms_cuda.paired_boxes_overlap_bev_gpu, matrix.diagonal()[:, None]),
        (iou3d_nms_cuda.boxes_aligned_overlap_bev_gpu, matrix.diagonal()[:, None]),
        (iou3d_nms_cuda.boxes_aligned_iou_bev_cpu, iou.diagonal()[:, None]),
    ):
        out = torch.full_like(expected, -1)
        assert function(a, b, out) == 1
        torch.testing.assert_close(out, expected)
