"""Starting OpenPCDet's own scripts as a user would, in one process or under torchrun.

As a program it is ``python -m nsmae_plugin.host.openpcdet`` without the half minute that the
training script waits for another checkpoint before it ends.
"""

import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


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
    environment = {**os.environ, "OPENPCDET_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("NSMAE_HOST", None)
    launcher = (*TORCHRUN, processes) if processes > 1 else ("-W", "ignore")
    return subprocess.run(
        [sys.executable, *map(str, launcher), __file__, *map(str, arguments)],
        env={**environment, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    del sys.path[0]  # tests/, which python -m would not have put there
    time.sleep = lambda seconds: None
    runpy.run_module("nsmae_plugin.host.openpcdet", run_name="__main__", alter_sys=True)
