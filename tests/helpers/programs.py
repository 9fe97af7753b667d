"""Python programs in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.paths import REPOSITORY

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
TOYS = ("-m", "tests.helpers.toys")


def run_python(
    *words: object, cwd: Path = REPOSITORY, without: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess:
    """Run ``python *words`` with one thread and the repository on the import path.

    Args:
        words: arguments of the interpreter.
        cwd: the working directory.
        without: variables of the environment that the program does not get.
        environment: variables that it gets besides.

    Returns:
        Exit status, standard output and standard error, as text.
    """
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment_of_a_program(without) | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def environment_of_a_program(without: Sequence[str] = ()) -> dict[str, str]:
    """This process's environment, with one thread and the repository on the import path."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    paths = filter(None, [str(REPOSITORY), kept.get("PYTHONPATH")])
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
