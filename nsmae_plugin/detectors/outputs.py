"""The kinds of predictions of a detector."""

from __future__ import annotations

from typing import Any

BOXES, MAP, RENDERINGS = "boxes", "map", "renderings"


def outputs_of(detector: type, model_cfg: Any) -> frozenset[str]:
    """Return which of :data:`BOXES`, :data:`MAP` and :data:`RENDERINGS` a detector predicts.

    Args:
        detector: its class, which may say so by a static method ``outputs(model_cfg)``. Classes
            without it, such as OpenPCDet's, predict boxes.
        model_cfg: the section MODEL.
    """
    outputs = getattr(detector, "outputs", None)
    return frozenset({BOXES} if outputs is None else outputs(model_cfg))
