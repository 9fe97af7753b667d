"""The log line of training."""

import logging

from tqdm import tqdm

from nsmae_plugin.training import monitor
from nsmae_plugin.training.monitor import Monitor
from nsmae_plugin.training.run_log import Curves
from nsmae_plugin.training.run_state import Progress
from nsmae_plugin.training.update import StepRecord


def test_the_log_line_tells_waiting_from_working(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock[0])

    def slow():
        for item in "ab":
            clock[0] += 1.0  # waiting
            yield item

    one = Monitor(Curves(None), logging.getLogger("monitor"), tqdm(disable=True), 902)
    got = []
    for step, item in enumerate(one.timing(slow()), 1):
        clock[0] += 3.0  # working
        one.add(StepRecord(step, 0.1, values={"loss": float(step)}))
        got.append(item)
    assert got == ["a", "b"]
    one.read()
    with caplog.at_level("INFO"):
        one.log(Progress(step=2))
        one.log(Progress(step=2))  # nothing new
    line = "step 2/902: loss 1.5  4 s/step (25% waiting for data), 1:00:00 left"
    assert caplog.messages == [line]
