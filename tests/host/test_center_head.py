"""CenterHead: its loss, what it finds after training, and what it refuses."""

import math

import pytest
import torch

from nsmae_plugin.errors import ConfigError, DataError, HostError
from nsmae_plugin.host.builtin.modules.center_head import CenterHead
from nsmae_plugin.ops.center_codes import regression_loss
from tests.helpers.center_head_case import (
    GROUPS,
    batch_of,
    head_arguments,
    head_config,
    make_head,
    random_labels,
)


def test_labels_in_the_batch_stay_as_they_are():
    batch = batch_of(random_labels([6, 3]))
    before = batch["gt_boxes"].clone()
    head = make_head().train()
    head(batch)
    head.get_loss()
    assert torch.equal(batch["gt_boxes"], before)


def test_regression_is_the_mean_over_objects_per_value():
    predicted = torch.tensor([[[1.0, 2.0], [5.0, 5.0]], [[0.0, 0.0], [4.0, 0.0]]])
    target = torch.zeros(2, 2, 2)
    mask = torch.tensor([[True, False], [True, True]])
    # |1| + |0| + |4| and |2| + |0| + |0| over three objects
    torch.testing.assert_close(
        regression_loss(predicted, target, mask), torch.tensor([5 / 3, 2 / 3])
    )


def test_an_unknown_velocity_costs_nothing():
    head = make_head().train()
    labels = random_labels([5, 4])
    head(batch_of(labels))
    known = head.get_loss()[0]
    labels[0, 1, 7:9] = math.nan
    head(batch_of(labels))
    loss, _ = head.get_loss()
    loss.backward()
    assert loss < known
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("labels", [torch.zeros(2, 0, 10), torch.zeros(2, 3, 10)])
def test_no_box_at_all_trains_every_parameter(labels):
    # Distributed training needs a gradient of every parameter from every process.
    head = make_head().train()
    head(batch_of(labels))
    loss, terms = head.get_loss()
    loss.backward()
    assert loss > 0
    assert [terms[f"loc_loss_head_{index}"] for index in range(3)] == [0, 0, 0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_terms_add_up_and_keep_no_graph_alive():
    head = make_head().train()
    head(batch_of(random_labels([5, 4])))
    loss, terms = head.get_loss()
    names = [f"{kind}_loss_head_{index}" for index in range(3) for kind in ("hm", "loc")]
    assert list(terms) == [*names, "rpn_loss"]
    assert not any(value.requires_grad for value in terms.values())
    terms = {name: value.item() for name, value in terms.items()}
    assert loss.item() == pytest.approx(sum(terms[name] for name in names), rel=1e-6)
    assert terms["rpn_loss"] == pytest.approx(loss.item())


def test_a_head_learns_its_labels_by_heart(device):
    torch.manual_seed(0)
    labels = random_labels([3], seed=3).to(device)
    labels[..., 0].clamp_(-7, 7)
    labels[..., 1].clamp_(-5, 5)
    head = make_head(SHARED_CONV_CHANNEL=16).to(device).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(60):
        head(batch_of(labels))
        loss, _ = head.get_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = head.eval()(batch_of(labels))["final_box_dicts"]
    for sample, boxes in zip(labels, found, strict=True):
        for label in sample[sample[:, -1] > 0]:
            same = boxes["pred_labels"] == label[-1]
            distance = (boxes["pred_boxes"][same, :2] - label[:2]).norm(dim=1)
            nearest = boxes["pred_boxes"][same][distance.argmin()]
            torch.testing.assert_close(nearest[:3], label[:3], atol=0.4, rtol=0)
            torch.testing.assert_close(nearest[3:6], label[3:6], atol=0.4, rtol=0.3)


def test_nothing_found_gives_empty_boxes():
    head = make_head(POST_PROCESSING={**head_config().POST_PROCESSING, "SCORE_THRESH": 1.0}).eval()
    found = head(batch_of(random_labels([2, 2])))["final_box_dicts"]
    shapes = [{key: tuple(value.shape) for key, value in one.items()} for one in found]
    assert shapes == [{"pred_boxes": (0, 9), "pred_scores": (0,), "pred_labels": (0,)}] * 2


def test_a_group_without_a_class_is_refused():
    with pytest.raises(ConfigError, match="every group must hold one of CLASS_NAMES"):
        make_head(CLASS_NAMES_EACH_HEAD=[*GROUPS, ["tram"]])


def test_box_codes_are_those_of_the_targets():
    config = head_config()
    config.LOSS_CONFIG.LOSS_WEIGHTS.code_weights = [1.0] * 8
    config.SEPARATE_HEAD_CFG.HEAD_ORDER = ["center", "center_z", "dim", "rot"]
    CenterHead(**head_arguments(model_cfg=config))
    config.SEPARATE_HEAD_CFG.HEAD_ORDER = ["center_z", "center", "dim", "rot"]
    with pytest.raises(ConfigError, match="HEAD_ORDER must be"):
        CenterHead(**head_arguments(model_cfg=config))


def test_a_velocity_must_be_in_head_and_labels_alike():
    head = make_head().train()
    with pytest.raises(DataError, match="PRED_VELOCITY"):
        head(batch_of(random_labels([2])[..., [0, 1, 2, 3, 4, 5, 6, 9]]))


def test_a_map_of_another_size_is_refused():
    batch = batch_of(random_labels([2]))
    batch["spatial_features_2d"] = batch["spatial_features_2d"][..., :10]
    with pytest.raises(ConfigError, match=r"10 x 15 cells.*20 x 15: set MODEL.DENSE_HEAD"):
        make_head()(batch)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("POST_PROCESSING.NMS_CONFIG", {"NMS_TYPE": "circle_nms"}),
        ("SEPARATE_HEAD_CFG.HEAD_DICT", {"iou": {"out_channels": 1, "num_conv": 2}}),
        (None, {"IOU_REG_LOSS": True}),
    ],
)
def test_options_that_only_openpcdet_has_are_refused(section, changes):
    config = head_config()
    target = config
    for name in section.split(".") if section else ():
        target = target[name]
    target.update(changes)
    with pytest.raises(HostError, match="NSMAE_HOST=openpcdet"):
        CenterHead(**head_arguments(model_cfg=config))
