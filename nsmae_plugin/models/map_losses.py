"""Losses of map segmentation: binary per class and cell, since classes may overlap.

As the published code of BEVFusion (mit-han-lab/bevfusion, ``BEVSegmentationHead``) and NS-MAE: the
mean over samples and cells, for each class; the classes' means are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from nsmae_plugin.models.module_config import MapLoss
from nsmae_plugin.ops.compositing import at_least_float32

GAMMA, ALPHA = 2.0, -1.0  # published; a negative alpha balances nothing

#: (logits, target) -> loss of each class.
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each class.

    Args:
        logits: (B, C, Y, X).
        target: (B, C, Y, X) bool.

    Returns:
        (C,), at least float32.
    """
    return F.softplus(-_towards(logits, target)).mean(dim=(0, 2, 3))


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float = GAMMA, alpha: float = ALPHA
) -> Tensor:
    """Cross-entropy times ``(1 - p) ** gamma``, with ``p`` the probability of the truth.

    From RetinaNet (arXiv 1708.02002). Shapes and type as :func:`cross_entropy`. Written with
    logarithms, so that gradients stay finite for any gamma and any logit.

    Args:
        gamma: 0 is cross-entropy; the larger, the less do cells count that are right already.
        alpha: weight of the cells in the class, 1 - alpha that of the others; negative: 1 for both.
    """
    towards = _towards(logits, target)
    loss = F.softplus(-towards) * (-gamma * F.softplus(towards)).exp()
    if alpha >= 0:
        loss = loss * (alpha * target + (1 - alpha) * ~target)
    return loss.mean(dim=(0, 2, 3))


def _towards(logits: Tensor, target: Tensor) -> Tensor:
    """Logit of the truth: positive where a cell is right."""
    logits = at_least_float32(logits)
    return logits.where(target, -logits)


def map_loss(config: MapLoss) -> Loss:
    """The loss of a section ``MODEL.MAP_HEAD.LOSS_CONFIG``."""
    if config.LOSS == "cross_entropy":
        return cross_entropy
    return partial(focal_loss, gamma=config.GAMMA, alpha=config.ALPHA)
