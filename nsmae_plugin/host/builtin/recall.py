"""Recall of labelled boxes, counted as in OpenPCDet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nsmae_plugin.ops import rotated_boxes

SMALLEST_UNION = 1e-6  # cubic metres


def pairwise_iou_3d(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of volumes, every box with every other: (N, 7), (M, 7) -> (N, M)."""
    a, b = boxes_a[:, None], boxes_b[None]
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    height = (top - bottom).clamp(min=0)
    overlap = rotated_boxes.pairwise_overlap(boxes_a, boxes_b) * height
    union = a[..., 3:6].prod(-1) + b[..., 3:6].prod(-1) - overlap
    return overlap / union.clamp(min=SMALLEST_UNION)


def generate_recall_record(
    box_preds: Tensor,
    recall_dict: dict[str, int],
    batch_index: int,
    data_dict: dict[str, Any],
    thresh_list: Sequence[float],
) -> dict[str, int]:
    """Add a sample to the counts: ``gt`` labelled boxes, ``rcnn_<t>`` of them found at IoU > t.

    Args:
        box_preds: (n, 7 or more) boxes of the sample.
        recall_dict: the counts so far; empty at first.
        data_dict: ``gt_boxes`` (B, M, 8 or more), padded by rows of zeros; may lack it.
        thresh_list: volumetric IoUs.

    Returns:
        The new counts, with OpenPCDet's ``roi_<t>`` of its two-stage detectors as zeros.
    """
    if "gt_boxes" not in data_dict:
        return recall_dict
    names = [f"{stage}_{threshold}" for threshold in thresh_list for stage in ("roi", "rcnn")]
    counts = dict.fromkeys(["gt", *names], 0) | recall_dict
    labelled = data_dict["gt_boxes"][batch_index]
    labelled = labelled[labelled.any(dim=1)]
    best = box_preds.new_zeros(len(labelled))
    if len(box_preds) and len(labelled):
        best = pairwise_iou_3d(box_preds[:, :7], labelled[:, :7]).amax(dim=0)
    counts["gt"] += len(labelled)
    for threshold in thresh_list:
        counts[f"rcnn_{threshold}"] += int((best > threshold).sum())
    return counts
