"""Detectors: a base class that builds and chains what a configuration names, and OpenPCDet's."""

from typing import Any

import torch
from torch import nn

from nsmae_plugin.errors import ConfigError, HostError
from nsmae_plugin.host.builtin.recall import generate_recall_record
from nsmae_plugin.host.builtin.registry import lookup
from nsmae_plugin.host.dense_head import DenseHeadDetector

#: What a ``build_<slot>`` method passes on to the next, under OpenPCDet's keys.
ModelInfo = dict[str, Any]
Built = tuple[nn.Module | None, ModelInfo]

# Sections of OpenPCDet's model configuration whose modules only OpenPCDet has.
FOREIGN_SECTIONS = ("PFE", "POINT_HEAD", "ROI_HEAD")


class Detector3DTemplate(nn.Module):
    """A detector as a chain of slots, with OpenPCDet's constructor, builders and prefixes.

    A subclass calls ``self.module_list = self.build_networks()`` and defines ``forward``. Each slot
    of ``module_topology`` has a method ``build_<slot>(model_info_dict)`` that returns the module
    (None when the configuration lacks its section) and the dict; the slot is the module's name and
    so the prefix of its parameters in a checkpoint. A subclass may change the topology and add
    builders.

    Args:
        model_cfg: the MODEL section.
        num_class: number of object classes.
        dataset: gives ``class_names``, ``grid_size``, ``voxel_size``, ``point_cloud_range``,
            ``point_feature_encoder`` and ``depth_downsample_factor``.
    """

    global_step: torch.Tensor
    generate_recall_record = staticmethod(generate_recall_record)

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.num_class = num_class
        self.dataset = dataset
        self.class_names = dataset.class_names
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.module_topology = [
            "vfe",
            "backbone_3d",
            "map_to_bev_module",
            "image_backbone",
            "neck",
            "vtransform",
            "fuser",
            "backbone_2d",
            "dense_head",
        ]

    @property
    def mode(self) -> str:
        return "TRAIN" if self.training else "TEST"

    def update_global_step(self) -> None:
        """Count one optimizer step; the count is part of the checkpoint."""
        self.global_step += 1

    def build_networks(self) -> list[nn.Module]:
        """Build every slot of the topology; returns the modules in the order in which they run.

        Raises:
            HostError: a section or slot that this host does not have.
        """
        self._refuse_foreign_sections()
        info: ModelInfo = {
            "module_list": [],
            "num_rawpoint_features": self.dataset.point_feature_encoder.num_point_features,
            "num_point_features": self.dataset.point_feature_encoder.num_point_features,
            "grid_size": self.dataset.grid_size,
            "point_cloud_range": self.dataset.point_cloud_range,
            "voxel_size": self.dataset.voxel_size,
            "depth_downsample_factor": self.dataset.depth_downsample_factor,
        }
        for slot in self.module_topology:
            build = getattr(self, f"build_{slot}", None)
            if build is None:
                raise HostError(f"{type(self).__name__} has no build_{slot} for its slot {slot!r}")
            module, info = build(model_info_dict=info)
            self.add_module(slot, module)
        return info["module_list"]

    def _refuse_foreign_sections(self) -> None:
        foreign = [key for key in FOREIGN_SECTIONS if self.model_cfg.get(key) is not None]
        if foreign:
            raise HostError(
                f"the built-in host has no modules for MODEL.{', MODEL.'.join(foreign)}; "
                "use NSMAE_HOST=openpcdet"
            )

    def _build(self, slot: str, section: str, info: ModelInfo, **arguments: Any) -> Any | None:
        """The module that ``MODEL.<section>.NAME`` names, appended to the list; None without it."""
        model_cfg = self.model_cfg.get(section)
        if model_cfg is None:
            return None
        module = lookup(slot, model_cfg.NAME)(model_cfg=model_cfg, **arguments)
        info["module_list"].append(module)
        return module

    def build_vfe(self, model_info_dict: ModelInfo) -> Built:
        info = model_info_dict
        geometry = ("point_cloud_range", "voxel_size", "grid_size", "depth_downsample_factor")
        vfe = self._build(
            "vfe",
            "VFE",
            info,
            num_point_features=info["num_rawpoint_features"],
            **{key: info[key] for key in geometry},
        )
        if vfe is not None:
            info["num_point_features"] = vfe.get_output_feature_dim()
        return vfe, info

    def build_backbone_3d(self, model_info_dict: ModelInfo) -> Built:
        info = model_info_dict
        backbone = self._build(
            "backbone_3d",
            "BACKBONE_3D",
            info,
            input_channels=info["num_point_features"],
            grid_size=info["grid_size"],
            voxel_size=info["voxel_size"],
            point_cloud_range=info["point_cloud_range"],
        )
        if backbone is not None:
            info["num_point_features"] = backbone.num_point_features
            info["backbone_channels"] = getattr(backbone, "backbone_channels", None)
        return backbone, info

    def build_map_to_bev_module(self, model_info_dict: ModelInfo) -> Built:
        info = model_info_dict
        module = self._build("map_to_bev", "MAP_TO_BEV", info, grid_size=info["grid_size"])
        if module is not None:
            info["num_bev_features"] = module.num_bev_features
        return module, info

    def build_image_backbone(self, model_info_dict: ModelInfo) -> Built:
        backbone = self._build("image_backbone", "IMAGE_BACKBONE", model_info_dict)
        if backbone is not None:
            backbone.init_weights()
        return backbone, model_info_dict

    def build_neck(self, model_info_dict: ModelInfo) -> Built:
        return self._build("neck", "NECK", model_info_dict), model_info_dict

    def build_vtransform(self, model_info_dict: ModelInfo) -> Built:
        return self._build("vtransform", "VTRANSFORM", model_info_dict), model_info_dict

    def build_fuser(self, model_info_dict: ModelInfo) -> Built:
        fuser = self._build("fuser", "FUSER", model_info_dict)
        if fuser is not None:
            model_info_dict["num_bev_features"] = self.model_cfg.FUSER.OUT_CHANNEL
        return fuser, model_info_dict

    def build_backbone_2d(self, model_info_dict: ModelInfo) -> Built:
        info = model_info_dict
        backbone = self._build(
            "backbone_2d", "BACKBONE_2D", info, input_channels=info.get("num_bev_features")
        )
        if backbone is not None:
            info["num_bev_features"] = backbone.num_bev_features
        return backbone, info

    def build_dense_head(self, model_info_dict: ModelInfo) -> Built:
        info = model_info_dict
        section = self.model_cfg.get("DENSE_HEAD")
        if section is None:
            return None, info
        head = self._build(
            "dense_head",
            "DENSE_HEAD",
            info,
            input_channels=info.get("num_bev_features", section.get("INPUT_FEATURES")),
            num_class=1 if section.get("CLASS_AGNOSTIC", False) else self.num_class,
            class_names=self.class_names,
            grid_size=info["grid_size"],
            point_cloud_range=info["point_cloud_range"],
            predict_boxes_when_training=False,  # only a second stage (ROI_HEAD) asks for them
            voxel_size=info["voxel_size"],
        )
        return head, info


class _SingleStage(DenseHeadDetector, Detector3DTemplate):
    """Encoders, BEV backbone and one dense head: OpenPCDet's single-stage detectors.

    They differ in their configurations alone: the slots are those of the template, absent ones are
    skipped, and either kind of head trains.

    Raises:
        ConfigError: there is no DENSE_HEAD.
    """

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        if model_cfg.get("DENSE_HEAD") is None:
            raise ConfigError(f"{type(self).__name__} needs MODEL.DENSE_HEAD")
        self.module_list = self.build_networks()


class BevFusion(_SingleStage):
    """Cameras and LiDAR fused in bird's-eye view (BEVFusion, arXiv 2205.13542)."""


class CenterPoint(_SingleStage):
    """LiDAR with a heatmap of centres per class (CenterPoint, arXiv 2006.11275)."""


class TransFusion(_SingleStage):
    """LiDAR with queries from a heatmap (the LiDAR half of TransFusion, arXiv 2203.11496)."""
