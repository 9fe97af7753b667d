"""Starting OpenPCDet's own scripts as a user would, in one process or under torchrun.

As a program it is ``python -m nsmae_plugin.host.openpcdet`` without the half minute that the
training script waits for another checkpoint before it ends.
"""

import runpy
import shutil
import subprocess
import time
from pathlib import Path

from tests.helpers.paths import REPOSITORY
from tests.helpers.programs import TORCHRUN, run_python


def copy_openpcdet(source: Path, target: Path) -> Path:
    """OpenPCDet's sources without any build; its scripts write below the root."""
    left_out = shutil.ignore_patterns("*.so", "*.pyd", "src", "__pycache__", "version.py")
    for folder in ("pcdet", "tools"):
        shutil.copytree(source / folder, target / folder, ignore=left_out)
    return target


def start(
    arguments: list, root: Path, directory: Path = REPOSITORY, processes: int = 1
) -> subprocess.CompletedProcess:
    """Run a script of the OpenPCDet at ``root``, started in ``directory``."""
    launcher = (*TORCHRUN[:-1], processes) if processes > 1 else ("-W", "ignore")
    environment = {"OPENPCDET_ROOT": str(root), "PYTHONWARNINGS": "ignore"}
    words = (*launcher, "-m", __name__, *arguments)
    return run_python(*words, cwd=directory, without=["NSMAE_HOST"], **environment)


if __name__ == "__main__":
    time.sleep = lambda seconds: None
    runpy.run_module("nsmae_plugin.host.openpcdet", run_name="__main__", alter_sys=True)
