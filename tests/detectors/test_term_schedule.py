"""Terms of the loss that stop at an epoch."""

from types import SimpleNamespace

import pytest
import torch

from nsmae_plugin.detectors.term_schedule import can_stop, factor, has_stopped


@pytest.mark.parametrize(
    ("step", "steps_per_epoch", "stop_epoch", "expected"),
    [
        (0, 100, 10, 1.0),  # the depth terms do train, from the first step
        (999, 100, 10, 1.0),
        (1000, 100, 10, 0.0),
        (5000, 100, 10, 0.0),
        (10**9, 100, None, 1.0),
        (10**9, None, 10, 1.0),
        (149, 100, 1.5, 1.0),
        (150, 100, 1.5, 0.0),
    ],
)
def test_a_term_stops_at_its_epoch(step, steps_per_epoch, stop_epoch, expected):
    config = {"DEPTH_STOP_EPOCH": stop_epoch}
    assert factor("depth", config, step, steps_per_epoch) == expected
    assert factor("depth", config, torch.tensor(step), steps_per_epoch) == expected
    assert factor("bev_depth", config, step, steps_per_epoch) == 1.0


def test_a_head_stops_with_the_last_of_its_terms():
    head = SimpleNamespace(terms=("rgb", "depth"))
    config = {"DEPTH_STOP_EPOCH": 1}
    assert not can_stop(head, config)
    assert not has_stopped(head, config, 100, 10)
    config["RGB_STOP_EPOCH"] = 2
    assert can_stop(head, config)
    assert [has_stopped(head, config, step, 10) for step in (0, 10, 19, 20)] == [0, 0, 0, 1]
