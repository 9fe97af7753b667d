"""What heads learn from features that hold the labels, and from features that hold nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.experiments.probe.center_task import CenterTask
from nsmae_plugin.experiments.probe.heads import RECIPES
from nsmae_plugin.experiments.probe.map_task import MapTask
from nsmae_plugin.experiments.probe.occupancy_task import OccupancyTask
from nsmae_plugin.experiments.probe.trials import Trial, run_trial
from tests.helpers.probe_labels import NAMES, made_up_labels, noise, occupancy, planted

TRAIN, TEST = made_up_labels(24, seed=0), made_up_labels(12, seed=1)
HEADS = ("linear", "shallow")


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, least=200, most=200))


def score(task, features, head="linear", seed=0):
    trial = Trial("network", "lidar", head, task.name, 1.0, seed)
    return run_trial(trial, "", task, features, range(len(TRAIN)), len(TEST)).metrics


def perfect_center_maps(labels):
    """(F, outputs, H, W): what a perfect head would answer, drawn by the task's own targets."""
    task = CenterTask(labels, labels)
    maps = []
    for frame in range(len(labels)):
        heatmap, codes, cells, mask = task._target(frame)
        rest = torch.zeros(8, heatmap.shape[1] * heatmap.shape[2])
        rest[:, cells[mask]] = codes[mask].T
        maps.append(torch.cat((heatmap.to_dense(), rest.unflatten(1, heatmap.shape[1:]))))
    return torch.stack(maps)


def as_logits(maps, channels):
    """Maps of 0 to 1 with logits from -10 to 10 in the first channels."""
    return torch.cat((maps[:, :channels] * 20.0 - 10, maps[:, channels:]), 1)


@pytest.mark.parametrize("head", HEADS)
def test_maps_in_the_features_are_found_and_noise_is_chance(head):
    task = MapTask(TRAIN, TEST)
    held = planted(*(torch.from_numpy(one.map_masks) for one in (TRAIN, TEST)))
    assert score(task, held, head)["mIoU"] > 0.98
    # A sixth of the cells: the best threshold of noise calls all of them the class.
    assert score(task, noise(TRAIN, TEST), head)["mIoU"] == pytest.approx(1 / 6, abs=0.03)


@pytest.mark.parametrize("head", HEADS)
def test_centres_in_the_features_are_found_and_noise_is_chance(head):
    task = CenterTask(TRAIN, TEST)
    held = planted(*map(perfect_center_maps, (TRAIN, TEST)), deviation=0.01)
    found = score(task, held, head)
    assert found["mAP@2m"] > 0.9
    assert found["mATE"] < 0.8  # the offset within a cell of 2 m
    assert score(task, noise(TRAIN, TEST), head)["mAP@2m"] < 0.05


@pytest.mark.parametrize("head", HEADS)
def test_occupancy_in_the_features_is_found_and_noise_is_chance(head):
    task = OccupancyTask(TRAIN, TEST)
    held = planted(*map(occupancy, (TRAIN, TEST)))
    assert score(task, held, head)["mAP"] > 0.98
    # Of noise, the precision at every rank is the share of occupied cells.
    assert score(task, noise(TRAIN, TEST), head)["mAP"] == pytest.approx(0.1, abs=0.03)


def test_perfect_outputs_score_one():
    frames = range(len(TEST))
    for task, logits in (
        (MapTask(TRAIN, TEST), as_logits(torch.from_numpy(TEST.map_masks), 2)),
        (OccupancyTask(TRAIN, TEST), as_logits(occupancy(TEST).float(), 4)),
        (CenterTask(TRAIN, TEST), as_logits(perfect_center_maps(TEST), len(NAMES))),
    ):
        meter = task.meter()
        meter.add(frames[:5], logits[:5])
        meter.add(frames[5:], logits[5:])
        found = meter.metrics()
        assert found[task.metric] == pytest.approx(1), task.name
    assert found["mATE"] == pytest.approx(0, abs=1e-5)
    assert found["mASE"] == pytest.approx(0, abs=1e-5)
    assert found["mAOE"] == pytest.approx(0, abs=1e-5)


def test_a_peak_is_higher_than_its_neighbours():
    task = CenterTask(TRAIN, TEST)
    logits = torch.full((1, 10, 16, 16), -10.0)
    logits[0, 0, 4, 5], logits[0, 0, 4, 6] = 3.0, 2.0  # neighbours: one object
    logits[0, 1, 4, 6] = 1.0  # of the other class
    (boxes,) = task.decode(logits)
    kept = boxes.above(0.5)
    assert kept.names == NAMES
    # The lower corners of the cells, where the offset is -10 cells of 2 m.
    assert kept.values[:, :2] == pytest.approx(np.array([[-26, -28], [-24, -28]]))


def test_boxes_beside_the_grid_are_no_targets():
    labels = made_up_labels(1, seed=2)
    inside = len(labels.boxes[0])
    labels.boxes[0] = np.concatenate((labels.boxes[0], labels.boxes[0][:1] + [[99] + [0] * 9]))
    assert CenterTask(labels, TEST)._target(0)[-1].sum() == inside


def test_a_task_without_labels_is_refused():
    without = replace(made_up_labels(2, seed=3), map_masks=None, class_names=())
    with pytest.raises(ConfigError, match="MAP_CONFIG"):
        MapTask(without, TEST)
    with pytest.raises(ConfigError, match="USE_LABELS"):
        CenterTask(without, TEST)
    with pytest.raises(DataError, match="no LiDAR"):
        OccupancyTask(replace(without, occupied=None), TEST)


def test_an_empty_test_split_is_refused():
    empty = made_up_labels(2, seed=3)
    empty.occupied[:] = 0
    meter = OccupancyTask(TRAIN, empty).meter()
    meter.add([0, 1], torch.zeros(2, 4, 16, 16))
    with pytest.raises(DataError, match="no cell of the test split is occupied"):
        meter.metrics()
    with pytest.raises(DataError, match="no box of car, pedestrian lies within the range"):
        CenterTask(TRAIN, replace(empty, boxes=[np.zeros((0, 10))] * 2))
