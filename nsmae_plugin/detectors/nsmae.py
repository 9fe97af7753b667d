"""The pre-training detector: mask, encode, render, compare (NS-MAE, arXiv 2405.17942)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nsmae_plugin import host
from nsmae_plugin.data.loader import batches_per_epoch
from nsmae_plugin.detectors.branches import bev_grid, prepare_geometry, require_inputs
from nsmae_plugin.detectors.nsmae_config import (
    camera_grid,
    check_heads,
    check_sections,
    depth_edges,
)
from nsmae_plugin.detectors.outputs import RENDERINGS
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models import losses
from nsmae_plugin.models.lift_splat import LiftSplatTransform
from nsmae_plugin.models.mask_token import ImageMaskToken
from nsmae_plugin.models.render_heads import BEVRenderHead, PerspectiveRenderHead
from nsmae_plugin.models.targets import build_targets, hidden_cells
from nsmae_plugin.models.view_transform import FactorizedLSSTransform

# Classes of the slots that stock detectors do not have, by the NAME of their section.
MASK_TOKENS = {"ImageMaskToken": ImageMaskToken}
PERSPECTIVE_HEADS = {"PerspectiveRenderHead": PerspectiveRenderHead}
BEV_HEADS = {"BEVRenderHead": BEVRenderHead}

ModelInfo = dict[str, Any]
Built = tuple[nn.Module | None, ModelInfo]


class NSMAE(host.Detector3DTemplate):
    """Masked autoencoder of cameras, LiDAR or both, supervised by volume rendering.

    Slots that the configuration leaves out are skipped. The camera branch is MASK_TOKEN,
    IMAGE_BACKBONE, NECK, VTRANSFORM and, if wanted, PERSPECTIVE_HEAD; the LiDAR branch VFE,
    BACKBONE_3D, MAP_TO_BEV; BEV_HEAD renders what there is of them from above. Encoders have the
    slot names, and so the checkpoint prefixes, of stock detectors; mask token and heads have slots
    of their own, which a detector that starts from these weights does not have.

    In training mode the forward pass returns OpenPCDet's ``({'loss': loss}, tb_dict, disp_dict)``.
    In evaluation mode it returns ``(pred_dicts, {})``; for each sample

    - ``rendered_*`` and ``target_*``, as the heads and
      :func:`~nsmae_plugin.models.targets.build_targets` make them, less the axis of the samples,
    - ``target_depth_hidden``, ``target_bev_hidden``: the target cells of which the network saw no
      LiDAR (:func:`~nsmae_plugin.models.targets.hidden_cells`),
    - with cameras ``image_patch_mask`` and ``masked_camera_imgs``, the images as the network got
      them,
    - ``loss_terms``: the terms of this sample as floats, with the weights of the first epoch.

    Attributes:
        steps_per_epoch: optimizer steps of an epoch; it turns LOSS_CONFIG.DEPTH_STOP_EPOCH (depth
            in the cameras) and BEV_DEPTH_STOP_EPOCH (depth from above) into steps. A training loop
            that does not set it, such as OpenPCDet's, steps once for every batch of the dataset.
            None: the depth terms never stop.

    Raises:
        ConfigError: sections, sizes or bounds that do not fit together.
    """

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        check_sections(model_cfg)
        self.steps_per_epoch: int | None = None
        self.camera_grid = camera_grid(model_cfg)
        self.bev_grid = bev_grid(model_cfg, dataset)
        check_heads(model_cfg, self.bev_grid)
        self.module_topology = [
            "vfe",
            "backbone_3d",
            "map_to_bev_module",
            "mask_token",
            "image_backbone",
            "neck",
            "vtransform",
            "perspective_head",
            "bev_head",
        ]
        self.module_list = self.build_networks()

    @staticmethod
    def outputs(_model_cfg: Any) -> set[str]:
        """Renderings: see :func:`~nsmae_plugin.detectors.outputs.outputs_of`."""
        return {RENDERINGS}

    def set_steps_per_epoch(self, steps: int) -> None:
        """Called by the training loop: optimizer steps of an epoch."""
        self.steps_per_epoch = steps

    # ---- forward

    def forward(self, batch_dict: dict[str, Any]) -> tuple[Any, ...]:
        """Mask, encode and render a batch, and compare it with its targets."""
        if self.training and self.steps_per_epoch is None:
            self.steps_per_epoch = batches_per_epoch(self.dataset, batch_dict["batch_size"])
        batch_dict = self.prepare(batch_dict)
        for stage in self.stages():
            batch_dict = stage(batch_dict)
        if self.training:
            loss, tb_dict, disp_dict = self.get_training_loss(batch_dict)
            return {"loss": loss}, tb_dict, disp_dict
        return self.post_processing(batch_dict)

    def prepare(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """A copy of the batch with its targets, and the geometry of the view transform.

        First of all: the images do not carry the mask token yet, and since the sizes hang on the
        data, a GPU has to be waited for, which costs little while nothing is queued.
        """
        require_inputs(batch_dict, self)
        batch_dict = dict(batch_dict)
        batch_dict.update(build_targets(batch_dict, self.camera_grid, self.bev_grid))
        prepare_geometry(batch_dict, self)
        return batch_dict

    def stages(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """All modules; once the view from above has stopped in training, those for the cameras.

        What only that view trains is frozen then: its gradients are None, so that neither AdamW nor
        the decay of OpenPCDet's optimiser moves it.
        """
        if not self.training or not self._bev_has_stopped():
            return self.module_list
        idle = [self.vfe, self.backbone_3d, self.map_to_bev_module, self.bev_head]
        for module in (*idle, self.vtransform.downsample):
            if module is not None:
                module.requires_grad_(False)
        running = [module for module in self.module_list if module not in idle]
        return [one.lift if one is self.vtransform else one for one in running]

    def _bev_has_stopped(self) -> bool:
        stop = self.model_cfg.LOSS_CONFIG.get("BEV_DEPTH_STOP_EPOCH")
        if stop is None or self.steps_per_epoch is None:
            return False
        return bool(losses.depth_schedule(int(self.global_step), self.steps_per_epoch, stop) == 0)

    @property
    def find_unused_parameters(self) -> bool:
        """Argument of ``DistributedDataParallel``: some parameters may stop learning."""
        return self.model_cfg.LOSS_CONFIG.get("BEV_DEPTH_STOP_EPOCH") is not None

    def get_training_loss(
        self, batch_dict: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
        """The weighted sum of the terms, and every term unweighted and weighted, detached."""
        config = self.model_cfg.LOSS_CONFIG
        terms = losses.loss_terms(batch_dict)
        factor: float | Tensor = 1.0
        if self.training:
            factor = losses.depth_schedule(
                self.global_step[0], self.steps_per_epoch, config.get("DEPTH_STOP_EPOCH")
            )
        weighted = losses.weigh(terms, config.LOSS_WEIGHTS, factor)
        loss = torch.stack(list(weighted.values())).sum()
        tb_dict = {f"loss_{name}": term.detach() for name, term in terms.items()}
        tb_dict |= {f"weighted_{name}": term.detach() for name, term in weighted.items()}
        return loss, tb_dict, {}

    def post_processing(self, batch_dict: dict[str, Any]) -> tuple[list[dict[str, Any]], dict]:
        """Renderings and targets of each sample; there is no recall of boxes."""
        own = {
            key: batch_dict[key] for key in batch_dict if key.startswith(("rendered_", "target_"))
        }
        # Other view transforms, OpenPCDet's own among them, read LiDAR depth.
        depth_input = not isinstance(self.vtransform, FactorizedLSSTransform)
        own |= hidden_cells(batch_dict, self.camera_grid, self.bev_grid, depth_input)
        if self.mask_token is not None:
            own["image_patch_mask"] = batch_dict["image_patch_mask"].bool()
            own["masked_camera_imgs"] = batch_dict["camera_imgs"]
        samples = [
            {key: value[index] for key, value in own.items()}
            for index in range(batch_dict["batch_size"])
        ]
        terms = [self.get_training_loss(sample)[1] for sample in samples]
        values = torch.stack([torch.stack(list(one.values())) for one in terms]).tolist()
        for sample, one, row in zip(samples, terms, values, strict=True):
            sample["loss_terms"] = dict(zip(one, row, strict=True))
        return samples, {}

    # ---- slots that stock detectors do not have

    def build_mask_token(self, model_info_dict: ModelInfo) -> Built:
        return self._build_own("MASK_TOKEN", MASK_TOKENS, model_info_dict)

    def build_perspective_head(self, model_info_dict: ModelInfo) -> Built:
        config = self.model_cfg.get("PERSPECTIVE_HEAD")
        if config is None:
            return None, model_info_dict
        if not isinstance(self.vtransform, LiftSplatTransform):
            raise ConfigError(
                f"MODEL.PERSPECTIVE_HEAD cannot render MODEL.VTRANSFORM.NAME "
                f"{self.model_cfg.VTRANSFORM.NAME}: set it to FactorizedLSSTransform or "
                "FactorizedDepthLSSTransform"
            )
        return self._build_own(
            "PERSPECTIVE_HEAD",
            PERSPECTIVE_HEADS,
            model_info_dict,
            edges=depth_edges(self.model_cfg.VTRANSFORM.DBOUND),
            kernels=self.vtransform.kernels,
        )

    def build_bev_head(self, model_info_dict: ModelInfo) -> Built:
        channels = {}
        if self.vtransform is not None:
            channels["spatial_features_img"] = self.model_cfg.VTRANSFORM.OUT_CHANNEL
        if self.map_to_bev_module is not None:
            channels["spatial_features"] = self.map_to_bev_module.num_bev_features
        return self._build_own(
            "BEV_HEAD",
            BEV_HEADS,
            model_info_dict,
            channels=channels,
            voxel_height=self.bev_grid.step[2],
        )

    def _build_own(
        self, section: str, classes: dict[str, Any], info: ModelInfo, **arguments: Any
    ) -> Built:
        config = self.model_cfg.get(section)
        if config is None:
            return None, info
        if config.NAME not in classes:
            raise ConfigError(f"MODEL.{section}.NAME {config.NAME!r} is not one of {list(classes)}")
        module = classes[config.NAME](config, **arguments)
        info["module_list"].append(module)
        return module, info
