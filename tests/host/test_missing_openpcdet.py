"""Commands that need OpenPCDet explain themselves, and end in one line, where there is none."""

import pytest

from tests.helpers.programs import run_python

WRAPPER = ["-m", "nsmae_plugin.host.openpcdet"]
RECORDER = ["tests/golden/record_keys.py"]


def run(arguments):
    return run_python(*arguments, without=["OPENPCDET_ROOT"], NSMAE_HOST="auto")


@pytest.mark.parametrize("command", [WRAPPER, RECORDER], ids=lambda command: command[-1])
def test_help_needs_no_openpcdet(command):
    outcome = run([*command, "--help"])
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    "command", [[*WRAPPER, "tools/train.py"], [*RECORDER, "--commit", "x", "--out", "y"]]
)
def test_without_openpcdet_they_end_in_one_line(command):
    outcome = run(command)
    assert outcome.returncode == 1
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("error: ")
    assert "OPENPCDET_ROOT" in line


def test_torch_does_not_comment_on_the_tensors_of_spconv(caplog):
    import torch
    from spconv.pytorch import SparseConvTensor
    from torch.fx import _symbolic_trace

    _symbolic_trace.is_fx_tracing_warning.cache_clear()  # it speaks once in a process
    SparseConvTensor(torch.zeros(1, 1), torch.zeros(1, 4, dtype=torch.int32), [1, 1, 1], 1)
    assert not caplog.records
