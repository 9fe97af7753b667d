"""Damaged inputs end in the right result, in one line, or in a warning that names the thing."""

import os
import resource
import time

import numpy as np
import pytest

from nsmae_plugin.errors import DataError
from tests.fuzz import harness
from tests.fuzz.harness import Case, Fault, run_case, run_kind
from tests.fuzz.kinds import KINDS

CASES = 40  # of each kind


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_right_or_named(kind, tmp_path):
    tally = run_kind(kind, KINDS[kind](tmp_path), range(CASES), seed=0)
    assert tally.faults == []
    assert sum(tally.counts.values()) == CASES
    assert tally.counts["refused"]


def fail(error):
    raise error


def eat_memory():
    """More than the process has ever held; what it held before and freed does not show."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return bool(np.ones(peak + 2 * harness.GROWTH, np.uint8)[-1])


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (lambda: fail(ValueError("x")), "ValueError: x"),
        (lambda: fail(SystemExit(1)), "SystemExit"),
        (lambda: fail(DataError("a.bin\nb")), "a message of"),
        (lambda: fail(DataError("a.bin " + "b" * 500)), "a message of"),
        (lambda: fail(DataError("it is damaged")), "names none of"),
        (lambda: False, "no warning that names"),
        (lambda: os.system("true") == 0, "it started os.system"),
        (lambda: time.sleep(9) is None, "longer than"),
        (eat_memory, "it took"),
    ],
)
def test_anything_else_is_a_fault(run, fault, monkeypatch):
    if fault == "longer than":
        monkeypatch.setattr(harness, "SECONDS", 1)
    monkeypatch.setattr(harness, "GROWTH", 1 << 25)
    with pytest.raises(Fault, match=fault):
        run_case(Case("a case", run, ("a.bin",)))
