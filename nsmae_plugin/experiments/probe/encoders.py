"""The networks that a probe compares, reduced to their encoders."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.detectors.branches import find_branches, prepare_geometry, require_inputs
from nsmae_plugin.models.lift_splat import LiftSplatTransform
from nsmae_plugin.models.targets import nearest_returns
from nsmae_plugin.training.transfer import load_pretrained
from nsmae_plugin.training.weights import ENCODERS, SECTIONS, slots_of

Batch = dict[str, Any]
NAME = "ProbeEncoders"  # under which the host knows them
CAMERA, CAMERA_POOLED, LIDAR, FUSED = "camera", "camera_pooled", "lidar", "fused"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network of the comparison.

    Attributes:
        name: in tables.
        weights: checkpoint, folder of checkpoints or exported weights, of a pre-training or of any
            network with the same encoders; None leaves the network untrained.
        seed: of what ``weights`` does not hold.
    """

    name: str
    weights: Path | None
    seed: int = 0


class Encoders(host.Detector3DTemplate):
    """The encoders of a transfer network: everything in front of the fusion.

    The LiDAR branch ends with MAP_TO_BEV, the camera branch with VTRANSFORM; either may be left
    out. Slots, and so the prefixes of checkpoints, are those of stock detectors, and so is the
    order in which they are built: from one seed, both start with the same weights.

    Attributes:
        lidar_depth: where a LiDAR point falls into a cell of the image features, its depth takes
            the place of the network's distribution over the depth bins.
    """

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        find_branches(model_cfg)
        self.module_topology = list(ENCODERS)
        self.module_list = self.build_networks()
        self.lidar_depth = False

    def forward(self, batch_dict: Batch) -> tuple[dict[str, Tensor], Batch]:
        """BEV features (B, C, Y, X) of a batch by name, rows along y and columns along x.

        Returns:
            ``lidar``, ``camera`` and, if VTRANSFORM is one of this plugin, ``camera_pooled``: the
            input of the convolutions behind the pooling, averaged over the cells of ``camera``;
            and the batch, with the network's own ``depth_logits``.
        """
        require_inputs(batch_dict, self)
        batch = dict(batch_dict)
        prepare_geometry(batch, self)
        features: dict[str, Tensor] = {}
        if self.backbone_3d is not None:
            batch = self.map_to_bev_module(self.backbone_3d(self.vfe(batch)))
            features[LIDAR] = batch["spatial_features"]
        if self.vtransform is not None:
            batch = self.neck(self.image_backbone(batch))
            features |= self._camera_features(batch)
        return features, batch

    def _camera_features(self, batch: Batch) -> dict[str, Tensor]:
        view = self.vtransform
        if not isinstance(view, LiftSplatTransform):
            return {CAMERA: view(batch)["spatial_features_img"]}
        plan = view.lift(batch)
        lifted = {**batch, "depth_logits": self._depth_logits(batch)}
        pooled = view.pooled_map(lifted, plan)
        camera = view.downsample(pooled)
        coarse = F.adaptive_avg_pool2d(pooled, camera.shape[-2:])
        return {CAMERA_POOLED: coarse.permute(0, 1, 3, 2), CAMERA: camera.permute(0, 1, 3, 2)}

    def _depth_logits(self, batch: Batch) -> Tensor:
        logits = batch["depth_logits"]
        if not self.lidar_depth:
            return logits
        return with_lidar_depth(logits, *lidar_bins(self.vtransform, batch))


def with_lidar_depth(logits: Tensor, bins: Tensor, known: Tensor) -> Tensor:
    """Logits whose softmax is 1 in the bin of the LiDAR where it is known.

    Args:
        logits: (B * N, D, h, w). bins, known: of :func:`lidar_bins`.
    """
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, bins.unsqueeze(1), False)
    chosen = torch.zeros_like(logits).masked_fill(others, -torch.inf)
    return torch.where(known.unsqueeze(1), chosen, logits)


def lidar_bins(view: LiftSplatTransform, batch: Batch) -> tuple[Tensor, Tensor]:
    """The depth bin of the nearest LiDAR return in every cell of the image features.

    Returns:
        (B * N, h, w) int64, 0 where it is unknown; and a bool mask of the cells where it is known:
        a return falls into the cell and into a bin.
    """
    depth, known = lidar_depth(view, batch)
    bins = torch.bucketize(depth, view.depth_edges().to(depth), right=True) - 1
    known = known & (bins >= 0) & (bins < view.num_bins)
    return torch.where(known, bins, 0), known


def lidar_depth(view: LiftSplatTransform, batch: Batch) -> tuple[Tensor, Tensor]:
    """Depth of the nearest LiDAR return in every cell of the image features, metres.

    Returns:
        (B * N, h, w), 0 without a return; and a bool mask of the cells that have one.
    """
    depth, valid = nearest_returns(batch, view.pixels_per_cell(), size=view.image_size)
    return depth.flatten(0, 1), valid.flatten(0, 1)


def build_encoders(config: Any, dataset: Any, network: Network) -> tuple[Encoders, list[str]]:
    """The encoders of a network with its weights, in evaluation mode.

    Args:
        config: of a transfer network, as ``load_config`` gives it; only the encoders' sections of
            MODEL are read.

    Returns:
        The encoders, and those of their slots that stay as initialised, because the weights lack
        them.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        ConfigError: MODEL has no camera and no LiDAR branch, or half a branch.
    """
    nsmae_plugin.register()
    host.register("detector", NAME, Encoders)
    sections = {key: config.MODEL[key] for key in SECTIONS if config.MODEL.get(key) is not None}
    torch.manual_seed(network.seed)
    encoders = host.build_network(
        EasyDict({"NAME": NAME, **sections}), len(config.CLASS_NAMES), dataset
    )
    slots = slots_of(name for name, _ in encoders.named_parameters())
    if network.weights is None:
        return encoders.eval(), slots
    loaded = load_pretrained(encoders, network.weights, logger)
    return encoders.eval(), [slot for slot in slots if slot not in loaded]


@torch.no_grad()
def estimate_statistics(encoders: nn.Module, batches: Iterable[Batch]) -> None:
    """Replace the BatchNorm statistics by those of some batches, in place.

    A pre-training saw masked images and few voxels: the statistics that it leaves are not those of
    whole ones. Means and variances are averaged over the batches; all else is in evaluation mode.
    """
    encoders.eval()
    norms = [one for one in encoders.modules() if isinstance(one, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a cumulative average
        norm.train()
    try:
        for batch in batches:
            encoders(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
