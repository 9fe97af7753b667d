"""The real, unmodified OpenPCDet as host: installed or a plain checkout, compiled or not.

Importing this package imports ``pcdet``. ``OPENPCDET_ROOT`` names a source checkout and wins over
an installed package. What a build would have provided comes from torch-native code in
:mod:`nsmae_plugin.ops`, on CPU and GPU.

Raises:
    HostError: OpenPCDet is absent or cannot be imported; the message names the remedy.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nsmae_plugin.host import build
from nsmae_plugin.host.openpcdet.loading import load, load_for_command

#: What was found and what was put in its place.
DESCRIPTION = load_for_command() if sys.argv[:1] == ["-m"] else load()

from pcdet import config as _config  # noqa: E402
from pcdet.datasets import DatasetTemplate  # noqa: E402
from pcdet.models import build_network as _build_network  # noqa: E402
from pcdet.models.detectors import BevFusion as _BevFusion  # noqa: E402
from pcdet.models.detectors import Detector3DTemplate as _Stock  # noqa: E402

from nsmae_plugin.host.batch import to_device  # noqa: E402
from nsmae_plugin.host.openpcdet import configuration, optimization  # noqa: E402
from nsmae_plugin.host.openpcdet.data_steps import check_data_steps  # noqa: E402
from nsmae_plugin.host.openpcdet.registry import check_names, lookup, register  # noqa: E402

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

NAME = "openpcdet"
optimization.install()
configuration.install(_config, started_in=Path.cwd())
build_dataset = partial(build.build_dataset, lookup)


class Detector3DTemplate(_Stock):
    """OpenPCDet's ``Detector3DTemplate`` plus the four image slots.

    In OpenPCDet only ``BevFusion`` can build them, and it fixes its topology and builds all its
    networks in the constructor. A detector names the slots that it has in ``module_topology``.
    """

    build_image_backbone = _BevFusion.build_image_backbone
    build_neck = _BevFusion.build_neck
    build_vtransform = _BevFusion.build_vtransform
    build_fuser = _BevFusion.build_fuser


def build_network(model_cfg: Any, num_class: int, dataset: Any) -> nn.Module:
    """Build the detector that ``model_cfg.NAME`` names, by OpenPCDet's own builder.

    Raises:
        HostError: a NAME in ``model_cfg`` is not registered.
        ConfigError: ``model_cfg`` has sections that the detector does not use, or grids that do
            not fit together.
    """
    check_names(model_cfg)
    return _build_network(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
