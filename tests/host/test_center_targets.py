"""What the maps of a CenterHead should be, computed by hand."""

import math

import pytest
import torch

from tests.helpers.center_head_case import CLASSES, GROUPS, head_config, make_head, random_labels


def test_targets_of_one_box_are_as_computed_by_hand():
    labels = torch.zeros(1, 3, 10)
    # A bus, the second class of the second group; x = -8 + 5.25 * 0.8, y = -6 + 7.5 * 0.8.
    labels[0, 1] = torch.tensor([-3.8, 0.0, -1.0, 4.0, 2.0, 1.5, math.pi / 6, 3.0, -2.0, 3.0])
    targets = make_head().assign_targets(labels)
    assert [mask.sum().item() for mask in targets["masks"]] == [0, 1, 0]
    assert targets["inds"][1][0, 0] == 7 * 20 + 5
    code = [0.25, 0.5, -1, math.log(4), math.log(2), math.log(1.5), math.sqrt(0.75), 0.5, 3, -2]
    torch.testing.assert_close(targets["target_boxes"][1][0, 0], torch.tensor(code))
    heatmap = targets["heatmaps"][1][0]
    assert heatmap.shape == (2, 15, 20)
    assert heatmap[0].max() == 0
    # Radius 2 (the next test says why): sigma = 5 / 6, so one cell away is exp(-18 / 25).
    assert heatmap[1, 7, 5] == 1
    for neighbour in ((6, 5), (8, 5), (7, 4), (7, 6)):
        assert heatmap[1][neighbour].item() == pytest.approx(math.exp(-18 / 25))
    assert heatmap[1, 7, 7] > 0
    assert heatmap[1, 7, 8] == 0


def test_the_radius_follows_the_size_and_has_a_floor():
    # 5 x 2.5 cells at overlap 0.1: (7.5 + sqrt(7.5^2 - 4 * 12.5 * 0.9 / 1.1)) / 2 = 5.7 shifted,
    # (15 + sqrt(15^2 - 16 * 0.9 * 12.5)) / 2 = 10.9 inside,
    # (-1.5 + sqrt(1.5^2 + 1.6 * 0.9 * 12.5)) / 2 = 1.5 outside: the least, rounded down to 1.
    labels = torch.zeros(1, 1, 10)
    labels[0, 0] = torch.tensor([0.0, 0.0, 0, 4.0, 2.0, 1.5, 0, 0, 0, 1])
    config = head_config().TARGET_ASSIGNER_CONFIG
    for floor, reach in ((1, 1), (3, 3)):
        head = make_head(TARGET_ASSIGNER_CONFIG={**config, "MIN_RADIUS": floor})
        row = head.assign_targets(labels)["heatmaps"][0][0, 0, 7]
        assert (row > 0).sum() == 2 * reach + 1


def test_a_centre_beyond_the_map_counts_at_its_edge():
    labels = torch.zeros(1, 1, 10)
    labels[0, 0] = torch.tensor([9.0, -7.0, 0, 4.0, 2.0, 1.5, 0, 0, 0, 1])
    targets = make_head().assign_targets(labels)
    assert targets["inds"][0][0, 0] == 19
    assert targets["target_boxes"][0][0, 0, :2].tolist() == [0.5, 0.0]
    assert targets["heatmaps"][0][0, 0, 0, 19] == 1


def test_every_box_belongs_to_one_group_in_any_order_of_the_groups():
    # A pedestrian is the first of its group: numbered anew in place it would be a car afterwards.
    labels = random_labels([9, 5])
    reverse = make_head(CLASS_NAMES_EACH_HEAD=GROUPS[::-1])
    counts = [mask.sum().item() for mask in reverse.assign_targets(labels)["masks"]]
    per_class = [(labels[..., -1] == index + 1).sum().item() for index in range(len(CLASSES))]
    assert counts == [per_class[3], per_class[1] + per_class[2], per_class[0]]


@pytest.mark.parametrize("axis", [3, 4, 5])
def test_a_box_without_volume_is_no_object(axis):
    labels = random_labels([4])
    labels[0, 2, axis] = 0.0
    targets = make_head().assign_targets(labels)
    assert sum(mask.sum() for mask in targets["masks"]) == 3
    assert all(codes.isfinite().all() for codes in targets["target_boxes"])


def test_objects_beyond_the_limit_are_left_out():
    labels = random_labels([40])
    labels[..., -1] = 1
    targets = make_head().assign_targets(labels)
    assert targets["masks"][0].sum() == 12
    assert targets["target_boxes"][0].shape == (1, 12, 10)


def test_targets_are_on_the_device_of_the_labels(device):
    targets = make_head().assign_targets(random_labels([3]).to(device))
    assert {one.device.type for kind in targets.values() for one in kind} == {device.type}
