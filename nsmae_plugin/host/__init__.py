"""The interface between the plugin and the detection framework.

Everything outside this directory imports ``nsmae_plugin.host`` and never ``pcdet``. The host is
chosen once, at first import, by the environment variable ``NSMAE_HOST``:

``auto`` (default)
    OpenPCDet when it is installed or ``OPENPCDET_ROOT`` names a checkout, else the built-in host.
``openpcdet``, ``builtin``
    That host or an error.

An OpenPCDet that is found but broken raises :class:`~nsmae_plugin.errors.HostError`; it is never
replaced silently.
"""

import importlib
import importlib.util
import logging
import os

from nsmae_plugin.errors import HostError

CHOICES = ("auto", "openpcdet", "builtin")


def openpcdet_available() -> bool:
    """True if ``OPENPCDET_ROOT`` is set or ``pcdet`` is installed."""
    return bool(os.environ.get("OPENPCDET_ROOT")) or importlib.util.find_spec("pcdet") is not None


def _choose() -> str:
    choice = os.environ.get("NSMAE_HOST", "auto")
    if choice not in CHOICES:
        raise HostError(f"NSMAE_HOST={choice!r} is not one of {', '.join(CHOICES)}")
    if choice == "auto":
        return "openpcdet" if openpcdet_available() else "builtin"
    return choice


_active = importlib.import_module(f"nsmae_plugin.host.{_choose()}")

NAME = _active.NAME
DESCRIPTION = _active.DESCRIPTION
Detector3DTemplate = _active.Detector3DTemplate
DatasetTemplate = _active.DatasetTemplate
register = _active.register
lookup = _active.lookup
build_dataset = _active.build_dataset
build_network = _active.build_network
check_data_steps = _active.check_data_steps
to_device = _active.to_device

logging.getLogger(__name__).info("nsmae_plugin host: %s", NAME)
