"""The frames that a training with labels draws from: a part of them, or some more than once."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data import gt_sampling, label_fraction
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats import infos

Frames = list[dict[str, Any]]


def training_frames(
    frames: Frames,
    dataset_cfg: Any,
    class_names: Sequence[str],
    root: Path,
    augmentor: Any,
    logger: logging.Logger,
) -> tuple[Frames, int]:
    """The fraction of ``frames`` with labels; with boxes, the classes balanced where asked for.

    Args:
        dataset_cfg: the section ``DATA_CONFIG``.
        root: folder that holds, in a folder ``VERSION``, nuScenes' tables.
        augmentor: ``gt_sampling`` in it is limited to objects of those frames.

    Returns:
        The frames, and how many there would be with all labels.

    Raises:
        ConfigError: the fraction means nothing.
        DataError: no box of the classes is left.
    """
    chosen = label_fraction.select(frames, dataset_cfg, root)
    if len(chosen) < len(frames):
        logger.info("labels of %d of %d samples are used", len(chosen), len(frames))
    if not dataset_cfg.get("USE_LABELS", False):
        return chosen, len(frames)
    if not any(np.isin(info["gt_names"], class_names).any() for info in chosen):
        raise DataError(
            f"no box of {', '.join(class_names)} in {len(chosen)} of {len(frames)} samples; check "
            "CLASS_NAMES, INFO_PATH and LABEL_FRACTION"
        )
    shown = {str(name) for info in chosen for name in info["gt_names"]}
    absent = [name for name in class_names if name not in shown]
    if absent:
        logger.warning(
            "no box of %s in the %d samples of the training; check CLASS_NAMES if there should be",
            ", ".join(absent),
            len(chosen),
        )
    if len(chosen) < len(frames):
        gt_sampling.limit(augmentor, frames, chosen)
    gt_sampling.drop_empty_groups(augmentor, logger)
    if not dataset_cfg.get("BALANCED_RESAMPLING", False):
        return chosen, len(frames)
    length = infos.balanced_length(frames, class_names)
    return infos.balanced_resampling(chosen, class_names, np.random.default_rng(0)), length
