"""OpenPCDet's ``HOOK`` section."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

NAME = "DisableAugmentationHook"


def build_hook(
    config: Mapping[str, Any] | None,
    dataset: Any,
    restart_workers: Callable[[], None],
    epochs: int,
    logger: logging.Logger,
) -> Callable[[int], None] | None:
    """A function to call before each epoch, or None without a ``HOOK`` section.

    ``DisableAugmentationHook`` takes the augmentations of its DISABLE_AUG_LIST out of the dataset
    for the last NUM_LAST_EPOCHS epochs.

    Args:
        restart_workers: called when the dataset has changed, since worker processes hold copies.

    Raises:
        ConfigError: for a hook of another name.
    """
    if not config:
        return None
    names = list(config[NAME]["DISABLE_AUG_LIST"])
    first = epochs - int(config[NAME]["NUM_LAST_EPOCHS"])

    def before_epoch(completed: int) -> None:
        if completed >= first and disable_augmentations(dataset, names):
            restart_workers()
            logger.info("disabled the augmentations %s", ", ".join(names))

    return before_epoch


def disable_augmentations(dataset: Any, names: list[str]) -> bool:
    """Disable augmentations of ``dataset``; False if there were none."""
    augmentor = dataset.data_augmentor
    kept = without(augmentor.data_augmentor_queue, names)
    if len(kept) == len(augmentor.data_augmentor_queue):
        return False
    augmentor.data_augmentor_queue = kept
    return True


def without(steps: list[Any], names: list[str]) -> list[Any]:
    """The steps of an augmentor but those of these names."""
    return [step for step in steps if _name(step) not in names]


def _name(step: Any) -> str:
    """Name of a step: a partial method, or the object that OpenPCDet's gt_sampling builds."""
    config = step.keywords["config"] if hasattr(step, "keywords") else step.sampler_cfg
    return config["NAME"]
