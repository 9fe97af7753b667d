"""The frames that training draws from: a part of them, or some more than once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.data import gt_sampling, label_fraction
from nsmae_plugin.errors import DataError

Frames = list[dict[str, Any]]


def training_frames(
    frames: Frames,
    dataset_cfg: Any,
    class_names: Sequence[str],
    scenes: Callable[[], Mapping[str, str]],
    augmentor: Any,
    logger: logging.Logger,
) -> tuple[Frames, int]:
    """``LABEL_FRACTION`` of the frames, with ``BALANCED_RESAMPLING`` drawn by classes.

    Args:
        dataset_cfg: the section ``DATA_CONFIG``.
        scenes: gives the scene of every token; called for ``LABEL_FRACTION_BY: scenes`` alone.
        augmentor: ``gt_sampling`` in it is limited to objects of those frames.

    Returns:
        The frames, and how many there would be with all labels.

    Raises:
        ConfigError: an invalid fraction.
        DataError: no box of the classes is left.
    """
    chosen = label_fraction.select(frames, dataset_cfg, scenes)
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
    length = balanced_length(frames, class_names)
    return balanced_resampling(chosen, class_names, np.random.default_rng(0)), length


def balanced_resampling(
    infos: Sequence[dict[str, Any]], class_names: Sequence[str], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw frames so that all classes appear about equally often (CBGS, arXiv 1908.09492).

    A frame counts once for every class that it shows; of each class's frames, with replacement, as
    many are drawn as the average over the classes, but at least one. Where OpenPCDet's rule works
    it is the same; OpenPCDet fails on a class that no frame shows.

    Raises:
        DataError: no frame shows any of the classes.
    """
    members = _frames_by_class(infos, class_names)
    share = _share(members)
    drawn = [rng.choice(positions, share) for positions in members if positions]
    if not drawn:
        raise DataError(f"no frame has a box of {', '.join(class_names)}; nothing to balance")
    return [infos[position] for position in np.concatenate(drawn)]


def balanced_length(infos: Sequence[dict[str, Any]], class_names: Sequence[str]) -> int:
    """How many frames :func:`balanced_resampling` draws."""
    members = _frames_by_class(infos, class_names)
    return _share(members) * sum(map(bool, members))


def _frames_by_class(
    infos: Sequence[dict[str, Any]], class_names: Sequence[str]
) -> list[list[int]]:
    return [
        [position for position, info in enumerate(infos) if name in info["gt_names"]]
        for name in class_names
    ]


def _share(members: list[list[int]]) -> int:
    return max(1, sum(map(len, members)) // len(members))
