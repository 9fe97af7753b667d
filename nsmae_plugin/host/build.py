"""Describing a host, and building datasets and networks as far as both hosts do it alike."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from nsmae_plugin.config.derived import complete
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.lost_voxels import refuse_lost_voxels, warn_of_losses


@dataclass(frozen=True)
class HostDescription:
    """Version and state of the imported OpenPCDet; empty for the built-in host.

    Attributes:
        version, location: of the package ``pcdet``.
        extensions: name of each of its compiled extensions -> how it is served.
        stand_ins: third-party package (or dataset) that was replaced -> why.
    """

    version: str | None = None
    location: str | None = None
    extensions: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)


def build_dataset(
    lookup: Callable[[str, str], Any],
    dataset_cfg: Any,
    class_names: list[str],
    training: bool,
    root_path: Path | str | None = None,
    logger: logging.Logger | None = None,
) -> Dataset:
    """Build the dataset that ``dataset_cfg.DATASET`` names.

    Args:
        lookup: of the host; the hosts bind it, and callers start at ``dataset_cfg``.
        root_path: directory that holds the versions; None takes ``dataset_cfg.DATA_PATH``.
        logger: OpenPCDet's datasets log while they load, so None becomes this module's logger.
    """
    return lookup("dataset", dataset_cfg.DATASET)(
        dataset_cfg=dataset_cfg,
        class_names=class_names,
        training=training,
        root_path=None if root_path is None else Path(root_path),
        logger=logger or logging.getLogger(__name__),
    )


def build_network(
    builder: Callable[..., nn.Module], model_cfg: Any, num_class: int, dataset: Any
) -> nn.Module:
    """Build the detector that ``model_cfg.NAME`` names from a completed copy of ``model_cfg``.

    It can train on a batch whose points leave one row in a sparse tensor, and says so where they
    leave none.

    Args:
        builder: of the host.

    Raises:
        ConfigError: values of ``model_cfg`` that contradict each other, grids that do not fit
            together, or sections that a detector of the plugin or the built-in host does not use.
    """
    model_cfg = complete(model_cfg, dataset)
    warn_of_losses(model_cfg, dataset)
    model = builder(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
    refuse_unused_sections(model, model_cfg)
    return refuse_lost_voxels(accept_single_rows(model), model_cfg, dataset)


def refuse_unused_sections(model: nn.Module, model_cfg: Any) -> None:
    """Check that a detector has a slot for every module of its configuration.

    A template builds the slots of ``module_topology`` and leaves the other sections unread.

    Raises:
        ConfigError: naming the sections that it has no slot for.
    """
    topology: Any = getattr(model, "module_topology", None)
    if topology is None:
        return  # not a subclass of a template: it reads its configuration itself
    slots = {
        key: "map_to_bev_module" if key == "MAP_TO_BEV" else key.lower()
        for key, value in model_cfg.items()
        if _names_modules(value)
    }
    # A detector may have modules outside the topology.
    unused = [
        key for key, slot in slots.items() if slot not in topology and not hasattr(model, slot)
    ]
    if unused:
        raise ConfigError(
            f"{model_cfg.NAME} has no place for MODEL.{', MODEL.'.join(unused)}: remove what it "
            "does not use, or choose another MODEL.NAME (BEVFusionMap has a MAP_HEAD, NSMAE "
            "RENDER_HEADS)"
        )


def _names_modules(section: Any) -> bool:
    """Return whether a section of MODEL names a module, or is a list of sections that do."""
    sections = section if isinstance(section, list) else [section]
    return bool(sections) and all(isinstance(one, Mapping) and "NAME" in one for one in sections)


class RowBatchNorm1d(nn.BatchNorm1d):
    """``BatchNorm1d`` that normalises a single value per channel by the running statistics.

    The rows are those of sparse tensors, of which a sample with few points may leave one. One value
    has no spread: torch refuses to train on it, and its variance would be NaN. The
    running statistics stay as they are.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or input.numel() > self.num_features or self.running_mean is None:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def accept_single_rows(model: nn.Module) -> nn.Module:
    """Make every ``BatchNorm1d`` of a network a :class:`RowBatchNorm1d`; its parameters stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = RowBatchNorm1d
    return model
