"""Implausible numbers on the command line."""

import pytest

from nsmae_plugin.runtime.command_line import waiting_time


@pytest.mark.parametrize("text", ["0", "0.5", "30", "1e4"])
def test_times_that_end_are_taken(text):
    assert waiting_time(text) == float(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "soon", ""])
def test_times_that_do_not_end_are_refused(text):
    """argparse makes a usage error of it. With NaN, waiting never ended: nothing is above it."""
    with pytest.raises(ValueError, match=r"not a finite time|could not convert"):
        waiting_time(text)
