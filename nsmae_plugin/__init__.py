"""NS-MAE pre-training and transfer of LiDAR-camera networks, as a plugin of OpenPCDet.

Importing the package registers nothing; call :func:`register` (the tools do) to enter the
plugin's classes into the registries of the active host.
"""

import os
import sys

# spconv and torch each bring an OpenMP pool; busy-waiting threads of one starve the other on a CPU
# (0.2 s against up to 19 s for one backbone). The policy is read when torch loads, hence here.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"


def register() -> None:
    """Enter the plugin's datasets, augmentors, modules and detectors into the active host.

    Idempotent. Raises:
        HostError: when another class already holds one of the names.
    """
    from nsmae_plugin.registration import register_all

    register_all()
