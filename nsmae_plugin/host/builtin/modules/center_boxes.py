"""Boxes from the maps of a CenterHead."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nsmae_plugin.geometry.bev_grid import BEVGrid


def gather(maps: Tensor, cells: Tensor) -> Tensor:
    """The values of (B, C, Y, X) maps at (B, K) flat cells (row * X + column): (B, K, C)."""
    rows = maps.flatten(2).transpose(1, 2)
    return rows.gather(1, cells[..., None].expand(-1, -1, rows.shape[2]))


def decode(
    maps: Mapping[str, Tensor],
    grid: BEVGrid,
    limits: Sequence[float],
    count: int,
    score_threshold: float,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The boxes at the ``count`` highest scores of each sample, over all classes of the group.

    Neighbouring cells may give nearly the same box: suppression is the caller's.

    Args:
        maps: ``hm`` logits (B, classes, Y, X), ``center`` (2 channels, the offset from the corner
            of the cell in cells), ``center_z`` (1, metres), ``dim`` (3, logarithms of metres),
            ``rot`` (2, cosine and sine of the yaw), optionally ``vel`` (2, metres per second).
        limits: lower and upper x, y, z within which centres may lie.
        score_threshold: scores must be higher.

    Returns:
        Per sample boxes (n, 7 or 9) in the LiDAR frame, scores (n,) and classes (n,), by
        descending score.
    """
    classes, height, width = maps["hm"].shape[1:]
    scores = maps["hm"].sigmoid().flatten(1)
    scores, places = scores.topk(min(count, classes * height * width))  # (B, K)
    cells = places % (height * width)
    boxes = _boxes_at(maps, cells, width, grid)
    low, high = torch.tensor(limits, dtype=boxes.dtype, device=boxes.device).view(2, 3)
    inside = ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(-1)
    keep = inside & (scores > score_threshold)
    found = zip(boxes, scores, places // (height * width), keep, strict=True)
    return [(box[mask], score[mask], label[mask]) for box, score, label, mask in found]


def _boxes_at(maps: Mapping[str, Tensor], cells: Tensor, width: int, grid: BEVGrid) -> Tensor:
    """(B, K, 7 or 9) boxes of the maps at (B, K) flat cells."""
    corners = torch.stack((cells % width, cells // width), dim=-1)
    cosine, sine = gather(maps["rot"], cells).split(1, dim=-1)
    parts = [
        grid.metres(corners + gather(maps["center"], cells)),
        gather(maps["center_z"], cells),
        gather(maps["dim"], cells).exp(),
        torch.atan2(sine, cosine),
    ]
    if "vel" in maps:
        parts.append(gather(maps["vel"], cells))
    return torch.cat(parts, dim=-1)
