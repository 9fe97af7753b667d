"""IoU of BEV maps: exact counts, the best threshold, and what is left out of the mean."""

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.maps.map_results import (
    NAMES,
    THRESHOLDS,
    count_cells,
    format_table,
    metrics,
    summarise,
)

CLASSES = ["drivable_area", "walkway", "divider"]


def slow_counts(probabilities, labels):
    """One cell after the other, as the definition reads."""
    batch, classes, height, width = labels.shape
    counts = np.zeros((batch, classes, len(THRESHOLDS), 3), dtype=np.int64)
    for place in np.ndindex(batch, classes, height, width):
        for number, threshold in enumerate(THRESHOLDS):
            predicted = float(probabilities[place]) >= float(np.float32(threshold))
            true = bool(labels[place])
            outcome = (predicted and true, predicted and not true, true and not predicted)
            counts[(*place[:2], number)] += outcome
    return counts


def made_up(device="cpu", batch=2):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(batch, 3, 7, 5, generator=generator)
    # Some cells exactly at a threshold, some at the ends of the scale.
    exact = torch.tensor([*THRESHOLDS, 0.0, 1.0])
    probabilities[:, :, 0] = exact[torch.randint(9, (batch, 3, 5), generator=generator)]
    labels = torch.rand(batch, 3, 7, 5, generator=generator) < 0.3
    return probabilities.to(device), labels.to(device)


def total(probabilities, labels):
    return count_cells(probabilities, labels).sum(0).cpu().numpy()


def test_counts_equal_those_of_the_loop_reference(device):
    probabilities, labels = made_up(device)
    counts = count_cells(probabilities, labels)
    assert counts.dtype == torch.int64
    assert counts.device == probabilities.device
    np.testing.assert_array_equal(counts.cpu(), slow_counts(probabilities.cpu(), labels.cpu()))


def test_a_row_of_cells_by_hand():
    """Six cells, the first four labelled; 0.35 is reached by five, 0.65 by two."""
    probabilities = torch.tensor([0.9, 0.6, 0.35, 0.1, 0.7, 0.5]).view(1, 1, 2, 3)
    labels = torch.tensor([1, 1, 1, 1, 0, 0]).view(1, 1, 2, 3).bool()
    counts = total(probabilities, labels)
    by_threshold = dict(zip(NAMES, counts[0].tolist(), strict=True))
    assert by_threshold["0.35"] == [3, 2, 1]
    assert by_threshold["0.50"] == [2, 2, 2]
    assert by_threshold["0.60"] == [2, 1, 2]
    assert by_threshold["0.65"] == [1, 1, 3]
    summary = summarise(counts, ["walkway"], samples=1)
    assert summary["iou"]["walkway"] == summary["mean_iou"] == 0.5  # 3 / (3 + 2 + 1)
    assert summary["best_threshold"]["walkway"] == 0.35
    assert summary["iou_at"]["0.60"]["walkway"] == 0.4
    assert summary["iou_at"]["0.65"]["walkway"] == 0.2


def test_the_truth_scores_one_and_nothing_scores_zero():
    _, labels = made_up()
    assert summarise(total(labels.float(), labels), CLASSES, 2)["mean_iou"] == 1.0
    nothing = summarise(total(torch.zeros(labels.shape), labels), CLASSES, 2)
    assert nothing["mean_iou"] == 0.0
    assert set(nothing["iou"].values()) == {0.0}


def test_each_class_has_its_own_best_threshold():
    """Of equally good thresholds the lowest is told."""
    labels = torch.zeros(1, 2, 1, 4, dtype=torch.bool)
    labels[..., :2] = True
    probabilities = torch.tensor([[0.9, 0.9, 0.42, 0.1], [0.52, 0.52, 0.1, 0.1]])
    summary = summarise(total(probabilities.view(1, 2, 1, 4), labels), CLASSES[:2], 1)
    assert summary["best_threshold"] == {"drivable_area": 0.45, "walkway": 0.35}
    assert summary["iou_at"]["0.40"]["drivable_area"] == pytest.approx(2 / 3)
    assert summary["iou_at"]["0.55"]["walkway"] == 0.0


def test_cells_are_added_up_before_dividing():
    """One wrong cell of a small map and a large map that is right: 9 / 10, not the mean of IoUs."""
    labels = torch.zeros(2, 1, 1, 9, dtype=torch.bool)
    labels[0, ..., 0] = labels[1] = True
    labels[1, ..., 8] = False
    predicted = labels.clone()
    predicted[0, ..., 1] = True
    summary = summarise(total(predicted.float(), labels), ["walkway"], 2)
    assert summary["mean_iou"] == 9 / 10


def test_samples_add_up_to_the_same_in_any_grouping():
    probabilities, labels = made_up(batch=5)
    whole = count_cells(probabilities, labels)
    single = [count_cells(probabilities[i : i + 1], labels[i : i + 1]) for i in (3, 0, 4, 1, 2)]
    assert torch.equal(whole.sum(0), torch.cat(single).sum(0))


def test_a_class_without_a_labelled_cell_is_left_out_and_told():
    probabilities, labels = made_up()
    labels[:, 1] = False
    summary = summarise(total(probabilities, labels), CLASSES, 2)
    assert summary["classes_without_labels"] == ["walkway"]
    assert list(summary["iou"]) == ["drivable_area", "divider"]
    assert summary["mean_iou"] == pytest.approx(np.mean(list(summary["iou"].values())))
    assert "no cell of the split is walkway" in format_table(summary)
    assert set(metrics(summary)) == {"mIoU", "IoU/drivable_area", "IoU/divider"}
    with pytest.raises(DataError, match=r"not one cell of 2 samples .*CLASSES \(drivable_area, "):
        summarise(np.zeros((3, 7, 3), dtype=np.int64), CLASSES, 2)


def test_low_precision_probabilities_are_compared_in_float32():
    """0.65 in bfloat16 is 0.6484: below the threshold, which is not rounded with it."""
    probabilities = torch.full((1, 1, 1, 1), 0.65, dtype=torch.bfloat16)
    counts = total(probabilities, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    assert counts[0, -1].tolist() == [0, 0, 1]
    assert counts[0, -2].tolist() == [1, 0, 0]


def test_maps_of_another_grid_are_refused():
    with pytest.raises(DataError, match=r"\(1, 3, 4, 4\), the labels gt_masks_bev have \(1, 3, 8"):
        count_cells(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 4, dtype=torch.bool))


def test_the_table_holds_percent_in_a_row_per_class():
    counts = np.tile(np.array([[1, 1, 2], [3, 1, 0]])[:, None], (1, 7, 1))
    lines = format_table(summarise(counts, CLASSES[:2], 2)).splitlines()
    assert lines[0].split() == ["map", "IoU", "(%)", "best", "at", *NAMES]
    assert lines[1].split() == ["drivable_area", "25.00", "0.35", *["25.00"] * 7]
    assert lines[2].split() == ["walkway", "75.00", "0.35", *["75.00"] * 7]
    assert lines[3].split() == ["mIoU", "50.00"]
    assert len(lines) == 4
