"""Loss terms by hand, guards, and the schedule of the depth terms."""

import pytest
import torch

from nsmae_plugin.models.losses import (
    colour_loss,
    depth_loss,
    depth_schedule,
    loss_terms,
    masked_mean,
    weigh,
)


def rendered_batch():
    """One camera of one cell, and one BEV cell, all with a target."""
    mask = torch.tensor([True])
    return {
        "rendered_rgb": torch.full((3, 1, 1), 0.5, requires_grad=True),
        "target_rgb": torch.tensor([0.5, 0.5, 0.8])[:, None, None],
        "target_rgb_mask": mask[:, None],
        "rendered_depth": torch.tensor([10.0], requires_grad=True),
        "target_depth": torch.tensor([12.0]),
        "target_depth_mask": mask,
        "rendered_bev_depth": torch.tensor([3.0], requires_grad=True),
        "target_bev_depth": torch.tensor([2.5]),
        "target_bev_mask": mask,
    }


WEIGHTS = {"rgb_weight": 1e4, "depth_weight": 1e-2, "bev_depth_weight": 3e-2}


def test_colour_is_a_mean_of_squares_over_channels_and_the_cells_that_the_image_fills():
    rendered, target = torch.zeros(3, 1, 3), torch.zeros(3, 1, 3)
    rendered[:, 0, 0] = torch.tensor([1.0, 0.2, 0.0])
    target[:, 0, 2] = 9.0  # black in the input: there is nothing to render
    valid = torch.tensor([[True, True, False]])
    assert colour_loss(rendered, target, valid).item() == pytest.approx((1 + 0.04) / 6)


def test_depth_is_a_mean_of_metres_over_valid_cells_only():
    rendered, target = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([12.0, 19.0, 0.0])
    valid = torch.tensor([True, True, False])
    assert depth_loss(rendered, target, valid).item() == pytest.approx((2 + 1) / 2)


def test_without_a_valid_cell_the_loss_is_zero_and_so_is_its_gradient():
    rendered = torch.rand(4, requires_grad=True)
    loss = depth_loss(rendered, torch.zeros(4), torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert rendered.grad.tolist() == [0, 0, 0, 0]


def test_masked_out_values_do_not_matter_even_when_infinite():
    values = torch.tensor([1.0, 3.0, torch.inf])
    assert masked_mean(values, torch.tensor([True, True, False])).item() == 2


@pytest.mark.parametrize(
    ("step", "steps_per_epoch", "stop_epoch", "factor"),
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
def test_depth_stops_at_its_epoch(step, steps_per_epoch, stop_epoch, factor):
    assert depth_schedule(step, steps_per_epoch, stop_epoch) == factor


def test_terms_and_weights_by_hand():
    terms = loss_terms(rendered_batch())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"rgb": 0.03, "depth": 2.0, "bev_depth": 0.5}
    )
    weighted = weigh(terms, WEIGHTS, depth_factor=1.0)
    assert {name: term.item() for name, term in weighted.items()} == pytest.approx(
        {"rgb": 300.0, "depth": 0.02, "bev_depth": 0.015}
    )


def test_the_stop_of_the_cameras_depth_leaves_the_other_terms():
    batch = rendered_batch()
    weighted = weigh(loss_terms(batch), WEIGHTS, depth_factor=0.0)
    sum(weighted.values()).backward()
    assert weighted["depth"].item() == 0
    assert batch["rendered_depth"].grad.tolist() == [0]  # it stays in the graph
    assert weighted["bev_depth"].item() == pytest.approx(0.015)
    assert batch["rendered_bev_depth"].grad.abs().sum() > 0
    assert batch["rendered_rgb"].grad.abs().sum() > 0


def test_what_was_not_rendered_from_above_has_no_term():
    batch = {key: value for key, value in rendered_batch().items() if "bev" not in key}
    assert list(loss_terms(batch)) == ["rgb", "depth"]


def test_a_batch_without_cameras_has_the_bev_term_alone():
    batch = {key: value for key, value in rendered_batch().items() if "bev" in key}
    assert list(loss_terms(batch)) == ["bev_depth"]
