"""Scores of the probe's tasks, against hand-computed numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.experiments.probe.center_scores import CenterScorer
from nsmae_plugin.experiments.probe.map_task import MapTask, cell_shares
from nsmae_plugin.experiments.probe.occupancy_task import OccupancyTask
from nsmae_plugin.experiments.probe.score_counts import ScoreCounts, average_precision, best_iou
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.boxes import make_boxes
from tests.helpers.probe_labels import GRID, made_up_labels


def boxes(*places, scores=None):
    """Cars of 4 × 2 × 1.5 m at x, y."""
    values = [[x, y, 0.0, 4.0, 2.0, 1.5, 0.0] for x, y in places]
    return make_boxes(np.array(values).reshape(-1, 7), ["car"] * len(places), scores)


def test_centres_within_the_distance_are_right():
    scorer = CenterScorer([boxes((10, 0), (20, 0))], ["car", "pedestrian"])
    assert scorer.classes == ["car"]
    # One exact, one 1.5 m beside: right at 2 and 4 m, wrong at 0.5 and 1 m.
    found = scorer.score([boxes((10, 0), (20, 1.5), scores=[0.9, 0.8])])
    assert found["AP@2m/car"] == pytest.approx(1)
    # At 0.5 m precision is 1 up to a recall of 0.5, with 0.5 in the last of them, since both
    # predictions have that recall; behind, it is 0. The devkit averages the 90 recalls above
    # 0.10, of which 39 have precision 1 and one 0.5, and stretches precisions above 0.1 to 1.
    half = (39 + (0.5 - 0.1) / 0.9) / 90
    assert found["AP/car"] == pytest.approx((2 * half + 2 * 1) / 4)
    assert found["mAP"] == found["AP/car"]
    # Mean error up to each recall: 0 m for the first half, 0.75 m with the second; between the two
    # confidences the devkit interpolates.
    assert 0 < found["mATE"] < 0.75
    assert found["mASE"] == pytest.approx(0)
    assert found["mAOE"] == pytest.approx(0)


def test_an_object_is_found_once_and_only_within_the_range_of_its_class():
    scorer = CenterScorer([boxes((10, 0), (60, 0))], ["car"])  # cars count up to 50 m
    assert scorer.score([boxes((10, 0), scores=[0.9])])["mAP"] == pytest.approx(1)
    # Beyond the range nothing is wrong either.
    beyond = boxes((60, 0), (70, 0), (10, 0), scores=[0.99, 0.98, 0.9])
    assert scorer.score([beyond])["mAP"] == pytest.approx(1)
    # The second of the same object is wrong: a precision of 1 / 2, if it comes first 0.5 m beside.
    doubled = scorer.score([boxes((10.6, 0), (10, 0), scores=[0.9, 0.8])])
    assert doubled["AP@2m/car"] < 1
    assert scorer.score([boxes()])["mAP"] == 0


def test_frames_are_kept_apart():
    scorer = CenterScorer([boxes((10, 0)), boxes((20, 0))], ["car"])
    swapped = [boxes((20, 0), scores=[0.9]), boxes((10, 0), scores=[0.8])]
    assert scorer.score(swapped)["mAP"] == 0
    assert scorer.score(swapped[::-1])["mAP"] == pytest.approx(1)


def test_a_class_that_nuscenes_does_not_evaluate_is_refused():
    with pytest.raises(ConfigError, match="nuScenes has no class tram"):
        CenterScorer([boxes((10, 0))], ["car", "tram"])


def test_average_precision_is_the_area_below_the_steps():
    # From the highest score: right, wrong, right and wrong together, right.
    positive, negative = torch.tensor([1, 1, 0, 1]), torch.tensor([0, 1, 1, 0])
    expected = (1 / 1 + 2 / 4 + 3 / 5) / 3
    assert average_precision(positive, negative) == pytest.approx(expected)


def test_the_best_threshold_decides_about_the_intersection_over_union():
    # From the highest score: 1 of 1, 2 of 4 with 1 wrong, 2 of 5, 4 with 3 wrong.
    positive, negative = torch.tensor([2, 0, 1, 1]), torch.tensor([1, 1, 1, 0])
    assert best_iou(positive, negative) == pytest.approx(max(1 / 4, 2 / 5, 2 / 6, 4 / 7))
    # A class that is nowhere likely has a best threshold, too.
    counts = ScoreCounts(1)
    counts.add(torch.tensor([-5.0, -4.0, -3.9]).view(1, 1, 1, 3), torch.tensor([[[[0, 1, 1]]]]) > 0)
    assert best_iou(counts.positive[0], counts.negative[0]) == 1


def test_average_precision_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = made_up_labels(3, seed=5)
    logits = rng.normal(size=(3, 4, 16, 16)) + np.stack([labels.occupancy(i) for i in range(3)])
    logits = np.floor(logits * 100) / 100 + 0.005  # in the middle of the meter's steps
    meter = OccupancyTask(labels, labels).meter()
    meter.add([0, 1], torch.from_numpy(logits[:2]))
    meter.add([2], torch.from_numpy(logits[2:]))
    for layer in range(4):
        truth = np.stack([labels.occupancy(i)[layer] for i in range(3)]).ravel()
        expected = metrics.average_precision_score(truth, logits[:, layer].ravel())
        assert meter.metrics()[f"AP/layer_{layer}"] == pytest.approx(expected)


def test_shares_count_the_fine_cells_of_a_coarse_one():
    # Fine cells of 1 m from -15 to 15 m, coarse ones of 2 m from -16 to 16 m: the outermost
    # coarse cells hold a row of fine ones, the others two.
    fine = BEVGrid.from_bounds({"x": [-15, 15, 1], "y": [-15, 15, 1]})
    masks = np.zeros((1, 1, 30, 30), np.uint8)
    masks[0, 0, 0, 0] = 1  # alone in the corner cell
    masks[0, 0, 1:3, 1] = 1  # two of the four in the next cell
    masks[0, 0, 29, 14] = 1  # one of two at the edge
    shares, covered = cell_shares(masks, fine, GRID)
    assert covered.all()
    assert shares[0, 0, 0, 0] == 1
    assert shares[0, 0, 1, 1] == 0.5
    assert shares[0, 0, 15, 7] == 0.5
    assert shares.sum() == 2


def test_cells_without_a_map_do_not_count():
    fine = BEVGrid.from_bounds({"x": [-16, 0, 1], "y": [-16, 16, 1]})
    masks = np.ones((1, 2, 32, 16), np.uint8)
    labels = replace(made_up_labels(1, seed=4), map_grid=fine, map_masks=masks)
    task = MapTask(labels, labels)
    logits = torch.full((1, 2, 16, 16), 20.0)  # also on the right, where nobody knows
    assert task.loss(logits, [0]) < 1e-6


def test_maps_are_scored_on_their_own_cells():
    fine = BEVGrid.from_bounds({"x": [-16, 16, 1], "y": [-16, 16, 1]})
    masks = np.zeros((1, 2, 32, 32), np.uint8)
    masks[0, 0, :, :16] = 1  # exactly the left half, which coarse cells describe
    masks[0, 1, :, :16] = masks[0, 1, :, 25:26] = 1  # a column of fine cells more
    labels = replace(made_up_labels(1, seed=4), map_grid=fine, map_masks=masks)
    meter = MapTask(labels, labels).meter()
    logits = torch.full((1, 2, 16, 16), -9.0)
    logits[..., :8] = 9.0
    meter.add([0], logits)
    found = meter.metrics()
    assert found["IoU/drivable_area"] == 1
    assert found["IoU/walkway"] == pytest.approx(16 / 17)
