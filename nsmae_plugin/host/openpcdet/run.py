"""Running a script of OpenPCDet, unmodified, without OpenPCDet's CUDA build.

The script sees what it expects: its own folder as working directory (its configurations and data
are named relative to it) and as first entry of ``sys.path``, and its own arguments. Everything that
:mod:`nsmae_plugin.host.openpcdet` puts in place is there before it starts, and so are the plugin's
classes, which its configurations may name.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.errors import HostError
from nsmae_plugin.host.openpcdet import REPORT

USAGE = "usage: python -m nsmae_plugin.host.openpcdet SCRIPT [ARGUMENTS ...]"


def main(arguments: Sequence[str]) -> None:
    """Run ``arguments[0]``, a path from the root of OpenPCDet or from here, with the others.

    The process is the script's from then on: working directory, ``sys.path`` and ``sys.argv``.

    Raises:
        HostError: there is no such script, or it belongs to another copy of OpenPCDet.
    """
    if not arguments:
        raise HostError(f"no script was named; {USAGE}")
    script = find_script(arguments[0], Path(REPORT.location).resolve().parent)
    if host.NAME == "openpcdet":
        nsmae_plugin.register()
    os.chdir(script.parent)
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *arguments[1:]]
    runpy.run_path(str(script), run_name="__main__")


def find_script(name: str, root: Path) -> Path:
    """The absolute path of a script, below ``root`` or else below the working directory.

    Raises:
        HostError: there is none, or it lies in a checkout other than the imported one at ``root``.
    """
    candidates = [root / name, Path(name).resolve()]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        places = " nor ".join(map(str, dict.fromkeys(candidates)))
        raise HostError(f"there is no script {places}; set OPENPCDET_ROOT to the checkout it is in")
    for folder in found.parents:
        if (folder / "pcdet" / "__init__.py").is_file() and folder != root:
            raise HostError(
                f"{found} belongs to the OpenPCDet at {folder}, but {root} was imported; "
                f"set OPENPCDET_ROOT={folder}"
            )
    return found
