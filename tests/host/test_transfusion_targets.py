"""Box coding, matching and heatmap targets of the TransFusion head."""

import itertools
import math

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.host.builtin.modules.transfusion_targets import (
    HungarianAssigner,
    TargetAssigner,
    decode_boxes,
    encode_boxes,
    iou_3d,
)
from tests.helpers.transfusion_case import RANGE, gt_boxes, head_config

GRID = BEVGrid((-12.8, 12.8, 0.1), (-12.8, 12.8, 0.1), stride=8)
NAMES = {"center": (0, 2), "height": (2, 3), "dim": (3, 6), "rot": (6, 8), "vel": (8, 10)}


def as_predictions(codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """(B, P, 8 or 10) codes under the names of the branches."""
    last = codes.shape[-1]
    parts = {n: codes[..., a:b].transpose(1, 2) for n, (a, b) in NAMES.items() if b <= last}
    return parts | {"heatmap": torch.zeros(len(codes), 10, codes.shape[1])}


def make_assigner(code_size: int = 10, **changes) -> TargetAssigner:
    config = head_config(**changes).TARGET_ASSIGNER_CONFIG
    return TargetAssigner(config, GRID, RANGE, num_class=10, code_size=code_size)


def test_a_box_is_encoded_as_by_hand():
    box = torch.tensor([[-12.8 + 2.0, 4.0, -1.0, 4.0, 2.0, 1.5, math.pi / 6, 3.0, -1.0]])
    expected = [2.5, 21.0, -1, math.log(4), math.log(2), math.log(1.5), 0.5, math.sqrt(0.75), 3, -1]
    torch.testing.assert_close(encode_boxes(box, GRID), torch.tensor([expected]))


@pytest.mark.parametrize("columns", [7, 9])
def test_decoding_undoes_encoding(columns):
    boxes = gt_boxes(50)[..., :columns]
    codes = encode_boxes(boxes[0], GRID)
    torch.testing.assert_close(decode_boxes(as_predictions(codes[None]), GRID), boxes)


def test_a_grid_of_oblong_cells_keeps_x_and_y_apart():
    grid = BEVGrid((-4.0, 12.0, 0.5), (-10.0, 10.0, 0.25), stride=4)
    cells = grid.coordinates(torch.tensor([[0.0, 0.0]]))
    assert cells.tolist() == [[2.0, 10.0]]
    assert grid.metres(cells).tolist() == [[0.0, 0.0]]


def test_overlap_by_hand_takes_z_for_the_bottom():
    box = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0]])
    others = torch.tensor(
        [
            [2.0, 0, 0, 4, 2, 2, 0],
            [0, 0, 1, 4, 2, 2, 0],
            [0, 0, 0, 4, 2, 1, 0],
            [9, 0, 0, 4, 2, 2, 0],
        ]
    )
    expected = [1 / 3, 1 / 3, 1 / 2, 0]  # the third shares its centre, and would with its middle
    # The overlap in the plane has OpenPCDet's margin of 1 cm on each side.
    torch.testing.assert_close(iou_3d(box, others), torch.tensor([expected]), atol=0.01, rtol=0)
    raised = torch.tensor(
        [[0.0, 0, 0.5, 4, 2, 1, 0]]
    )  # on the bottom of the box, were z its centre
    assert iou_3d(box, raised).item() == pytest.approx(0.5, abs=0.01)
    lifted = torch.tensor([[0.0, 0, 1.5, 4, 2, 1, 0]])  # half outside, though centres are 1.5 apart
    assert iou_3d(box, lifted).item() == pytest.approx(4 / (16 + 8 - 4), abs=0.01)


def make_matcher(cls: float = 0.15, reg: float = 0.25, iou: float = 0.25) -> HungarianAssigner:
    return HungarianAssigner({"weight": cls}, {"weight": reg}, {"weight": iou}, RANGE)


def test_the_matching_is_the_cheapest_of_all():
    matcher = make_matcher(cls=0.5)
    boxes, objects = gt_boxes(5, seed=3)[0], gt_boxes(4, seed=4)[0]
    labels = objects[:, -1].long() - 1
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)) * 3
    cost = matcher.classification_cost(logits, labels) + matcher.distance_cost(boxes, objects)
    cost = cost - 0.25 * iou_3d(boxes, objects)
    sums = {
        rows: sum(float(cost[row, column]) for column, row in enumerate(rows))
        for rows in itertools.permutations(range(5), 4)
    }
    matches = matcher.match(boxes, logits, objects, labels)
    by_object = dict(zip(matches.objects.tolist(), matches.predictions.tolist(), strict=True))
    assert tuple(by_object[index] for index in range(4)) == min(sums, key=sums.__getitem__)


def test_costs_by_hand():
    matcher = make_matcher(cls=1.0, reg=1.0)
    p = 0.8
    logits = torch.tensor([[math.log(p / (1 - p)), 0.0]])
    is_class = -0.25 * (1 - p) ** 2 * math.log(p)
    is_not = -0.75 * p**2 * math.log(1 - p)
    cost = matcher.classification_cost(logits, torch.tensor([0, 1]))
    even = (-0.25 + 0.75) * 0.25 * math.log(0.5)  # a probability of one half
    torch.testing.assert_close(cost, torch.tensor([[is_class - is_not, even]]))
    box, one = torch.zeros(1, 7), torch.tensor([[2.56, -5.12, 3, 1, 1, 1, 0]])
    assert matcher.distance_cost(box, one).item() == pytest.approx(0.1 + 0.2)


