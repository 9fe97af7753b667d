"""Boxes from the maps of a CenterHead: by hand, and there and back."""

import math

import pytest
import torch

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.ops.center_codes import decode, gather
from tests.helpers.center_head_case import make_head, random_labels


def test_boxes_come_back_from_their_own_targets():
    labels = random_labels([6, 3], seed=1)
    labels[..., 0].clamp_(-7.9, 7.9)
    labels[..., 1].clamp_(-5.9, 5.9)
    head = make_head()
    targets = head.assign_targets(labels)
    for group, (index, classes) in enumerate([(0, [1]), (1, [2, 3]), (2, [4])]):
        maps = perfect_maps(targets, index)
        found = decode(maps, head.grid, [-10, -10, -10, 10, 10, 10], 60, 0.6)
        for sample, (boxes, _, labels_found) in zip(labels, found, strict=True):
            wanted = sample[(sample[:, -1:] == torch.tensor(classes)).any(dim=1)]
            assert len(boxes) == len(wanted), group
            order, wanted_order = boxes[:, 0].argsort(), wanted[:, 0].argsort()
            torch.testing.assert_close(boxes[order], wanted[wanted_order, :9], atol=1e-4, rtol=1e-4)
            expected = wanted[wanted_order, -1] - classes[0]
            assert torch.equal(labels_found[order].float(), expected)


def perfect_maps(targets, index):
    """Maps of a network that predicts the targets of a group."""
    heatmap, codes, cells = (targets[k][index] for k in ("heatmaps", "target_boxes", "inds"))
    mask = targets["masks"][index]
    maps = torch.zeros(len(codes), 10, *heatmap.shape[2:])
    for sample, slot in mask.nonzero().tolist():
        maps[sample].flatten(1)[:, cells[sample, slot]] = codes[sample, slot]
    names = ("center", "center_z", "dim", "rot", "vel")
    peaks = torch.where(heatmap == 1, 5.0, -5.0)
    return {**dict(zip(names, maps.split([2, 1, 3, 2, 2], dim=1), strict=True)), "hm": peaks}


def one_box_maps(x=5, y=3, score=2.0):
    """A car of 4 x 2 m at the corner of a cell of a 20 x 15 map."""
    maps = {
        "hm": torch.full((1, 1, 15, 20), -5.0),
        "center": torch.zeros(1, 2, 15, 20),
        "center_z": torch.zeros(1, 1, 15, 20),
        "dim": torch.tensor([4.0, 2.0, 1.5]).log().view(1, 3, 1, 1).expand(1, 3, 15, 20),
        "rot": torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 15, 20),
    }
    maps["hm"][0, 0, y, x] = score
    return maps


GRID = BEVGrid((-8.0, 8.0, 0.1), (-6.0, 6.0, 0.1), stride=8)  # 15 rows, 20 columns
EVERYWHERE = [-100, -100, -10, 100, 100, 10]


def test_a_box_is_decoded_as_computed_by_hand():
    [(boxes, scores, labels)] = decode(one_box_maps(), GRID, EVERYWHERE, 500, 0.1)
    # x = -8 + 5 * 0.8, y = -6 + 3 * 0.8; cos 0 and sin 1 are a quarter turn; no speed without vel
    expected = torch.tensor([[-4.0, -3.6, 0, 4, 2, 1.5, math.pi / 2]])
    torch.testing.assert_close(boxes, expected)
    assert scores.tolist() == pytest.approx([1 / (1 + math.exp(-2))])
    assert labels.tolist() == [0]


def test_low_scores_and_centres_beyond_the_limits_are_dropped():
    maps = one_box_maps()
    assert len(decode(maps, GRID, EVERYWHERE, 10, 0.9)[0][0]) == 0
    assert len(decode(maps, GRID, [-3, -100, -10, 100, 100, 10], 10, 0.5)[0][0]) == 0
    assert len(decode(maps, GRID, EVERYWHERE, 10, 0.5)[0][0]) == 1


def test_gather_reads_row_by_row():
    maps = torch.arange(2 * 3 * 4).view(1, 2, 3, 4)
    assert gather(maps, torch.tensor([[0, 5, 11]])).tolist() == [[[0, 12], [5, 17], [11, 23]]]
