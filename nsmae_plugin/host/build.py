"""Building a dataset, which both hosts do alike."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset


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
