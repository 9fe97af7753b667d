"""Detection from heatmaps of object centres (CenterPoint, arXiv 2006.11275)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError, DataError, HostError
from nsmae_plugin.host.builtin.modules.head_checks import head_grid, require_branches, require_map
from nsmae_plugin.ops.center_codes import assign_group, decode, gather, regression_loss
from nsmae_plugin.ops.conv_block import conv_block
from nsmae_plugin.ops.heatmap import RARE, clipped_sigmoid, gaussian_focal_loss
from nsmae_plugin.ops.rotated_boxes import non_maximum_suppression

CODE = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}  # channels, in target order
TYPES = {"nms_gpu": True, "nms_normal_gpu": False}  # NMS_TYPE -> whether the headings count
Maps = dict[str, Tensor]


class SeparateHead(nn.Module):
    """Small convolutional branches on one map.

    Args:
        channels: of the map.
        branches: name -> ``out_channels`` and ``num_conv``; ``hm`` is the heatmap.
        norm: makes the norm of a number of channels.
        use_bias: of convolutions in front of a norm.
    """

    def __init__(
        self, channels: int, branches: Mapping[str, Mapping[str, int]], norm: Any, use_bias: bool
    ) -> None:
        super().__init__()
        for name, sizes in branches.items():
            layers: list[nn.Module] = [
                nn.Sequential(*conv_block(channels, channels, 3, bias=use_bias, norm=norm))
                for _ in range(sizes["num_conv"] - 1)
            ]
            last = nn.Conv2d(channels, sizes["out_channels"], 3, padding=1)
            branch = nn.Sequential(*layers, last)
            if name == "hm":
                last.get_parameter("bias").data.fill_(RARE)
            else:
                _initialise(branch)
            self.add_module(name, branch)

    def forward(self, features: Tensor) -> Maps:
        """(B, channels, Y, X) -> name: (B, out_channels, Y, X)."""
        return {name: branch(features) for name, branch in self.named_children()}


def _initialise(branch: nn.Sequential) -> None:
    for module in branch.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class CenterHead(nn.Module):
    """For each group of classes heatmaps of centres, and maps of the rest of a box.

    Reads ``spatial_features_2d`` (B, input_channels, Y, X) and, in training mode, ``gt_boxes``
    (B, M, 8 or 10): x, y, z, dx, dy, dz, yaw[, vx, vy], label from 1; padding has label 0. In
    training mode it keeps ``forward_ret_dict`` for :meth:`get_loss`; in evaluation mode it writes
    ``final_box_dicts``, described at :class:`~nsmae_plugin.host.dense_head.DenseHeadDetector`.

    Parameters, targets, losses and boxes are those of OpenPCDet's ``CenterHead``, except that

    - labels in the batch stay as they are (there, a label is replaced in ``gt_boxes`` by the class
      number within its group, which the groups after it then read);
    - objects beyond NUM_MAX_OBJS are left out (there, an error);
    - an unknown velocity (NaN) costs nothing (there, the loss becomes NaN);
    - a map of fewer cells than MAX_OBJ_PER_SAMPLE will do (there, an error).

    Args:
        class_names: all classes; CLASS_NAMES_EACH_HEAD groups them.
        grid_size: voxels; a cell is FEATURE_MAP_STRIDE voxels wide.
        point_cloud_range, voxel_size: metres.
        kwargs: for two-stage detectors, which this host does not have.

    Raises:
        ConfigError: a group without a class, or a HEAD_ORDER that targets do not have; in the
            forward pass, a map of another size.
        HostError: options that only OpenPCDet has.
    """

    def __init__(
        self,
        model_cfg: Any,
        input_channels: int,
        class_names: Sequence[str],
        grid_size: Sequence[int],
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _refuse_foreign_options(model_cfg)
        self.model_cfg = model_cfg
        names, groups = list(class_names), model_cfg.CLASS_NAMES_EACH_HEAD
        self.groups = [[names.index(name) for name in one if name in names] for one in groups]
        if not all(self.groups):
            raise ConfigError(
                f"MODEL.DENSE_HEAD.CLASS_NAMES_EACH_HEAD {[list(one) for one in groups]}: every "
                f"group must hold one of CLASS_NAMES {names} at least"
            )
        self.order = list(model_cfg.SEPARATE_HEAD_CFG.HEAD_ORDER)
        require_branches(model_cfg.SEPARATE_HEAD_CFG, CODE)
        weights = model_cfg.LOSS_CONFIG.LOSS_WEIGHTS["code_weights"]
        self.code_weights = [float(weight) for weight in weights]
        self.grid = head_grid(model_cfg, point_cloud_range, voxel_size)
        norm = partial(
            nn.BatchNorm2d, eps=model_cfg.get("BN_EPS", 1e-5), momentum=model_cfg.get("BN_MOM", 0.1)
        )
        use_bias = model_cfg.get("USE_BIAS_BEFORE_NORM", False)
        channels = model_cfg.SHARED_CONV_CHANNEL
        self.shared_conv = nn.Sequential(
            *conv_block(input_channels, channels, 3, bias=use_bias, norm=norm)
        )
        branches = model_cfg.SEPARATE_HEAD_CFG.HEAD_DICT
        self.heads_list = nn.ModuleList()
        for group in self.groups:
            heatmap = {"out_channels": len(group), "num_conv": model_cfg.NUM_HM_CONV}
            head = SeparateHead(channels, {**branches, "hm": heatmap}, norm, use_bias)
            self.heads_list.append(head)
        self.forward_ret_dict: dict[str, Any] = {}

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps, and their targets or the boxes; keys in the class's docstring."""
        require_map(batch_dict["spatial_features_2d"], self.grid)
        features = self.shared_conv(batch_dict["spatial_features_2d"])
        predicted = [head(features) for head in self.heads_list]
        if self.training:
            targets = self.assign_targets(batch_dict["gt_boxes"])
            self.forward_ret_dict = {"pred_dicts": predicted, "target_dicts": targets}
        else:
            batch_dict["final_box_dicts"] = self.generate_predicted_boxes(predicted)
        return batch_dict

    @torch.no_grad()
    def assign_targets(self, labels: Tensor) -> dict[str, list[Tensor]]:
        """For each group, under OpenPCDet's keys, what
        :func:`~nsmae_plugin.ops.center_codes.assign_group` returns.

        Args:
            labels: (B, M, 8 or 10).

        Raises:
            DataError: the labels lack, or have, a velocity unlike the head.
        """
        if labels.shape[2] != len(self.code_weights):
            raise DataError(
                f"the head predicts codes of {len(self.code_weights)} values ({self.order}), but "
                f"gt_boxes has {labels.shape[2]}: a velocity needs both 'vel' in HEAD_ORDER and "
                "DATA_CONFIG.PRED_VELOCITY"
            )
        # Drawn on the CPU, object by object, after one transfer.
        on_cpu, config = labels.detach().float().cpu(), self.model_cfg.TARGET_ASSIGNER_CONFIG
        groups = [assign_group(on_cpu, group, self.grid, config) for group in self.groups]
        parts = [[part.to(labels.device) for part in kind] for kind in zip(*groups, strict=True)]
        return dict(zip(("heatmaps", "target_boxes", "inds", "masks"), parts, strict=True))

    def get_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over the groups, and its terms by name (detached), of the last forward pass in
        training mode."""
        targets = self.forward_ret_dict["target_dicts"]
        weights = self.model_cfg.LOSS_CONFIG.LOSS_WEIGHTS
        terms: dict[str, Tensor] = {}
        for index, maps in enumerate(self.forward_ret_dict["pred_dicts"]):
            heatmap, codes, cells, mask = (targets[key][index] for key in targets)
            focal = gaussian_focal_loss(clipped_sigmoid(maps["hm"]), heatmap)
            predicted = gather(torch.cat([maps[name] for name in self.order], dim=1), cells)
            distance = regression_loss(predicted.float(), codes, mask)
            distance = (distance * distance.new_tensor(self.code_weights)).sum()
            terms[f"hm_loss_head_{index}"] = focal * weights["cls_weight"]
            terms[f"loc_loss_head_{index}"] = distance * weights["loc_weight"]
        terms["rpn_loss"] = torch.stack(list(terms.values())).sum()
        return terms["rpn_loss"], {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def generate_predicted_boxes(self, predicted: list[Maps]) -> list[dict[str, Tensor]]:
        """Per sample ``pred_boxes``, ``pred_scores`` and ``pred_labels``, group after group."""
        config = self.model_cfg.POST_PROCESSING
        samples: list[list[tuple[Tensor, ...]]] = [[] for _ in predicted[0]["hm"]]
        for group, maps in zip(self.groups, predicted, strict=True):
            found = decode(
                {name: values.float() for name, values in maps.items()},
                self.grid,
                config.POST_CENTER_LIMIT_RANGE,
                config.MAX_OBJ_PER_SAMPLE,
                config.SCORE_THRESH,
            )
            for sample, (boxes, scores, classes) in zip(samples, found, strict=True):
                kept = suppress(boxes, scores, config.NMS_CONFIG)
                labels = classes.new_tensor(group)[classes[kept]] + 1
                sample.append((boxes[kept], scores[kept], labels))
        keys = ("pred_boxes", "pred_scores", "pred_labels")
        return [
            dict(zip(keys, map(torch.cat, zip(*sample, strict=True)), strict=True))
            for sample in samples
        ]


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


def _refuse_foreign_options(config: Any) -> None:
    """Refuse options that only OpenPCDet supports.

    Raises:
        HostError: an NMS_TYPE that is not in :data:`TYPES`, one setting of it for each class, or an
            IoU branch.
    """
    suppression = config.POST_PROCESSING.NMS_CONFIG
    if suppression.NMS_TYPE not in TYPES:
        raise HostError(
            f"the built-in host has no NMS_TYPE {suppression.NMS_TYPE!r}, only {', '.join(TYPES)}; "
            "choose one of them or use NSMAE_HOST=openpcdet"
        )
    for key in ("NMS_THRESH", "NMS_PRE_MAXSIZE", "NMS_POST_MAXSIZE"):
        if isinstance(suppression[key], list):
            raise HostError(
                f"the built-in host has one {key} for all classes, not {suppression[key]}: give a "
                "number or use NSMAE_HOST=openpcdet"
            )
    if config.get("IOU_REG_LOSS", False) or "iou" in config.SEPARATE_HEAD_CFG.HEAD_DICT:
        raise HostError(
            "the built-in CenterHead has no IoU branch and no IOU_REG_LOSS; remove them from "
            "MODEL.DENSE_HEAD or use NSMAE_HOST=openpcdet"
        )
