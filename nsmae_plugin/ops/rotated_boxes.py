"""Overlap and non-maximum suppression of rotated boxes in bird's-eye view, in plain torch.

The overlap follows OpenPCDet's CUDA kernel (``iou3d_nms_kernel.cu``), so that evaluation and
suppression give the same results as a compiled build. That is not the exact polygon area: a corner
counts as inside the other box up to ``MARGIN`` = 1 cm outside of it, which can add up to about
0.05 m2 for vehicles.

Boxes are (..., 7): x, y, z of the centre, dx, dy, dz (metres) and heading (radians, from x to y).
"""

import torch

from nsmae_plugin.geometry.boxes import GROUND_CORNERS, box_points, in_box_frame

MARGIN = 1e-2  # metres
EPS = 1e-8  # the smallest union of two boxes, square metres

# Pairs evaluated at once; 24 candidate vertices each, so about 100 MB of temporaries.
_PAIRS_PER_CHUNK = 1 << 17
# Elements of the matrix of centre distances that is built at once.
_DISTANCES_PER_CHUNK = 1 << 22


def paired_overlap(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """Overlap of ``boxes_a[i]`` with ``boxes_b[i]`` in square metres: (P, 7), (P, 7) -> (P,)."""
    if len(boxes_a) == 0:
        return boxes_a.new_zeros(0)
    chunks = zip(boxes_a.split(_PAIRS_PER_CHUNK), boxes_b.split(_PAIRS_PER_CHUNK), strict=True)
    return torch.cat([_overlap(a, b) for a, b in chunks])


def pairwise_overlap(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """Overlap of every box with every other in square metres: (N, 7), (M, 7) -> (N, M)."""
    overlap = boxes_a.new_zeros(len(boxes_a), len(boxes_b))
    rows, columns = neighbours(boxes_a, boxes_b)
    overlap[rows, columns] = paired_overlap(boxes_a[rows], boxes_b[columns])
    return overlap


def paired_iou(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of ``boxes_a[i]`` with ``boxes_b[i]``: (P, 7), (P, 7) -> (P,)."""
    return _iou(paired_overlap(boxes_a, boxes_b), _area(boxes_a), _area(boxes_b))


def pairwise_iou(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every box with every other: (N, 7), (M, 7) -> (N, M)."""
    overlap = pairwise_overlap(boxes_a, boxes_b)
    return _iou(overlap, _area(boxes_a)[:, None], _area(boxes_b)[None, :])


def paired_axis_aligned_iou(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """As :func:`paired_iou`, ignoring the headings."""
    low = torch.maximum(boxes_a[:, :2] - boxes_a[:, 3:5] / 2, boxes_b[:, :2] - boxes_b[:, 3:5] / 2)
    high = torch.minimum(boxes_a[:, :2] + boxes_a[:, 3:5] / 2, boxes_b[:, :2] + boxes_b[:, 3:5] / 2)
    overlap = (high - low).clamp(min=0).prod(dim=1)
    return _iou(overlap, _area(boxes_a), _area(boxes_b))


def neighbours(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index pairs whose circumscribed circles (with margin) meet; no others can overlap.

    Returns:
        (rows, columns), each (P,), in row-major order.
    """
    reach_a = torch.linalg.vector_norm(boxes_a[:, 3:5], dim=1) / 2 + 2 * MARGIN
    reach_b = torch.linalg.vector_norm(boxes_b[:, 3:5], dim=1) / 2 + 2 * MARGIN
    rows, columns = [], []
    step = max(1, _DISTANCES_PER_CHUNK // max(1, len(boxes_b)))
    for start in range(0, len(boxes_a), step):
        part = slice(start, start + step)
        offset = boxes_a[part, None, :2] - boxes_b[None, :, :2]
        distance = torch.linalg.vector_norm(offset, dim=-1)
        near = distance <= reach_a[part, None] + reach_b[None, :]
        row, column = near.nonzero(as_tuple=True)
        rows.append(row + start)
        columns.append(column)
    if not rows:
        empty = torch.zeros(0, dtype=torch.long, device=boxes_a.device)
        return empty, empty
    return torch.cat(rows), torch.cat(columns)


def non_maximum_suppression(
    boxes: torch.Tensor, threshold: float, rotated: bool = True
) -> torch.Tensor:
    """Indices of the boxes that no kept box before them overlaps by more than ``threshold``.

    Args:
        boxes: (N, 7), by descending score.
        rotated: False ignores the headings.

    Returns:
        (K,) ascending int64 indices on the CPU.
    """
    rows, columns = neighbours(boxes, boxes)  # holds for any heading
    later = columns > rows
    rows, columns = rows[later], columns[later]
    iou = paired_iou if rotated else paired_axis_aligned_iou
    suppresses = iou(boxes[rows], boxes[columns]) > threshold
    return _greedy(len(boxes), rows[suppresses].cpu(), columns[suppresses].cpu())


def _greedy(count: int, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Keep boxes in order; each kept box removes its columns. ``rows`` is ascending."""
    ends = torch.bincount(rows, minlength=count).cumsum(0).tolist()
    victims = columns.numpy()
    alive = torch.ones(count, dtype=torch.bool)
    flags = alive.numpy()  # shares the memory: writing single flags through torch is slow
    start = 0
    for index, end in enumerate(ends):
        if flags[index]:
            flags[victims[start:end]] = False
        start = end
    return alive.nonzero().flatten()


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return boxes[:, 3] * boxes[:, 4]


def _iou(overlap: torch.Tensor, area_a: torch.Tensor, area_b: torch.Tensor) -> torch.Tensor:
    return overlap / (area_a + area_b - overlap).clamp(min=EPS)


def _overlap(boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """Area of the polygon through crossings of edges and (nearly) enclosed corners, (P,)."""
    # Relative to box a: float32 keeps its digits for the shape instead of for the position.
    origin = boxes_a[:, :2]
    boxes_a, boxes_b = _relative(boxes_a, origin), _relative(boxes_b, origin)
    corners_a, corners_b = _corners(boxes_a), _corners(boxes_b)
    crossings, crossed = _crossings(corners_a, corners_b)
    vertices = torch.cat([crossings, corners_b, corners_a], dim=1)
    b_in_a = _inside(corners_b, boxes_a)
    a_in_b = _inside(corners_a, boxes_b)
    return _polygon_area(vertices, torch.cat([crossed, b_in_a, a_in_b], dim=1))


def _relative(boxes: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """The boxes moved so that ``origin`` (P, 2) is 0, 0."""
    return torch.cat([boxes[:, :2] - origin, boxes[:, 2:7]], dim=1)


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    """Corners in the ground plane, counter-clockwise: (P, 4, 2)."""
    return box_points(boxes, boxes.new_tensor(GROUND_CORNERS))


def _inside(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(P, K) bool: points (P, K, 2) in their box, or less than MARGIN outside of it."""
    half = boxes[:, None, 3:5] / 2 + MARGIN
    return (in_box_frame(points, boxes).abs() < half).all(dim=-1)


def _cross(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def _crossings(corners_a: torch.Tensor, corners_b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Crossings of the edges of a and b: (P, 16, 2), and a bool mask of those that exist, (P, 16).

    Only proper crossings count; edges that touch at an end or lie on each other do not.
    """
    p0, p1 = corners_a[:, :, None], corners_a.roll(-1, dims=1)[:, :, None]
    q0, q1 = corners_b[:, None, :], corners_b.roll(-1, dims=1)[:, None, :]
    edge_a, edge_b = p1 - p0, q1 - q0
    q_sides = _cross(edge_a, q0 - p0), _cross(edge_a, q1 - p0)
    p_sides = _cross(edge_b, p0 - q0), _cross(edge_b, p1 - q0)
    crossed = (q_sides[0] * q_sides[1] < 0) & (p_sides[0] * p_sides[1] < 0)
    step = torch.where(crossed, q_sides[0] / (q_sides[0] - q_sides[1]), 0)
    return (q0 + step[..., None] * edge_b).flatten(1, 2), crossed.flatten(1)


def _polygon_area(vertices: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Area of the polygon through the valid vertices, ordered by angle around their mean.

    Args:
        vertices: (P, V, 2). valid: (P, V) bool.
    """
    count = valid.sum(dim=1, keepdim=True)
    vertices = torch.where(valid[..., None], vertices, 0)
    vertices = vertices - vertices.sum(dim=1, keepdim=True) / count.clamp(min=1)[..., None]
    angle = torch.atan2(vertices[..., 1], vertices[..., 0])
    order = torch.where(valid, angle, torch.inf).argsort(dim=1, stable=True)
    ring = vertices.gather(1, order[..., None].expand_as(vertices))
    # Invalid vertices come last; a copy of the first one there closes the ring and adds no area.
    last = torch.arange(ring.shape[1], device=ring.device) >= count
    ring = torch.where(last[..., None], ring[:, :1], ring)
    return _cross(ring, ring.roll(-1, dims=1)).sum(dim=1).abs() / 2
