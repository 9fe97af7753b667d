"""The loop over a dataset: every sample once, and a model that is left as it was."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nsmae_plugin.data.loader import Draw
from nsmae_plugin.data.scoring import Scoring
from nsmae_plugin.errors import DataError, NonFiniteError
from nsmae_plugin.evaluation import prediction_loop
from nsmae_plugin.evaluation.prediction_loop import Predictions, predict
from nsmae_plugin.runtime.distributed import World
from tests.helpers.process_group import run_in_processes

WORLD = World(0, 1, torch.device("cpu"))


class OneBox(nn.Module):
    """Finds one car in every sample, the sample's number of metres ahead."""

    def forward(self, batch):
        assert not self.training
        boxes = [
            torch.tensor([[float(one["token"]), 0, 0, 4, 2, 2, 0]]) for one in batch["metadata"]
        ]
        found = [
            {"pred_boxes": one, "pred_scores": torch.ones(1), "pred_labels": torch.tensor([1])}
            for one in boxes
        ]
        return found, {"gt": 2, "rcnn_0.5": torch.tensor(1)}


class Samples:
    """A dataset of which only the length and the writer of predictions are asked for."""

    class_names = ("car",)

    def __init__(self, length):
        self.length = length
        self.generate_prediction_dicts = Scoring("Samples", None, None).annotate

    def __len__(self):
        return self.length


class Loader(list):
    """Batches of one sample each, in the order of ``indices``, from ``length`` samples."""

    def __init__(self, indices, length):
        super().__init__(
            {"batch_size": 1, "frame_id": [str(index)], "metadata": [{"token": str(index)}]}
            for index in indices
        )
        self.sampler = [Draw(0, index) for index in indices]
        self.dataset = SimpleNamespace(dataset=Samples(length))


class BrokenMap(nn.Module):
    """Predicts a map of one cell; NaN in sample 3."""

    def forward(self, batch):
        values = [float("nan" if one["token"] == "3" else 0.5) for one in batch["metadata"]]
        return [{"masks_bev": torch.full((1, 1, 1), value)} for value in values], {}


def predict_a_broken_map(world):
    loader = Loader([world.rank, world.rank + 2], 4)
    for batch in loader:
        batch["gt_masks_bev"] = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    with pytest.raises(NonFiniteError) as caught:
        predict(BrokenMap(), loader, world)
    return {"message": str(caught.value)}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode(training):
    model = OneBox().train(training)
    predict(model, Loader([0], 1), WORLD)
    assert model.training is training


def test_predictions_come_in_the_order_of_the_data_set():
    found = predict(OneBox(), Loader([2, 0, 1], 3), WORLD)
    assert [one["boxes_lidar"][0, 0] for one in found.annotations] == [0, 1, 2]
    assert found.recall == {"gt": 6, "rcnn_0.5": 3}
    assert found.metrics() == {"recall/rcnn_0.5": 0.5}
    assert found.latency is None


@pytest.mark.parametrize("indices", [[0, 1], [0, 1, 1], [0, 1, 2, 2]])
def test_a_sample_that_is_lost_or_repeated_is_an_error(indices):
    with pytest.raises(DataError, match=f"{len(indices)} predictions for 3 samples"):
        predict(OneBox(), Loader(indices, 3), WORLD)


def test_a_broken_map_in_one_process_stops_both_with_its_name(tmp_path):
    """The second process has sample 3; the first would wait for its predictions."""
    for one in run_in_processes(predict_a_broken_map, tmp_path):
        assert one["message"].startswith("the map predicted for sample 3 is NaN or infinite")


def test_the_recall_of_two_stages_is_told_apart():
    found = Predictions([], {"gt": 4, "roi_0.3": 2, "rcnn_0.3": 3})
    assert found.metrics() == {"recall/roi_0.3": 0.5, "recall/rcnn_0.3": 0.75}
    assert Predictions([], {}).metrics() == {}


def test_the_latency_leaves_the_first_batches_out(monkeypatch):
    """Ten batches, the first of which takes a minute: it is a tenth of all, and left out."""
    clock = [0.0]
    monkeypatch.setattr(prediction_loop.time, "perf_counter", lambda: clock[0])

    class Slow(OneBox):
        def forward(self, batch):
            clock[0] += 60.0 if batch["frame_id"] == ["0"] else 0.002
            return super().forward(batch)

    found = predict(Slow(), Loader(range(10), 10), WORLD, measure_time=True)
    assert found.latency == pytest.approx(2.0)  # milliseconds
