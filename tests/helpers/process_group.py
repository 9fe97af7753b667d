"""Some gloo processes of this machine, instead of those that a launcher starts."""

import os
import traceback

import torch
import torch.multiprocessing as mp

from nsmae_plugin.runtime import distributed
from tests.helpers.toys import free_port


def run_in_processes(look, folder, count=2):
    """What ``look(world)``, a function of a module, returns in each of them.

    It goes through files in ``folder``: failures of children are hard to read.
    """
    mp.spawn(_run, args=(look, free_port(), folder, count), nprocs=count)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]
    for one in found:
        assert "error" not in one, one["error"]
    return found


def _run(rank, look, port, folder, count):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        found = look(distributed.start("pytorch", "cpu"))
    except Exception:
        found = {"error": traceback.format_exc()}
    torch.save(found, folder / f"{rank}.pt")
    distributed.stop()
