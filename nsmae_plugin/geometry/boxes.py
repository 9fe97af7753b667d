"""3D boxes of a sample: their corners, and their place in the global frame.

A box is ``[x, y, z, dx, dy, dz, yaw, vx, vy]``: centre [m], length, width, height [m], heading
[rad, from x towards y], velocity [m/s], all in the LiDAR frame, without augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from nsmae_plugin.geometry.rotations import quaternion

COLUMNS = 9
# Signs of x (length) and y (width), counter-clockwise from the rear right.
GROUND_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
# Signs of x, y and z (height): the bottom, from the front left on, then the top.
CORNERS = np.array([[x, y, z] for z in (-1, 1) for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))])

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Boxes:
    """The boxes of one sample.

    Attributes:
        values: (n, 9) float64, as above; NaN for a velocity that nobody knows.
        names: (n,) the class of each.
        scores: (n,) in [0, 1], or None where they are certain (annotations).
    """

    values: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def above(self, score: float) -> Boxes:
        """The boxes with at least that score, and all boxes without a score."""
        return self if self.scores is None else self.where(self.scores >= score)

    def where(self, kept: np.ndarray) -> Boxes:
        """The boxes of a mask (n,)."""
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return Boxes(self.values[kept], names, None if self.scores is None else self.scores[kept])

    def corners(self) -> np.ndarray:
        """(n, 8, 3) corners in the order of ``CORNERS``, metres."""
        return box_points(self.values, CORNERS)


def make_boxes(values: Any, names: Sequence[str], scores: Any = None) -> Boxes:
    """Boxes from (n, 7 or more) numbers; columns after the ninth are dropped, missing ones NaN."""
    values = np.asarray(values, dtype=np.float64)
    values = values.reshape(len(names), values.shape[-1] if values.ndim == 2 else COLUMNS)
    missing = max(COLUMNS - values.shape[1], 0)
    values = np.pad(values[:, :COLUMNS], ((0, 0), (0, missing)), constant_values=np.nan)
    return Boxes(values, tuple(map(str, names)), None if scores is None else np.asarray(scores))


def box_points(boxes: Array, local: Array) -> Array:
    """Points fixed to boxes, for arrays and tensors alike.

    Args:
        boxes: (n, 7+), as above.
        local: (k, 3) in half sizes: [1, 0, 0] is the middle of the front face; or (k, 2) for
            points of the ground plane.

    Returns:
        (n, k, 3) or (n, k, 2) metres, in the frame of the boxes.
    """
    axes = local.shape[1]
    cosine, sine = _heading(boxes)
    points = local * boxes[:, None, 3 : 3 + axes] / 2
    x = points[..., 0] * cosine - points[..., 1] * sine
    y = points[..., 0] * sine + points[..., 1] * cosine
    points[..., 0], points[..., 1] = x, y
    return points + boxes[:, None, :axes]


def in_box_frame(points: Array, boxes: Array) -> Array:
    """Points along the axes of boxes, from their centres.

    Args:
        points: (n, k, 3) metres in the frame of the boxes, or (n, k, 2) in the ground plane; n may
            be 1, for the same points in all boxes.
        boxes: (n, 7+), as above.

    Returns:
        (n, k, 3 or 2) metres along length, width and height.
    """
    cosine, sine = _heading(boxes)
    local = points - boxes[:, None, : points.shape[2]]
    along = local[..., 0] * cosine + local[..., 1] * sine
    across = local[..., 1] * cosine - local[..., 0] * sine
    local[..., 0], local[..., 1] = along, across
    return local


def _heading(boxes: Array) -> tuple[Array, Array]:
    """(n, 1) cosine and sine of the yaw."""
    module: Any = torch if isinstance(boxes, torch.Tensor) else np
    return module.cos(boxes[:, 6, None]), module.sin(boxes[:, 6, None])


def lidar_to_global(info: Mapping[str, Any]) -> np.ndarray | None:
    """(4, 4) float64 from the LiDAR frame of a frame to the global one; None when not known.

    Args:
        info: entry of an info file.
    """
    if "ref_from_car" not in info or "car_from_global" not in info:
        return None
    return np.linalg.inv(np.asarray(info["ref_from_car"]) @ np.asarray(info["car_from_global"]))


def to_global(boxes: Boxes, matrix: np.ndarray) -> list[dict[str, Any]]:
    """The boxes as nuScenes writes them: one dict a box, global frame.

    Args:
        matrix: (4, 4), LiDAR frame to global frame, rigid.

    Returns:
        ``translation`` (3), metres; ``size`` width, length, height; ``rotation`` quaternion
        w, x, y, z; ``velocity`` (2), None when not known.
    """
    if not len(boxes):
        return []
    centres = boxes.values[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    rotations = quaternion(matrix[:3, :3], boxes.values[:, 6])
    velocities = boxes.values[:, 7:9] @ matrix[:2, :2].T
    result = []
    for centre, values, rotation, velocity in zip(
        centres, boxes.values, rotations, velocities, strict=True
    ):
        result.append(
            {
                "translation": centre.tolist(),
                "size": values[[4, 3, 5]].tolist(),
                "rotation": rotation.tolist(),
                "velocity": velocity.tolist() if np.isfinite(velocity).all() else None,
            }
        )
    return result
