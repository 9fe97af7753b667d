"""The base class of render heads, registered by ``host.register("render_head", NAME, cls)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.models.head_panels import Panel
from nsmae_plugin.models.scores import Total

IMAGE_MAP = "image_fpn"  # in a batch: maps of the neck, the finest first, each (B * N, C, h, w)


@dataclass(frozen=True)
class Encoders:
    """The parts of the network that a render head can use."""

    view_transform: Any  # writes depth_logits and depth_context; None without cameras
    bev_channels: Mapping[str, int]  # of each BEV feature map, by its key in the batch
    grid: BEVGrid  # of these maps, with the voxels as its layers
    point_cloud_range: tuple[float, ...]  # lower and upper x, y, z, metres
    image_map: tuple[int, int] | None = None  # channels and stride of the neck's finest map


class RenderHead(nn.Module):
    """A view rendered from the network's features, with its target, loss, scores and panels.

    ``sample`` below is what :class:`~nsmae_plugin.detectors.nsmae.NSMAE` returns for one sample in
    evaluation mode. Scores and panels need no network: they are class methods or static ones. A
    head is built from its entry of MODEL.RENDER_HEADS and the :class:`Encoders`.

    Attributes:
        slot: attribute of the detector, and prefix of the head's parameters in checkpoints.
        terms: names of the loss terms; ``LOSS_CONFIG.LOSS_WEIGHTS.<term>_weight`` weighs them.
        reads: keys of the features in the batch that the head renders.
        rows: metric → title of its row in the table of metrics; other metrics have no row.
    """

    slot: ClassVar[str]
    terms: ClassVar[tuple[str, ...]]
    rows: ClassVar[Mapping[str, str]] = {}
    reads: tuple[str, ...]

    def __init__(self, model_cfg: Any, encoders: Encoders) -> None:
        super().__init__()

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Render the view: write ``rendered_*`` tensors with one row per sample."""
        raise NotImplementedError

    def targets(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """``target_*`` from the clean input, before it is masked; nothing is written into it."""
        raise NotImplementedError

    def hidden(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """``target_*_hidden``: target cells of which the network saw no input; in evaluation."""
        return {}

    def losses(self, batch_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """The unweighted terms, () tensors by name, of a batch or of one sample of it."""
        raise NotImplementedError

    @classmethod
    def cells(cls, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Bool masks of the cells over which terms are means, which weigh the samples; none: 1."""
        return {}

    @classmethod
    def record(cls, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Sums of one sample for each of :meth:`totals`, in numbers and arrays to be pickled."""
        return {}

    @classmethod
    def totals(cls) -> dict[str, Total]:
        """Empty totals by name, which add up records and compute the metrics of the view."""
        return {}

    @classmethod
    def panels(cls, sample: Mapping[str, Any]) -> list[Panel]:
        """The panels of the sheets of one sample, two in a row.

        Args:
            sample: as above, with ``point_cloud_range`` and, where there are cameras, the list
                ``camera_names`` and the clean ``camera_imgs``, ``image_mean`` and ``image_std``.
        """
        return []

    @classmethod
    def overview(cls, sample: Mapping[str, Any]) -> list[Panel]:
        """The panels for the overview of all heads, a row per sheet; as :meth:`panels`."""
        return cls.panels(sample)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``; 0 where nothing is, with a gradient of zero.

    In distributed training every process owes every parameter a gradient, whatever it sees.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
