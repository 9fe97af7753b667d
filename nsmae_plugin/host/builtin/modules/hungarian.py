"""One-to-one matching of predicted with annotated boxes, as TransFusion trains with."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from nsmae_plugin.ops.rotated_boxes import pairwise_overlap

EPS = 1e-12  # keeps the logarithm of a saturated probability finite
WORST = 1e8  # stands for a cost that is not finite


class Matches(NamedTuple):
    """Pairs of a prediction with an object: indices (K,) int64, and their 3D overlap (K,)."""

    predictions: torch.Tensor
    objects: torch.Tensor
    iou: torch.Tensor


class HungarianAssigner:
    """Matches with the least sum of classification, distance and overlap cost.

    Args:
        cls_cost: ``weight``, ``alpha``, ``gamma`` of the focal cost.
        reg_cost: ``weight`` of the L1 distance of the centres, as a fraction of the range.
        iou_cost: ``weight`` of the (negative) 3D intersection over union.
        point_cloud_range: x, y, z from, x, y, z to, in metres.
    """

    def __init__(
        self,
        cls_cost: Mapping[str, Any],
        reg_cost: Mapping[str, Any],
        iou_cost: Mapping[str, Any],
        point_cloud_range: Sequence[float],
    ) -> None:
        self.cls_weight = float(cls_cost.get("weight", 0.15))
        self.alpha, self.gamma = float(cls_cost.get("alpha", 0.25)), cls_cost.get("gamma", 2.0)
        self.reg_weight = float(reg_cost.get("weight", 0.25))
        self.iou_weight = float(iou_cost.get("weight", 0.25))
        self.extent = [float(one) for one in point_cloud_range]

    @torch.no_grad()
    def match(
        self, boxes: torch.Tensor, logits: torch.Tensor, objects: torch.Tensor, labels: torch.Tensor
    ) -> Matches:
        """Match P predictions with G objects: min(P, G) pairs, none without objects.

        Args:
            boxes: (P, 7+), objects: (G, 7+) x, y, z, dx, dy, dz, yaw, of the same frame.
            logits: (P, classes). labels: (G,) int64 from 0.
        """
        boxes, logits, objects = boxes.float(), logits.float(), objects.float()
        iou = iou_3d(boxes, objects)
        cost = self.classification_cost(logits, labels) + self.distance_cost(boxes, objects)
        cost = cost - self.iou_weight * iou
        # A network that has diverged is matched all the same: its loss then tells which term broke.
        cost = torch.nan_to_num(cost, nan=WORST, posinf=WORST, neginf=-WORST)
        rows, columns = linear_sum_assignment(cost.cpu().numpy().astype(np.float64))
        predictions = torch.from_numpy(rows).to(boxes.device)
        matched = torch.from_numpy(columns).to(boxes.device)
        return Matches(predictions, matched, iou[predictions, matched])

    def classification_cost(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(P, G): focal loss of calling a prediction the object's class, less that of not."""
        p = logits.sigmoid()[:, labels]
        is_class = -(p + EPS).log() * self.alpha * (1 - p) ** self.gamma
        is_not = -(1 - p + EPS).log() * (1 - self.alpha) * p**self.gamma
        return self.cls_weight * (is_class - is_not)

    def distance_cost(self, boxes: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """(P, G): L1 distance of the centres in x and y, relative to the range."""
        extent = boxes.new_tensor(self.extent)
        size = extent[3:5] - extent[:2]
        offset = (boxes[:, None, :2] - objects[None, :, :2]) / size
        return self.reg_weight * offset.abs().sum(dim=-1)


def iou_3d(boxes: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every box with every object: (P, 7+), (G, 7+) -> (P, G).

    As in OpenPCDet's assigner, z is taken for the *bottom* of a box, although it is the centre:
    boxes of different heights get too small or too large an overlap, and only the matching and the
    logged ``matched_ious`` see it. Kept, so that both hosts match alike.
    """
    bottom = torch.maximum(boxes[:, None, 2], objects[None, :, 2])
    top = torch.minimum(
        boxes[:, None, 2] + boxes[:, None, 5], objects[None, :, 2] + objects[None, :, 5]
    )
    overlap = pairwise_overlap(boxes[:, :7], objects[:, :7]) * (top - bottom).clamp(min=0)
    volume = boxes[:, 3:6].prod(dim=1)[:, None] + objects[:, 3:6].prod(dim=1)
    return overlap / (volume - overlap).clamp(min=1e-8)
