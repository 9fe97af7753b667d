"""The pre-training detector: mask, encode, render, compare (NS-MAE, arXiv 2405.17942)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nsmae_plugin import host
from nsmae_plugin.data.loader import batches_per_epoch
from nsmae_plugin.detectors import term_schedule
from nsmae_plugin.detectors.branches import prepare_geometry, require_inputs
from nsmae_plugin.detectors.outputs import RENDERINGS
from nsmae_plugin.detectors.render_heads import build_heads, check_branches, freeze_unread
from nsmae_plugin.models.mask_token import ImageMaskToken
from nsmae_plugin.models.render_head import RenderHead

Batch = dict[str, Any]


class NSMAE(host.Detector3DTemplate):
    """Masked autoencoder of cameras, LiDAR or both, supervised by volume rendering.

    The camera branch is MASK_TOKEN, IMAGE_BACKBONE, NECK and VTRANSFORM, the LiDAR branch VFE,
    BACKBONE_3D and MAP_TO_BEV; either may be left out, and VTRANSFORM where a head reads image
    features. RENDER_HEADS lists what is rendered from their features. Encoders have the slots, and
    so the checkpoint prefixes, of stock detectors; mask token and heads have slots of their own and
    stay behind when weights are transferred.

    The loss is the sum of the heads' terms, each times LOSS_CONFIG.LOSS_WEIGHTS.<term>_weight and,
    from epoch LOSS_CONFIG.<TERM>_STOP_EPOCH on, times 0 (:mod:`~.term_schedule`).

    In training mode the forward pass returns OpenPCDet's ``({'loss': loss}, tb_dict, disp_dict)``.
    In evaluation mode it returns ``(pred_dicts, {})``; for each sample

    - ``rendered_*``, ``target_*`` and ``target_*_hidden`` of all heads, without the batch axis,
    - with cameras ``image_patch_mask`` and the network's input ``masked_camera_imgs``,
    - ``loss_terms``: the terms of this sample as floats, with the weights of the first epoch,
    - ``render_heads``: the registered names of the heads.

    Attributes:
        steps_per_epoch: optimizer steps of an epoch; None: no term stops.
        find_unused_parameters: some parameters may stop learning, for DistributedDataParallel.

    Raises:
        ConfigError: sections, sizes or bounds that do not fit together.
    """

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        check_branches(model_cfg)
        self.steps_per_epoch: int | None = None
        self.module_topology = ["vfe", "backbone_3d", "map_to_bev_module"]
        self.module_topology += ["mask_token", "image_backbone", "neck", "vtransform"]
        self.module_list = self.build_networks()
        self.render_heads: list[RenderHead] = build_heads(self)
        freeze_unread(self)
        heads, config = self.render_heads, model_cfg.LOSS_CONFIG
        self.find_unused_parameters = term_schedule.any_stops(heads, config)

    @staticmethod
    def outputs(_model_cfg: Any) -> set[str]:
        """See :func:`~nsmae_plugin.detectors.outputs.outputs_of`."""
        return {RENDERINGS}

    def set_steps_per_epoch(self, steps: int) -> None:
        """Called by the training loop; otherwise computed from the length of the dataset."""
        self.steps_per_epoch = steps

    def forward(self, batch_dict: Batch) -> tuple[Any, ...]:
        """Loss of a batch in training mode, renderings of its samples in evaluation mode."""
        if self.training and self.steps_per_epoch is None:
            self.steps_per_epoch = batches_per_epoch(self.dataset, batch_dict["batch_size"])
        heads = term_schedule.running_heads(self)
        batch_dict = self.mask(batch_dict, heads)
        batch_dict = self.encode(batch_dict, heads)
        batch_dict = self.render(batch_dict, heads)
        return self.compare(batch_dict, heads)

    def mask(self, batch_dict: Batch, heads: Sequence[RenderHead]) -> Batch:
        """A copy of the batch with masked images, and with targets from the unmasked ones.

        The dataset has masked voxels and depth points (:mod:`~nsmae_plugin.data.masking`). Geometry
        comes first: its sizes depend on the data, and a GPU is best waited for before the encoders.
        """
        require_inputs(batch_dict, self)
        batch_dict = dict(batch_dict)
        with torch.no_grad():
            for head in heads:
                batch_dict.update(head.targets(batch_dict))
        if term_schedule.reads(heads) & term_schedule.LIFTED_FEATURES:
            prepare_geometry(batch_dict, self)
        if self.mask_token is not None:
            batch_dict = self.mask_token(batch_dict)
        return batch_dict

    def encode(self, batch_dict: Batch, heads: Sequence[RenderHead]) -> Batch:
        """The features that the heads read, as in BEVFusion up to its fuser."""
        needed = term_schedule.reads(heads)
        if self.backbone_3d is not None and needed & term_schedule.LIDAR_FEATURES:
            batch_dict = self.map_to_bev_module(self.backbone_3d(self.vfe(batch_dict)))
        if self.image_backbone is not None and needed & term_schedule.CAMERA_FEATURES:
            batch_dict = self.neck(self.image_backbone(batch_dict))
            if "spatial_features_img" in needed:
                batch_dict = self.vtransform(batch_dict)
            elif needed & term_schedule.LIFTED_FEATURES:
                self.vtransform.lift(batch_dict)
        return batch_dict

    def render(self, batch_dict: Batch, heads: Sequence[RenderHead]) -> Batch:
        """The views of all heads, by volume rendering (:mod:`nsmae_plugin.ops.compositing`)."""
        for head in heads:
            batch_dict = head(batch_dict)
        return batch_dict

    def compare(self, batch_dict: Batch, heads: Sequence[RenderHead]) -> tuple[Any, ...]:
        """The loss of the renderings, or in evaluation mode the renderings beside their targets."""
        if not self.training:
            return self._samples(batch_dict, heads), {}
        loss, tb_dict = self._loss(batch_dict, heads)
        return {"loss": loss}, tb_dict, {}

    def _loss(
        self, batch_dict: Mapping[str, Any], heads: Sequence[RenderHead]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the terms, and every term unweighted and weighted, detached.

        A term of weight 0 stays in the graph, see :func:`~.models.render_head.masked_mean`.
        """
        config, step = self.model_cfg.LOSS_CONFIG, self.global_step[0]
        steps = self.steps_per_epoch if self.training else None
        terms = {name: term for head in heads for name, term in head.losses(batch_dict).items()}
        weighted = {}
        for name, term in terms.items():
            factor = term_schedule.factor(name, config, step, steps)
            weighted[name] = term * (config.LOSS_WEIGHTS[f"{name}_weight"] * factor)
        loss = torch.stack(list(weighted.values())).sum()
        tb_dict = {f"loss_{name}": term.detach() for name, term in terms.items()}
        tb_dict |= {f"weighted_{name}": term.detach() for name, term in weighted.items()}
        return loss, tb_dict

    def _samples(self, batch_dict: Batch, heads: Sequence[RenderHead]) -> list[dict[str, Any]]:
        """Renderings, targets, masks and loss terms of each sample."""
        own = {k: v for k, v in batch_dict.items() if k.startswith(("rendered_", "target_"))}
        for head in heads:
            own |= head.hidden(batch_dict)
        if self.mask_token is not None:
            own["image_patch_mask"] = batch_dict["image_patch_mask"].bool()
            own["masked_camera_imgs"] = batch_dict["camera_imgs"]
        count, names = batch_dict["batch_size"], [one.NAME for one in self.model_cfg.RENDER_HEADS]
        samples: list[Batch] = [{key: own[key][index] for key in own} for index in range(count)]
        terms = [self._loss(sample, heads)[1] for sample in samples]
        values = torch.stack([torch.stack(list(one.values())) for one in terms]).tolist()
        for sample, one, row in zip(samples, terms, values, strict=True):
            sample |= {"loss_terms": dict(zip(one, row, strict=True)), "render_heads": names}
        return samples

    def build_mask_token(self, model_info_dict: Any) -> tuple[nn.Module | None, Any]:
        if self.model_cfg.get("MASK_TOKEN") is None:
            return None, model_info_dict
        token = ImageMaskToken(self.model_cfg.MASK_TOKEN)
        model_info_dict["module_list"].append(token)
        return token, model_info_dict
