"""Building datasets and networks, as far as both hosts do it alike."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from nsmae_plugin.config.derived import complete
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.batch_norm import accept_single_rows
from nsmae_plugin.host.lost_voxels import refuse_lost_voxels, warn_of_losses


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
        return  # no descendant of a template: it reads its configuration by itself
    slots = {
        key: "map_to_bev_module" if key == "MAP_TO_BEV" else key.lower()
        for key, value in model_cfg.items()
        if _names_modules(value)
    }
    # A detector may keep modules of its own beside the topology.
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
