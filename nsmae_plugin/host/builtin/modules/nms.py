"""Non-maximum suppression as the POST_PROCESSING.NMS_CONFIG of a head asks for it."""

from typing import Any

from torch import Tensor

from nsmae_plugin.errors import HostError
from nsmae_plugin.ops.rotated_boxes import non_maximum_suppression

TYPES = {"nms_gpu": True, "nms_normal_gpu": False}  # NMS_TYPE -> whether the headings count


def check_type(config: Any) -> None:
    """Refuse what only OpenPCDet can do.

    Raises:
        HostError: an NMS_TYPE that is not in :data:`TYPES`, or one setting for each class.
    """
    if config.NMS_TYPE not in TYPES:
        raise HostError(
            f"the built-in host has no NMS_TYPE {config.NMS_TYPE!r}, only {', '.join(TYPES)}; "
            "choose one of them or use NSMAE_HOST=openpcdet"
        )
    for key in ("NMS_THRESH", "NMS_PRE_MAXSIZE", "NMS_POST_MAXSIZE"):
        if isinstance(config[key], list):
            raise HostError(
                f"the built-in host has one {key} for all classes, not {config[key]}: give a "
                "number or use NSMAE_HOST=openpcdet"
            )


def suppress(boxes: Tensor, scores: Tensor, config: Any) -> Tensor:
    """Indices of the boxes that stay, by descending score, whatever their class.

    Args:
        boxes: (n, 7 or more); what follows the yaw does not matter.
        scores: (n,).
        config: NMS_TYPE, NMS_THRESH (IoU from above), NMS_PRE_MAXSIZE, NMS_POST_MAXSIZE.

    Returns:
        (k,) int64 on the device of the boxes.
    """
    order = scores.topk(min(config.NMS_PRE_MAXSIZE, len(scores))).indices
    rotated = TYPES[config.NMS_TYPE]
    kept = non_maximum_suppression(boxes[order, :7], config.NMS_THRESH, rotated)
    return order[kept[: config.NMS_POST_MAXSIZE].to(order.device)]
