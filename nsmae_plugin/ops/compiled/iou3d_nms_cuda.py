"""Torch-native ``iou3d_nms_cuda``: rotated overlap, IoU and NMS under OpenPCDet's signatures.

Same functions as the extension (``pcdet/ops/iou3d_nms/src/iou3d_nms_api.cpp``); results are written
into the last tensor argument. The names say ``gpu`` or ``cpu``, the tensors may be on either.
"""

import torch

from nsmae_plugin.ops import rotated_boxes

__all__ = [
    "boxes_aligned_iou_bev_cpu",
    "boxes_aligned_overlap_bev_gpu",
    "boxes_iou_bev_cpu",
    "boxes_iou_bev_gpu",
    "boxes_overlap_bev_gpu",
    "nms_gpu",
    "nms_normal_gpu",
    "paired_boxes_overlap_bev_gpu",
]


def boxes_overlap_bev_gpu(
    boxes_a: torch.Tensor, boxes_b: torch.Tensor, ans_overlap: torch.Tensor
) -> int:
    """Overlaps (N, M) of boxes (N, 7) and (M, 7), square metres."""
    ans_overlap.copy_(rotated_boxes.pairwise_overlap(boxes_a, boxes_b))
    return 1


def paired_boxes_overlap_bev_gpu(
    boxes_a: torch.Tensor, boxes_b: torch.Tensor, ans_overlap: torch.Tensor
) -> int:
    """Overlaps (N, 1) of corresponding boxes (N, 7), square metres."""
    ans_overlap.copy_(rotated_boxes.paired_overlap(boxes_a, boxes_b).view_as(ans_overlap))
    return 1


boxes_aligned_overlap_bev_gpu = paired_boxes_overlap_bev_gpu


def boxes_iou_bev_gpu(boxes_a: torch.Tensor, boxes_b: torch.Tensor, ans_iou: torch.Tensor) -> int:
    """Intersections over union (N, M) of boxes (N, 7) and (M, 7)."""
    ans_iou.copy_(rotated_boxes.pairwise_iou(boxes_a, boxes_b))
    return 1


boxes_iou_bev_cpu = boxes_iou_bev_gpu


def boxes_aligned_iou_bev_cpu(
    boxes_a: torch.Tensor, boxes_b: torch.Tensor, ans_iou: torch.Tensor
) -> int:
    """Intersections over union (N, 1) of corresponding boxes (N, 7)."""
    ans_iou.copy_(rotated_boxes.paired_iou(boxes_a, boxes_b).view_as(ans_iou))
    return 1


def nms_gpu(boxes: torch.Tensor, keep: torch.Tensor, nms_overlap_thresh: float) -> int:
    """Rotated NMS of boxes (N, 7) sorted by descending score.

    Returns:
        How many boxes stay; their indices are the first elements of ``keep`` (N,) int64, CPU.
    """
    return _suppress(boxes, keep, nms_overlap_thresh, rotated=True)


def nms_normal_gpu(boxes: torch.Tensor, keep: torch.Tensor, nms_overlap_thresh: float) -> int:
    """As :func:`nms_gpu`, ignoring the headings."""
    return _suppress(boxes, keep, nms_overlap_thresh, rotated=False)


def _suppress(boxes: torch.Tensor, keep: torch.Tensor, threshold: float, rotated: bool) -> int:
    kept = rotated_boxes.non_maximum_suppression(boxes, threshold, rotated)
    keep[: len(kept)] = kept
    return len(kept)