@pytest.mark.parametrize("objects", [0, 3, 12])
def test_every_object_is_matched_once_as_far_as_predictions_reach(objects):
    boxes, gt = gt_boxes(8, seed=1)[0], gt_boxes(objects, seed=2)[0]
    matches = make_matcher().match(boxes, torch.zeros(8, 10), gt, gt[:, -1].long() - 1)
    assert len(matches.iou) == min(8, objects)
    for indices in (matches.predictions, matches.objects):
        assert len(indices.unique()) == len(indices)


def test_a_network_that_diverged_is_still_matched():
    boxes, gt = gt_boxes(4, seed=1)[0], gt_boxes(3, seed=2)[0]
    boxes[0], boxes[1, 3:6] = torch.nan, torch.inf
    logits = torch.zeros(4, 10)
    logits[2] = torch.nan
    matches = make_matcher().match(boxes, logits, gt, gt[:, -1].long() - 1)
    assert len(matches.predictions) == 3


def test_targets_follow_the_matches():
    labels = gt_boxes(4, 0, 2, spread=10)
    codes = torch.stack([encode_boxes(one[:, :-1], GRID) for one in gt_boxes(6, 6, 6, seed=9)])
    codes[0, 1:5] = encode_boxes(labels[0, [3, 2, 1, 0], :-1], GRID)  # four exact predictions
    codes[0, [0, 5], :2] = 500.0
    targets = make_assigner().assign(as_predictions(codes), labels)
    numbers = (labels[0, [3, 2, 1, 0], -1] - 1).long()
    assert targets.labels[0].tolist() == [10, *numbers.tolist(), 10]
    torch.testing.assert_close(targets.boxes[0, 1:5], codes[0, 1:5])
    assert (targets.box_weights[0].sum(dim=1) == torch.tensor([0, 10, 10, 10, 10, 0])).all()
    assert (targets.labels[1] == 10).all()
    assert (targets.box_weights[1] == 0).all()
    assert (targets.labels[2] < 10).sum() == 2
    assert targets.num_matched == 6
    # The mean over samples: 1 in the first, 0 in the second, between these in the third.
    assert 1 / 3 - 1e-3 <= targets.matched_iou <= 2 / 3


def test_an_unknown_velocity_is_not_learnt():
    labels = gt_boxes(3)
    labels[0, 1, 7:9] = torch.nan
    codes = encode_boxes(gt_boxes(3)[0, :, :-1], GRID)[None]
    targets = make_assigner().assign(as_predictions(codes), labels)
    assert targets.boxes.isfinite().all()
    assert targets.box_weights[0].tolist() == [[1.0] * 10, [1.0] * 8 + [0.0] * 2, [1.0] * 10]


def test_a_head_without_velocity_ignores_that_of_the_labels():
    labels = gt_boxes(3)
    codes = encode_boxes(labels[0, :, :7], GRID)[None]
    targets = make_assigner(code_size=8).assign(as_predictions(codes), labels)
    torch.testing.assert_close(targets.boxes, codes)
    assert targets.labels.tolist() == [(labels[0, :, -1] - 1).tolist()]


def test_labels_without_velocity_are_refused_by_a_head_that_predicts_it():
    codes = encode_boxes(gt_boxes(3)[0, :, :-1], GRID)[None]
    with pytest.raises(ConfigError, match="PRED_VELOCITY"):
        make_assigner().assign(as_predictions(codes), gt_boxes(3)[..., [*range(7), 9]])


def test_the_heatmap_has_a_peak_in_the_cell_of_every_object():
    labels = gt_boxes(20, spread=12.7)[0]
    heatmap = make_assigner().draw_heatmap(labels)
    peaks = {tuple(one) for one in (heatmap == 1).nonzero().tolist()}
    cells = ((labels[:, :2] + 12.8) / 0.8).int().tolist()
    assert peaks == {
        (int(label) - 1, y, x) for (x, y), label in zip(cells, labels[:, -1], strict=True)
    }
    assert heatmap.shape == (10, 32, 32)


def test_the_smallest_radius_is_configured():
    person = torch.tensor([[0.4, 0.4, 0, 0.6, 0.6, 1.7, 0, 0, 0, 9]])
    for radius in (1, 3):
        assigner = make_assigner(TARGET_ASSIGNER_CONFIG__MIN_RADIUS=radius)
        assert (assigner.draw_heatmap(person) > 0).sum() == (2 * radius + 1) ** 2


def test_labels_stay_as_they_are(device):
    labels = gt_boxes(4, 2).to(device)
    kept = labels.clone()
    codes = torch.zeros(2, 5, 10, device=device)
    predictions = EasyDict(as_predictions(codes))
    predictions["heatmap"] = predictions["heatmap"].to(device)
    targets = make_assigner().assign(predictions, labels)
    assert torch.equal(labels, kept)
    assert targets.heatmap.device == targets.boxes.device == targets.labels.device == labels.device
