"""NS-MAE pre-training and transfer of LiDAR-camera networks, as a plugin of OpenPCDet.

Importing the package registers nothing; call :func:`register` (the tools do) to enter the
plugin's classes into the registries of the active host.
"""

import logging
import os
import sys

# spconv and torch each bring an OpenMP pool. Threads that spin while they wait starve the other
# pool (up to 19 s for one backbone); threads that sleep at once have to be woken for each of
# thousands of small products (twice the time of a LiDAR step). So they spin for about 0.1 ms, under
# GNU's runtime, which torch has on Linux. Both are read when torch loads, hence here.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# Building one of spconv's tensors makes torch warn of a function that torch itself calls there.
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: "is_fx_tracing" not in record.getMessage()
)

__version__ = "0.1.0"


def register() -> None:
    """Enter the plugin's datasets, augmentors, modules and detectors into the active host.

    Idempotent. Raises:
        HostError: when another class already holds one of the names.
    """
    from nsmae_plugin.registration import register_all

    register_all()
