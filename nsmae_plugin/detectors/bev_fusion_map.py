"""BEV map segmentation from cameras, LiDAR or both, alone or together with 3D detection."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from nsmae_plugin.detectors.bev_network import BEVNetwork, ModelInfo
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.formats.maps.map_classes import MapConfig
from nsmae_plugin.geometry.bev_grid import map_grid
from nsmae_plugin.models.map_head import BEVSegmentationHead

Batch = dict[str, Any]
# Classes of the slot that stock detectors do not have, by the NAME of its section.
MAP_HEADS = {"BEVSegmentationHead": BEVSegmentationHead}


class BEVFusionMap(BEVNetwork):
    """A BEV map, and optionally boxes, from one fused bird's-eye view.

    :class:`~nsmae_plugin.detectors.bev_network.BEVNetwork` with MAP_HEAD, whose classes and grid
    are those of DATA_CONFIG.MAP_CONFIG, and, for both tasks, DENSE_HEAD.

    In training mode the forward pass returns ``({'loss': loss}, tb_dict, disp_dict)``: the loss is
    the sum of both tasks, ``loss_map`` and ``loss_map_<class>`` are unweighted. In evaluation mode
    it returns ``(pred_dicts, recall_dict)``; for each sample

    - ``masks_bev`` (C, Y, X) float32: the probability of each class in each cell of MAP_CONFIG,
      rows along y and columns along x, both ascending, in the LiDAR frame of the input,
    - with DENSE_HEAD, what :class:`~nsmae_plugin.host.dense_head.DenseHeadDetector` predicts.

    Raises:
        ConfigError: there is no MAP_CONFIG, or it does not fit; in the forward pass, labels of
            another grid or number of classes; see also the base class.
    """

    heads: ClassVar = {"DENSE_HEAD": False, "MAP_HEAD": True}

    def require_labels(self, batch_dict: Batch) -> None:
        if self.dense_head is not None:
            super().require_labels(batch_dict)
        masks = batch_dict.get("gt_masks_bev")
        if masks is None:
            raise ConfigError(
                f"{type(self).__name__} learns from maps, but the data has no gt_masks_bev: set "
                "DATA_CONFIG.MAP_CONFIG"
            )
        expected = (len(self.map_head.classes), *self.map_head.grid.shape)
        if masks.shape[1:] != expected:
            raise ConfigError(
                f"gt_masks_bev has {tuple(masks.shape[1:])} classes, rows and columns, but "
                f"MODEL.MAP_HEAD was built for {expected}: use one DATA_CONFIG.MAP_CONFIG for both"
            )

    def get_training_loss(self, batch_dict: Batch) -> tuple[Tensor, dict[str, Any], Batch]:
        """The sum over the tasks, and the terms of both: floats, or detached tensors."""
        loss, terms = self.map_head.get_loss(batch_dict)
        tb_dict: Batch = {name: term.detach() for name, term in terms.items()}
        if self.dense_head is not None:
            box_loss, box_terms, _ = super().get_training_loss(batch_dict)
            loss, tb_dict = loss + box_loss, box_terms | tb_dict
        return loss, tb_dict, {}

    def post_processing(self, batch_dict: Batch) -> tuple[list[Batch], dict[str, int]]:
        """The map of each sample, and its boxes if there is a detection head."""
        masks = batch_dict["map_logits"].float().sigmoid()
        if self.dense_head is None:
            return [{"masks_bev": one} for one in masks], {}
        boxes, recall = super().post_processing(batch_dict)
        pairs = zip(boxes, masks, strict=True)
        return [{**sample, "masks_bev": one} for sample, one in pairs], recall

    def build_map_head(self, model_info_dict: ModelInfo) -> tuple[nn.Module | None, ModelInfo]:
        info, config = model_info_dict, self.model_cfg.MAP_HEAD
        map_config = self.dataset.dataset_cfg.get("MAP_CONFIG")
        if map_config is None:
            raise ConfigError(
                "MODEL.MAP_HEAD needs DATA_CONFIG.MAP_CONFIG, which says which classes are drawn "
                "on which grid"
            )
        if config.NAME not in MAP_HEADS:
            raise ConfigError(
                f"MODEL.MAP_HEAD.NAME {config.NAME!r} is not one of {list(MAP_HEADS)}"
            )
        head = MAP_HEADS[config.NAME](
            config,
            input_channels=info["num_bev_features"],
            classes=MapConfig.of_section(map_config).CLASSES,
            grid=map_grid(map_config),
            feature_range=info["point_cloud_range"],
        )
        info["module_list"].append(head)
        return head, info
