"""Terms of the loss that stop at an epoch."""

from types import SimpleNamespace

import pytest
import torch

from nsmae_plugin.detectors.term_schedule import any_stops, factor, running_heads


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
    head, other = SimpleNamespace(terms=("rgb", "depth")), SimpleNamespace(terms=("bev_depth",))
    config = {"DEPTH_STOP_EPOCH": 1}
    assert not any_stops([head], config)
    config["RGB_STOP_EPOCH"] = 2
    assert any_stops([head], config)
    head.reads, other.reads = ["depth_logits"], ["depth_context", "spatial_features_img"]
    detector = SimpleNamespace(
        render_heads=[head, other],
        model_cfg=SimpleNamespace(LOSS_CONFIG=config),
        steps_per_epoch=10,
        training=True,
        vfe=None,
        backbone_3d=None,
        map_to_bev_module=None,
    )
    head.requires_grad_ = lambda learns: frozen.append(learns)
    frozen = []
    for step, count in ((0, 2), (19, 2), (20, 1)):
        detector.global_step = torch.tensor([step])
        assert len(running_heads(detector)) == count
    assert frozen == [False]
    detector.training = False
    assert running_heads(detector) == [head, other]
