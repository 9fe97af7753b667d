"""Kill trainings at random moments: every one must end as if it had never been killed.

``python -m tests.helpers.kill_runs 100`` kills a hundred. Each runs in a process forked from
this one, which has loaded everything and computed nothing; some have a loader process.
"""

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import nsmae_plugin
from tests.helpers import toys

# isort: split
import torch
import torch._dynamo  # (which building an optimiser imports)

from nsmae_plugin.training import checkpoint, metrics_file

OPTIONS = ("--cfg_file", "cfgs/group/toy.yaml", "--seed", "1", "--logger_iter_interval", "1")
SAVING = ("--ckpt_save_step_interval", "2", "--max_ckpt_save_num", "2")


def start(tag, workers=0):
    """Begin or go on with a run in a process of its own; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 99
    try:
        with open(f"{tag}.log", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        status = toys.train(*OPTIONS, *SAVING, "--extra_tag", tag, "--workers", workers)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(process):
    """Exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def outcome(tag):
    """The whole last checkpoint of a run, and the records of its evaluations."""
    folder = Path("output/group/toy") / tag
    content = checkpoint.read(checkpoint.find(folder / "ckpt"))
    records = metrics_file.rewrite(folder / "metrics.jsonl", lambda _: True)
    tests = [one for one in records if one["split"] == "test"]
    leftovers = list(folder.rglob("*.tmp"))
    return {**content, "tests": tests, "leftovers": leftovers}


def same(one, other):
    """Return whether two nested values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def kill_and_resume(count, seed=0):
    """Kill ``count`` running trainings; returns how many were started, and what went wrong."""
    rng = random.Random(seed)
    begin = time.monotonic()
    assert wait(start("whole")) == 0, Path("whole.log").read_text()
    duration = time.monotonic() - begin
    expected, started, killed, wrong = outcome("whole"), 0, 0, []
    assert len(expected["tests"]) == 3
    while killed < count:
        tag = f"run{started}"
        process = start(tag, workers=int(started % 5 == 4))
        started += 1
        time.sleep(rng.uniform(0, 1.1 * duration))
        os.kill(process, signal.SIGKILL)
        killed += wait(process) == -signal.SIGKILL
        if wait(start(tag)) != 0 or not same(outcome(tag), expected):
            wrong.append(tag)
    return started, wrong


if __name__ == "__main__":
    nsmae_plugin.register()
    os.environ["TOY_EVALUATE"] = "1"
    with tempfile.TemporaryDirectory() as workspace:
        os.chdir(workspace)
        toys.write_config(workspace)
        total = int(sys.argv[1])
        started, wrong = kill_and_resume(total)
        print(f"{started} runs, {total} killed in time, {len(wrong)} ended differently")
        for tag in wrong[:3]:
            print(f"{tag}:", *Path(f"{tag}.log").read_text().splitlines()[-5:], sep="\n    ")
    sys.exit(bool(wrong))
