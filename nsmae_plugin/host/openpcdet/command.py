"""Checks of ``python -m nsmae_plugin.host.openpcdet`` that run before its ``__main__``.

Python imports the package first, and with it OpenPCDet; until then ``sys.argv`` begins with -m.
"""

import sys

from nsmae_plugin.errors import HostError
from nsmae_plugin.host.description import HostDescription
from nsmae_plugin.host.openpcdet.loading import load

USAGE = """usage: python -m nsmae_plugin.host.openpcdet SCRIPT [ARGUMENTS ...]

Run a script of OpenPCDet, such as tools/train.py, without its CUDA build. SCRIPT is a path from the
root of the checkout that OPENPCDET_ROOT names, or from here."""


def load_for_command() -> HostDescription:
    """Import OpenPCDet, or end with one line; ``--help`` does not need it."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(USAGE)
        sys.exit(0)
    try:
        return load()
    except HostError as error:
        sys.exit(f"error: {error}")
