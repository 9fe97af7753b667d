"""A network with its weights and a data split."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.data.loader import Draw, build_dataloader
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.training import checkpoint, config_changes

VALIDATION = "validation"


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode, and a split of the data without augmentation.

    Attributes:
        origin: where the weights come from, for captions.
    """

    model: Any
    dataset: Any
    loader: DataLoader
    origin: str

    def batch_of(self, index: int) -> dict[str, Any]:
        """The batch that holds sample ``index`` alone, masked as when the whole split is read.

        Raises:
            DataError: when the split has no such sample.
        """
        self.check(index)
        draw = Draw(epoch=0, index=index)
        return self.dataset.collate_batch([self.loader.dataset[draw]])

    def check(self, index: int) -> None:
        """Raise a DataError if the split has no sample ``index``."""
        count = len(self.dataset)
        if not 0 <= index < count:
            raise DataError(f"there is no sample {index}: the split has {count}, 0 to {count - 1}")

    def index_of(self, token: str) -> int:
        """Position of the sample with nuScenes token ``token``.

        Raises:
            DataError: when the split does not hold it.
        """
        tokens = [info["token"] for info in self.dataset.infos]
        if token not in tokens:
            raise DataError(
                f"no sample of the split has the token {token!r}; it holds {len(tokens)} samples, "
                f"the first is {tokens[0]!r} (another --split?)"
            )
        return tokens.index(token)


def load_model(
    config: Any,
    split: str,
    device: torch.device,
    ckpt: Path | None = None,
    batch_size: int = 1,
    workers: int = 0,
    seed: int = 0,
    logger: logging.Logger | None = None,
) -> LoadedModel:
    """Build data and network, and load the weights.

    Args:
        config: as ``load_config`` gives it.
        split: ``train``, ``validation`` or ``test``; each is read in order, whole and without
            augmentation.
        ckpt: checkpoint file, or a folder whose newest one is taken; None leaves the network
            untrained.
        seed: decides the masks, and the weights of an untrained network.

    Raises:
        CheckpointError: when ``ckpt`` cannot be read or belongs to another architecture or
            other settings.
        ConfigError, DataError: from the dataset and the modules.
    """
    nsmae_plugin.register()
    dataset, loader, _ = build_dataloader(
        data_of_split(config.DATA_CONFIG, split),
        config.CLASS_NAMES,
        batch_size,
        workers,
        training=False,
        seed=seed,
        logger=logger,
    )
    torch.manual_seed(seed)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)
    origin = f"untrained network (seed {seed})"
    if ckpt is not None:
        source = checkpoint.find(ckpt)
        content = checkpoint.read(source)
        config_changes.check_use(content, source, config, logger or logging.getLogger(__name__))
        checkpoint.load_model_state(model, content["model_state"], source)
        at = checkpoint.position_of(content)
        known = f"after {at.epoch} epochs, {at.step} steps"
        origin = known if at.epoch >= 0 else f"weights of {source}"
    return LoadedModel(model.to(device).eval(), dataset, loader, origin)


def data_of_split(data_config: Any, split: str) -> Any:
    """A copy of ``data_config`` whose evaluation split is ``split``.

    Training scenes can so be evaluated as held-out ones are: in order, without augmentation.

    Args:
        split: ``train``, ``test`` or ``validation``, the part of ``train`` that is held out.

    Raises:
        ConfigError: nothing is held out for validation.
    """
    result = copy.deepcopy(data_config)
    source = "train" if split == VALIDATION else split
    for key in ("DATA_SPLIT", "INFO_PATH"):
        if result.get(key) is not None:
            result[key]["test"] = copy.deepcopy(result[key][source])
    if split == VALIDATION:
        if not result.get("VALIDATION_FRACTION"):
            raise ConfigError("there is no validation part: set DATA_CONFIG.VALIDATION_FRACTION")
        result["EVALUATE_VALIDATION"] = True
    return result
