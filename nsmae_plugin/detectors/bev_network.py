"""The BEV detector and its base class: sensors, fused bird's-eye view and its backbone."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from nsmae_plugin import host
from nsmae_plugin.detectors.branches import find_branches, prepare_geometry, require_inputs
from nsmae_plugin.detectors.outputs import BOXES, MAP
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.dense_head import DenseHeadDetector

ModelInfo = dict[str, Any]


class BEVNetwork(DenseHeadDetector, host.Detector3DTemplate):
    """The network of BEVFusion with any subset of its sensors, on either host.

    Slots, and so the prefixes of checkpoints, are those of OpenPCDet's ``BevFusion``: the LiDAR
    branch VFE, BACKBONE_3D, MAP_TO_BEV; the camera branch IMAGE_BACKBONE, NECK, VTRANSFORM; FUSER
    for both; BACKBONE_2D. With cameras alone the BEV backbone reads the camera's features as they
    are. A subclass says which heads follow.

    Attributes:
        heads: sections of MODEL whose modules follow the backbone, in this order, and whether they
            must be there; their slots are the same words in lower case.

    Raises:
        ConfigError: sections, sizes or grids that do not fit together; in the forward pass, data
            without a sensor of the configuration, or without labels in training mode.
    """

    heads: ClassVar[dict[str, bool]]

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        self.check_sections(model_cfg)
        self.module_topology = [
            "vfe",
            "backbone_3d",
            "map_to_bev_module",
            "image_backbone",
            "neck",
            "vtransform",
            "fuser",
            "backbone_2d",
            *map(str.lower, self.heads),
        ]
        self.module_list = self.build_networks()

    @classmethod
    def check_sections(cls, model_cfg: Any) -> None:
        """Check that the sections of MODEL make a detector.

        Raises:
            ConfigError: half a branch, no branch, a FUSER for one branch or none for two, no
                backbone or no head.
        """
        camera, lidar = find_branches(model_cfg)
        if model_cfg.get("FUSER") is not None and not (camera and lidar):
            raise ConfigError(
                "MODEL.FUSER joins a camera and a LiDAR branch: remove it, or add both"
            )
        needed = ["FUSER"] if camera and lidar else []
        needed += ["BACKBONE_2D", *(head for head, needed in cls.heads.items() if needed)]
        missing = [f"MODEL.{key}" for key in needed if model_cfg.get(key) is None]
        if missing:
            raise ConfigError(f"{model_cfg.NAME} needs {', '.join(missing)}")

    @classmethod
    def outputs(cls, model_cfg: Any) -> set[str]:
        """Boxes, a map or both: see :func:`~nsmae_plugin.detectors.outputs.outputs_of`."""
        predicted = {"DENSE_HEAD": BOXES, "MAP_HEAD": MAP}
        return {predicted[one] for one in cls.heads if model_cfg.get(one) is not None}

    def run_modules(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Run the modules in order; without LiDAR, camera features are ``spatial_features``."""
        require_inputs(batch_dict, self)
        prepare_geometry(batch_dict, self)
        for module in self.module_list:
            batch_dict = module(batch_dict)
            if module is self.vtransform and self.map_to_bev_module is None:
                batch_dict["spatial_features"] = batch_dict["spatial_features_img"]
        return batch_dict

    def build_vtransform(self, model_info_dict: ModelInfo) -> tuple[nn.Module | None, ModelInfo]:
        vtransform, info = super().build_vtransform(model_info_dict)
        if vtransform is not None:
            # The input of the backbone, unless a fuser follows.
            info["num_bev_features"] = self.model_cfg.VTRANSFORM.OUT_CHANNEL
        return vtransform, info


class BEVDetector(BEVNetwork):
    """Boxes from :class:`BEVNetwork`; DENSE_HEAD is a CenterHead or a TransFusionHead.

    What the forward pass returns: :class:`~nsmae_plugin.host.dense_head.DenseHeadDetector`.
    """

    heads: ClassVar = {"DENSE_HEAD": True}
