"""TransFusion's detection head: queries from a heatmap, refined by attention to the BEV map.

Bai et al., "TransFusion" (arXiv 2203.11496), as BEVFusion and OpenPCDet use it: one decoder layer,
BEV features only. Names, shapes, losses, targets and boxes are OpenPCDet's. Where its head cannot
be followed, or should not be, this one differs; the results on its own configurations stay equal:

- a sample without objects trains (its assigner raises NameError);
- a BEV map that is not square keeps its cells in order (its positions swap rows and columns);
- the classes without suppression of neighbours are found by name (it takes classes 8 and 9);
- the velocity branch is optional, and an unknown velocity (NaN) is not learnt (its loss is NaN);
- both classifiers start at a probability of 0.1 (it looks for "hm" in the name "heatmap" and so
  leaves them at 0.5, where the empty cells of the map drown the first steps).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.builtin.modules.head_checks import head_grid, require_branches, require_map
from nsmae_plugin.host.builtin.modules.transfusion_decoder import DecoderLayer, SeparateHead
from nsmae_plugin.host.builtin.modules.transfusion_targets import (
    Predictions,
    TargetAssigner,
    Targets,
    decode_boxes,
)
from nsmae_plugin.ops.conv_block import ConvBlock
from nsmae_plugin.ops.heatmap import RARE, clipped_sigmoid, gaussian_focal_loss

# Objects so small that two of them may be neighbours on the map.
SMALL = {"nuScenes": ("pedestrian", "traffic_cone"), "Waymo": ("Pedestrian", "Cyclist")}
BRANCHES = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


class TransFusionHead(nn.Module):
    """Detects NUM_PROPOSALS objects per sample from a BEV map.

    The whole head computes in float32, also under autocast: positions on the map, ties between
    neighbouring cells and the matching need more digits than bfloat16 has.

    Raises:
        ConfigError: options that only OpenPCDet has.
    """

    cell_centers: torch.Tensor  # (1, cells, 2) x and y in cells

    def __init__(
        self,
        model_cfg: Any,
        input_channels: int,
        num_class: int,
        class_names: Sequence[str],
        grid_size: Sequence[int],
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        predict_boxes_when_training: bool = False,
    ) -> None:
        super().__init__()
        require_branches(model_cfg.SEPARATE_HEAD_CFG, BRANCHES)
        if num_class != len(class_names):
            raise ConfigError("MODEL.DENSE_HEAD.CLASS_AGNOSTIC must be False: queries have classes")
        if not model_cfg.LOSS_CONFIG.LOSS_CLS.use_sigmoid:
            raise ConfigError("MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_CLS.use_sigmoid must be True")
        self.model_cfg, self.num_class = model_cfg, num_class
        self.branches = list(model_cfg.SEPARATE_HEAD_CFG.HEAD_ORDER)
        assigner = model_cfg.TARGET_ASSIGNER_CONFIG
        self.grid = head_grid(model_cfg, point_cloud_range, voxel_size)
        code_size = sum(BRANCHES[name] for name in self.branches)
        self.assigner = TargetAssigner(assigner, self.grid, point_cloud_range, num_class, code_size)
        small = SMALL.get(assigner.get("DATASET", "nuScenes"), ())
        self.small = [index for index, name in enumerate(class_names) if name in small]
        self._build_layers(input_channels)
        self.register_buffer("cell_centers", _cell_centers(self.grid.shape), persistent=False)

    def _build_layers(self, input_channels: int) -> None:
        cfg, width = self.model_cfg, self.model_cfg.HIDDEN_CHANNEL
        bias = cfg.get("USE_BIAS_BEFORE_NORM", False)
        self.shared_conv = nn.Conv2d(input_channels, width, 3, padding=1)
        classifier = nn.Conv2d(width, self.num_class, 3, padding=1)
        self.heatmap_head = nn.Sequential(ConvBlock(width, width, 3, bias), classifier)
        self.class_encoding = nn.Conv1d(self.num_class, width, 1)
        self.decoder = DecoderLayer(
            width, cfg.NUM_HEADS, cfg.FFN_CHANNEL, cfg.DROPOUT, cfg.ACTIVATION
        )
        every = cfg.SEPARATE_HEAD_CFG.HEAD_DICT.items()
        branches = {name: branch for name, branch in every if name in self.branches}
        branches["heatmap"] = {"out_channels": self.num_class, "num_conv": cfg.NUM_HM_CONV}
        self.prediction_head = SeparateHead(width, branches, bias)
        nn.init.constant_(classifier.get_parameter("bias"), RARE)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = cfg.BN_MOMENTUM

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads ``spatial_features_2d`` (B, C, Y, X) and, in training, ``gt_boxes``.

        Writes ``loss`` and ``tb_dict`` in training, else ``final_box_dicts``: per sample
        ``pred_boxes`` (n, 7 or 9), ``pred_scores`` (n,), ``pred_labels`` (n,) from 1.
        """
        features = batch_dict["spatial_features_2d"]
        with torch.autocast(features.device.type, enabled=False):
            predictions = self.predict(features.float())
            if self.training:
                targets = self.assigner.assign(_detached(predictions), batch_dict["gt_boxes"])
                batch_dict["loss"], batch_dict["tb_dict"] = self.loss(predictions, targets)
            else:
                batch_dict["final_box_dicts"] = self.decode(predictions)
        return batch_dict

    def predict(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Raw predictions of the queries.

        Args:
            features: (B, input_channels, Y, X) float32.

        Returns:
            ``center`` (B, 2, P) cells, ``height``, ``dim``, ``rot``, ``vel``, ``heatmap``
            (B, classes, P) logits; ``query_labels`` (B, P), ``query_heatmap_score``
            (B, classes, P) and ``dense_heatmap`` (B, classes, Y, X) logits.

        Raises:
            ConfigError: a map of another size than the grid and FEATURE_MAP_STRIDE say.
        """
        require_map(features, self.grid)
        shared = self.shared_conv(features)
        dense_heatmap = self.heatmap_head(shared)
        scores = self._suppress(dense_heatmap.detach().sigmoid()).flatten(2)
        best = scores.flatten(1).argsort(dim=-1, descending=True, stable=True)
        best = best[:, : self.model_cfg.NUM_PROPOSALS]
        labels, cells = best // scores.shape[-1], best % scores.shape[-1]

        everywhere = self.cell_centers.expand(len(features), -1, -1)
        positions = everywhere.gather(1, cells[..., None].expand(-1, -1, 2))
        classes = F.one_hot(labels, self.num_class).transpose(1, 2).float()
        queries = _pick(shared.flatten(2), cells) + self.class_encoding(classes)
        queries = self.decoder(queries, shared.flatten(2), positions, everywhere)
        predictions = self.prediction_head(queries)
        predictions["center"] = predictions["center"] + positions.transpose(1, 2)
        predictions["query_labels"] = labels
        predictions["query_heatmap_score"] = _pick(scores, cells)
        predictions["dense_heatmap"] = dense_heatmap
        return predictions

    def _suppress(self, heatmap: torch.Tensor) -> torch.Tensor:
        """Non-maximum suppression: zero at non-maxima and at the border; not for small objects."""
        kernel = self.model_cfg.NMS_KERNEL_SIZE
        largest = F.max_pool2d(heatmap, kernel, stride=1)
        largest = F.pad(largest, [kernel // 2] * 4)
        largest[:, self.small] = heatmap[:, self.small]
        return heatmap * (heatmap == largest)

    def loss(
        self, predictions: Predictions, targets: Targets
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Weighted sum of heatmap, classification and box loss, and the terms, detached."""
        weights, focal = (
            self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS,
            self.model_cfg.LOSS_CONFIG.LOSS_CLS,
        )
        matched = max(targets.num_matched, 1)
        dense = clipped_sigmoid(predictions["dense_heatmap"])
        one_hot = F.one_hot(targets.labels, self.num_class + 1)[..., :-1].float()
        logits = predictions["heatmap"].transpose(1, 2)
        boxes = torch.cat([predictions[name] for name in self.branches], dim=1).transpose(1, 2)
        box_weights = targets.box_weights * targets.boxes.new_tensor(weights["code_weights"])
        terms = {
            "loss_heatmap": weights["hm_weight"] * gaussian_focal_loss(dense, targets.heatmap),
            "loss_cls": weights["cls_weight"]
            * sigmoid_focal_loss(logits, one_hot, focal.alpha, focal.gamma)
            / matched,
            "loss_bbox": weights["bbox_weight"]
            * ((boxes - targets.boxes).abs() * box_weights).sum()
            / matched,
        }
        loss = torch.stack(list(terms.values())).sum()
        record: dict[str, Any] = {name: term.detach() for name, term in terms.items()}
        record |= {"matched_ious": targets.matched_iou, "loss_trans": loss.detach()}
        return loss, record

    @torch.no_grad()
    def decode(self, predictions: Predictions) -> list[dict[str, torch.Tensor]]:
        """Boxes of each sample above SCORE_THRESH whose centre is in POST_CENTER_RANGE."""
        config = self.model_cfg.POST_PROCESSING
        own_class = F.one_hot(predictions["query_labels"], self.num_class).transpose(1, 2)
        scores = predictions["heatmap"].sigmoid() * predictions["query_heatmap_score"] * own_class
        scores, labels = scores.max(dim=1)
        boxes = decode_boxes(predictions, self.grid)
        low, high = boxes.new_tensor(config.POST_CENTER_RANGE).split(3)
        inside = ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(dim=-1)
        keep = inside & (scores > config.SCORE_THRESH)
        return [
            {
                "pred_boxes": boxes[index, keep[index]],
                "pred_scores": scores[index, keep[index]],
                "pred_labels": labels[index, keep[index]].int() + 1,
            }
            for index in range(len(boxes))
        ]


def sigmoid_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, alpha: float, gamma: float
) -> torch.Tensor:
    """Focal loss of independent classes (RetinaNet), summed; the target is 0 or 1."""
    p = logits.sigmoid()
    balance = target * alpha + (1 - target) * (1 - alpha)
    error = target * (1 - p) + (1 - target) * p
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (balance * error**gamma * entropy).sum()


def _cell_centers(shape: tuple[int, int]) -> torch.Tensor:
    """(1, Y * X, 2): x and y of every cell's centre, in the order of a flattened map."""
    rows, columns = shape
    y, x = np.divmod(np.arange(rows * columns), columns)
    return torch.from_numpy(np.stack([x, y], axis=-1)).float()[None] + 0.5


def _pick(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Columns (B, C, P) of ``values`` (B, C, K) at ``cells`` (B, P)."""
    return values.gather(2, cells[:, None].expand(-1, values.shape[1], -1))


def _detached(predictions: Predictions) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in predictions.items()}
