"""Box coding, matching and training targets of TransFusion's head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.ops.heatmap import draw_gaussian, gaussian_radius
from nsmae_plugin.ops.rotated_boxes import pairwise_overlap

EPS = 1e-12  # keeps the logarithm of a saturated probability finite
WORST = 1e8  # stands for a cost that is not finite
Predictions = Mapping[str, torch.Tensor]


def encode_boxes(boxes: torch.Tensor, grid: BEVGrid) -> torch.Tensor:
    """(K, 7 or 9) metres, radians, m/s -> (K, 8 or 10): x, y in cells, z in metres, logarithms of
    dx, dy, dz, sine and cosine of the heading, and the velocity when it is there."""
    yaw = boxes[:, 6:7]
    parts = (grid.coordinates(boxes[:, :2]), boxes[:, 2:3], boxes[:, 3:6].log())
    return torch.cat([*parts, yaw.sin(), yaw.cos(), boxes[:, 7:]], dim=1)


def decode_boxes(predictions: Predictions, grid: BEVGrid) -> torch.Tensor:
    """Boxes (B, P, 7 or 9) of ``center`` (B, 2, P) in cells, ``height`` (B, 1, P), ``dim``
    (B, 3, P) logarithms, ``rot`` (B, 2, P) sine and cosine, and ``vel`` (B, 2, P) if there."""
    sine, cosine = predictions["rot"].split(1, dim=1)
    parts = {key: predictions[key].transpose(1, 2) for key in ("center", "height", "dim")}
    yaw = torch.atan2(sine, cosine).transpose(1, 2)
    boxes = [grid.metres(parts["center"]), parts["height"], parts["dim"].exp(), yaw]
    if "vel" in predictions:
        boxes.append(predictions["vel"].transpose(1, 2))
    return torch.cat(boxes, dim=-1)


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
        # A diverged network is matched, too: its loss then shows which term failed.
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


@dataclass(frozen=True)
class Targets:
    """Training targets of the queries and the heatmap of a batch.

    labels: (B, P) int64 from 0; the number of classes means background.
    boxes, box_weights: (B, P, 8 or 10) encoded; weight 0 where there is nothing to learn.
    heatmap: (B, classes, Y, X).
    num_matched: matched queries of the batch. matched_iou: (), their mean overlap, by sample.
    """

    labels: torch.Tensor
    boxes: torch.Tensor
    box_weights: torch.Tensor
    heatmap: torch.Tensor
    num_matched: int
    matched_iou: torch.Tensor


class TargetAssigner:
    """Targets of a batch: matches by the Hungarian method, and one Gaussian per object.

    Args:
        config: TARGET_ASSIGNER_CONFIG: GAUSSIAN_OVERLAP, MIN_RADIUS (cells), HUNGARIAN_ASSIGNER.
        point_cloud_range: in metres.
        code_size: 8, or 10 with velocities.
    """

    def __init__(
        self,
        config: Any,
        grid: BEVGrid,
        point_cloud_range: Sequence[float],
        num_class: int,
        code_size: int,
    ) -> None:
        self.grid, self.num_class, self.code_size = grid, num_class, code_size
        self.min_overlap, self.min_radius = config.GAUSSIAN_OVERLAP, config.MIN_RADIUS
        self.matcher = HungarianAssigner(
            **config.HUNGARIAN_ASSIGNER, point_cloud_range=point_cloud_range
        )

    @torch.no_grad()
    def assign(self, predictions: Predictions, gt_boxes: torch.Tensor) -> Targets:
        """Targets of a batch.

        Args:
            predictions: as :func:`decode_boxes` reads them, and ``heatmap`` (B, classes, P) logits.
            gt_boxes: (B, M, 8 or 10) boxes, velocity, label from 1; rows without size are padding.

        Raises:
            ConfigError: boxes without velocity for a head that predicts it.
        """
        boxes = decode_boxes(predictions, self.grid)
        logits = predictions["heatmap"].transpose(1, 2)
        gt_boxes = self._with_code_size(gt_boxes.float())
        present = [one[(one[:, 3:6] > 0).all(dim=1)] for one in gt_boxes]
        samples = [self._assign_sample(*one) for one in zip(boxes, logits, present, strict=True)]
        labels, targets, weights, ious = zip(*samples, strict=True)
        return Targets(
            labels=torch.stack(labels),
            boxes=torch.stack(targets),
            box_weights=torch.stack(weights),
            heatmap=torch.stack([self.draw_heatmap(one) for one in present]),
            num_matched=sum(len(one) for one in ious),
            matched_iou=torch.stack([one.sum() / max(len(one), 1) for one in ious]).mean(),
        )

    def _with_code_size(self, gt_boxes: torch.Tensor) -> torch.Tensor:
        """Boxes with the numbers that the head predicts: velocities are dropped if it has none."""
        wanted = self.code_size - 1  # one angle for sine and cosine
        if gt_boxes.shape[-1] - 1 < wanted:
            raise ConfigError(
                f"the head predicts velocities ('vel' in HEAD_ORDER) but gt_boxes has "
                f"{gt_boxes.shape[-1]} columns: set DATA_CONFIG.PRED_VELOCITY to True"
            )
        return torch.cat([gt_boxes[..., :wanted], gt_boxes[..., -1:]], dim=-1)

    def _assign_sample(
        self, boxes: torch.Tensor, logits: torch.Tensor, objects: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Labels (P,), boxes and weights (P, code) of one sample, and its matches' overlaps."""
        labels = torch.full((len(boxes),), self.num_class, device=boxes.device)
        targets = boxes.new_zeros(len(boxes), self.code_size, dtype=torch.float32)
        weights = torch.zeros_like(targets)
        classes = objects[:, -1].long() - 1
        matches = self.matcher.match(boxes, logits, objects[:, :-1], classes)
        labels[matches.predictions] = classes[matches.objects]
        encoded = encode_boxes(objects[matches.objects, :-1], self.grid)
        # nuScenes has no velocity for objects that are annotated once.
        known = encoded.isfinite()
        targets[matches.predictions] = torch.where(known, encoded, 0)
        weights[matches.predictions] = known.float()
        return labels, targets, weights, matches.iou.clamp(0, 1)

    def draw_heatmap(self, objects: torch.Tensor) -> torch.Tensor:
        """(classes, Y, X) of objects (G, 8 or 10), on their device."""
        rows, columns = self.grid.shape
        heatmap = torch.zeros(self.num_class, rows, columns)
        local = objects.cpu()  # a few numbers; cell by cell on a GPU would be many small kernels
        size = self.grid.in_cells(local[:, 3:5])
        radii = gaussian_radius(size[:, 1], size[:, 0], self.min_overlap).int()
        centers = self.grid.coordinates(local[:, :2]).int()
        for label, center, radius in zip(
            local[:, -1].long().tolist(), centers.tolist(), radii.tolist(), strict=True
        ):
            draw_gaussian(heatmap[label - 1], tuple(center), max(self.min_radius, radius))
        return heatmap.to(objects.device)
