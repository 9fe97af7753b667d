"""The built-in host: OpenPCDet's contract, parameter names and shapes, without OpenPCDet."""

from functools import partial
from typing import Any

from torch import nn

from nsmae_plugin.host import build
from nsmae_plugin.host.batch import to_device
from nsmae_plugin.host.builtin.dataset import DatasetTemplate
from nsmae_plugin.host.builtin.detector import Detector3DTemplate
from nsmae_plugin.host.builtin.registry import lookup, register

__all__ = [
    "DESCRIPTION",
    "NAME",
    "DatasetTemplate",
    "Detector3DTemplate",
    "build_dataset",
    "build_network",
    "check_data_steps",
    "lookup",
    "register",
    "to_device",
]

NAME = "builtin"
DESCRIPTION = build.HostDescription()
build_dataset = partial(build.build_dataset, lookup)


def check_data_steps(*args: Any) -> None:
    """Do nothing: this host checks the steps when a dataset builds them."""


def build_network(model_cfg: Any, num_class: int, dataset: Any) -> nn.Module:
    """Build the detector that ``model_cfg.NAME`` names.

    Raises:
        HostError: a NAME in ``model_cfg`` is not registered.
        ConfigError: ``model_cfg`` has sections that the detector does not use, or grids that do
            not fit together.
    """
    return build.build_network(lookup("detector", model_cfg.NAME), model_cfg, num_class, dataset)
