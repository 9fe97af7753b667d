"""Map head: classifies each BEV cell.

The losses are binary per class and cell, since classes may overlap. As in the published code of
BEVFusion (mit-han-lab/bevfusion, ``BEVSegmentationHead``) and NS-MAE, the loss of a class is the
mean over samples and cells, and the classes' losses are summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.models import module_config
from nsmae_plugin.ops.compositing import at_least_float32
from nsmae_plugin.ops.conv_block import conv_block

#: Probability that an untrained head gives every class. Most cells belong to few classes: from 0.5,
#: where the published head starts, the first steps would only learn that (arXiv 1708.02002, section
#: 3.3).
PRIOR = 0.1
GAMMA, ALPHA = 2.0, -1.0  # published; a negative alpha balances nothing
TOLERANCE = 1e-4  # metres; bounds are typed, ranges pass through float32


class BEVSegmentationHead(nn.Module):
    """Features resampled to the cells of the map, two 3x3 convolutions and a 1x1 to the classes.

    The layers of the published head (mit-han-lab/bevfusion); HIDDEN_CHANNEL is its only freedom.
    Untrained, it gives every class the probability :data:`PRIOR`.

    Config keys: HIDDEN_CHANNEL (default: as many as come in), LOSS_CONFIG
    (:func:`map_loss`) with LOSS_WEIGHTS.map_weight.

    Reads: ``spatial_features_2d`` (B, input_channels, Y', X'), which cover ``feature_range``.

    Writes: ``map_logits`` (B, C, Y, X), at least float32, rows along y and columns along x of
    ``grid``.

    Args:
        model_cfg: the section MODEL.MAP_HEAD.
        classes: names of the C classes.
        grid: the cells of the map, in the frame of the features.
        feature_range: POINT_CLOUD_RANGE, of which x and y count; metres.

    Raises:
        ConfigError: the map leaves the range of the features, or its section is not valid.
    """

    Config: ClassVar = module_config.BEVSegmentationHead

    def __init__(
        self,
        model_cfg: Any,
        input_channels: int,
        classes: Sequence[str],
        grid: BEVGrid,
        feature_range: Sequence[float],
    ) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.classes = list(classes)
        self.grid = grid
        self.resample = GridResampler(grid, feature_range)
        config = self.Config.of(model_cfg, "MODEL.MAP_HEAD")
        self.loss_of_classes = map_loss(config.LOSS_CONFIG)
        self.weight = config.LOSS_CONFIG.LOSS_WEIGHTS.map_weight
        channels = config.HIDDEN_CHANNEL or input_channels
        last = nn.Conv2d(channels, len(self.classes), kernel_size=1)
        nn.init.constant_(cast(Tensor, last.bias), math.log(PRIOR / (1 - PRIOR)))
        self.classifier = nn.Sequential(
            *conv_block(input_channels, channels, 3), *conv_block(channels, channels, 3), last
        )

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Classify the cells; keys in the class's docstring."""
        features = self.resample(batch_dict["spatial_features_2d"])
        batch_dict["map_logits"] = at_least_float32(self.classifier(features))
        return batch_dict

    def get_loss(self, batch_dict: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss, and unweighted ``loss_map`` and ``loss_map_<class>``, its summands.

        Reads ``map_logits`` and ``gt_masks_bev`` (B, C, Y, X) bool.
        """
        losses = self.loss_of_classes(batch_dict["map_logits"], batch_dict["gt_masks_bev"])
        terms = {"loss_map": losses.sum()}
        terms |= {f"loss_map_{name}": one for name, one in zip(self.classes, losses, strict=True)}
        return terms["loss_map"] * self.weight, terms


class GridResampler(nn.Module):
    """Bilinear interpolation of features at the centres of a map's cells.

    Both grids are aligned with the axes, so that it is a product with one matrix per axis:
    differentiable, and the same on every run of every device. Between the outermost centres of the
    features and the edge of their range the outermost features hold.

    Args:
        grid: where to, metres.
        feature_range: (x, y, z, x, y, z) that the features cover, in the frame of the grid, metres.

    Raises:
        ConfigError: the grid leaves the range.
    """

    columns: Tensor  # (X,) centres of the map's columns, as a share of the range along x
    rows: Tensor  # (Y,) along y

    def __init__(self, grid: BEVGrid, feature_range: Sequence[float]) -> None:
        super().__init__()
        axes = zip((grid.x_bound, grid.y_bound), ("columns", "rows"), grid.axes(), strict=True)
        for axis, ((low, high, _), name, centres) in enumerate(axes):
            least, most = (float(feature_range[axis + offset]) for offset in (0, 3))
            if low < least - TOLERANCE or high > most + TOLERANCE:
                raise ConfigError(
                    f"DATA_CONFIG.MAP_CONFIG.{'XY'[axis]}BOUND reaches from {low:g} to {high:g} m, "
                    "but the features, as DATA_CONFIG.POINT_CLOUD_RANGE, from "
                    f"{least:g} to {most:g} m"
                )
            shares = torch.from_numpy((centres - least) / (most - least))
            self.register_buffer(name, shares.float(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, Y', X') -> (B, C, Y, X), at least float32 (also under autocast)."""
        features = at_least_float32(features)
        with torch.autocast(features.device.type, enabled=False):
            along_y, along_x = (
                interpolation_matrix(shares.to(features) * count - 0.5, count)
                for shares, count in zip((self.rows, self.columns), features.shape[2:], strict=True)
            )
            return along_y @ (features @ along_x.T)


def interpolation_matrix(positions: Tensor, count: int) -> Tensor:
    """(P, count) weights of ``count`` equidistant values in linear interpolation at ``positions``.

    Args:
        positions: (P,) where value i stands at i; outside the first or last value holds.
    """
    positions = positions.clamp(0, count - 1).unsqueeze(1)
    values = torch.arange(count, device=positions.device, dtype=positions.dtype)
    return (1 - (positions - values).abs()).clamp(min=0)


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
    """Cross-entropy times ``(1 - p) ** gamma``, ``p`` the probability of the truth (RetinaNet).

    Shapes and type as :func:`cross_entropy`. Written with logarithms, so that gradients stay finite
    for any gamma and any logit.

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


def map_loss(config: module_config.MapLoss) -> Callable[[Tensor, Tensor], Tensor]:
    """(logits, target) -> loss of each class, of a section ``MODEL.MAP_HEAD.LOSS_CONFIG``."""
    if config.LOSS == "cross_entropy":
        return cross_entropy
    return partial(focal_loss, gamma=config.GAMMA, alpha=config.ALPHA)
