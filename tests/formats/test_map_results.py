"""Predicted maps of a dataset: annotations, files, and the score of boxes and maps together."""

import json

import numpy as np
import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import DataError, NonFiniteError
from tests.helpers.nuscenes_frames import Frames

MAP_CONFIG = EasyDict(
    CLASSES=["drivable_area", "divider"],
    XBOUND=[-4.0, 4.0, 2.0],
    YBOUND=[-3.0, 3.0, 2.0],
    LINE_WIDTH=6.0,
    RASTERISER="devkit",
)
NO_BOXES = {
    "pred_boxes": torch.zeros(0, 9),
    "pred_scores": torch.zeros(0),
    "pred_labels": torch.zeros(0, dtype=torch.long),
}


@pytest.fixture
def val(synthetic_root):
    frames = Frames(synthetic_root)
    frames.dataset_cfg.MAP_CONFIG = MAP_CONFIG
    return frames


def batch_of(frames):
    """All samples of the split at once, with labels."""
    tokens = [info["token"] for info in frames.infos]
    generator = torch.Generator().manual_seed(0)
    return {
        "frame_id": np.array([f"frame{i}" for i in range(len(tokens))]),
        "metadata": [{"token": token} for token in tokens],
        "gt_masks_bev": torch.rand(len(tokens), 2, 3, 4, generator=generator) < 0.4,
    }


def truth(batch, **more):
    return [{"masks_bev": labels.float(), **more} for labels in batch["gt_masks_bev"]]


def test_maps_are_counted_and_boxes_stay_as_they_are(val):
    batch = batch_of(val)
    annotations = val.annotate(batch, truth(batch, **NO_BOXES), ["car"])
    for one, labels in zip(annotations, batch["gt_masks_bev"], strict=True):
        assert one["map_counts"].dtype == np.int64
        assert one["map_counts"].shape == (2, 7, 3)
        cells = labels.flatten(1).sum(1)
        assert one["map_counts"][:, 3].tolist() == [[int(cells[0]), 0, 0], [int(cells[1]), 0, 0]]
        assert one["boxes_lidar"].shape == (0, 9)
    alone = val.annotate(batch, truth(batch), ["car"])
    assert set(alone[0]) == {"frame_id", "metadata", "name", "map_counts"}
    assert len(alone[0]["name"]) == 0
    assert alone[0]["frame_id"] == "frame0"


def test_the_truth_scores_one_and_an_empty_map_zero(val, tmp_path):
    batch = batch_of(val)
    annotations = val.annotate(batch, truth(batch), [])
    text, metrics = val.score(annotations, tmp_path)
    assert metrics == {"mIoU": 1.0, "IoU/drivable_area": 1.0, "IoU/divider": 1.0}
    assert "100.00" in text
    summary = json.loads((tmp_path / "map_metrics.json").read_text(encoding="utf-8"))
    assert summary["mean_iou"] == 1.0
    assert summary["iou"] == summary["iou_at"]["0.65"] == {"drivable_area": 1.0, "divider": 1.0}
    assert summary["samples"] == len(val.infos) == 3
    assert summary["classes_without_labels"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"map_metrics.json"}

    nothing = [{"masks_bev": torch.zeros(2, 3, 4)}] * 3
    annotations = val.annotate(batch, nothing, [])
    assert val.score(annotations, tmp_path)[1]["mIoU"] == 0.0


def test_a_score_says_how_its_labels_were_drawn(val, tmp_path):
    batch = batch_of(val)
    annotations = val.annotate(batch, truth(batch), [])
    assert "labels: rasteriser devkit, lines 6 m wide" in val.score(annotations, tmp_path)[0]
    summary = json.loads((tmp_path / "map_metrics.json").read_text(encoding="utf-8"))
    assert summary["labels"] == {"rasteriser": "devkit", "line_width": 6.0}
    val.dataset_cfg.MAP_CONFIG = {**MAP_CONFIG, "LINE_WIDTH": 0.4}
    del val.dataset_cfg.MAP_CONFIG["RASTERISER"]  # a configuration of before
    assert "labels: rasteriser exact, lines 0.4 m wide" in val.score(annotations, tmp_path)[0]


def test_the_cells_of_all_samples_are_added_up(val, tmp_path):
    batch = batch_of(val)
    labels = batch["gt_masks_bev"]
    predicted = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    annotations = val.annotate(batch, [{"masks_bev": one} for one in predicted], [])
    both = ((predicted >= 0.5) & labels).sum((0, 2, 3)).tolist()
    either = ((predicted >= 0.5) | labels).sum((0, 2, 3)).tolist()
    val.score(annotations, tmp_path)
    summary = json.loads((tmp_path / "map_metrics.json").read_text(encoding="utf-8"))
    expected = {"drivable_area": both[0] / either[0], "divider": both[1] / either[1]}
    assert summary["iou_at"]["0.50"] == expected


def test_boxes_and_maps_are_scored_together(val, tmp_path):
    batch = batch_of(val)
    maps = val.annotate(batch, truth(batch), val.class_names)
    both = [
        {**boxes, "map_counts": one["map_counts"]}
        for boxes, one in zip(val.truth(), maps, strict=True)
    ]
    text, metrics = val.score(both, tmp_path)
    assert metrics["mAP_present"] == pytest.approx(1.0)
    assert metrics["mIoU"] == 1.0
    assert text.index("Per-class results") < text.index("map IoU (%)")
    names = {"results_nusc.json", "metrics_summary.json", "metrics_details.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "map_metrics.json"}


def test_every_sample_needs_its_map_once(val, tmp_path):
    batch = batch_of(val)
    annotations = val.annotate(batch, truth(batch), [])
    with pytest.raises(DataError, match="no predictions for 1 of 3 samples"):
        val.score(annotations[1:], tmp_path)
    with pytest.raises(DataError, match="twice"):
        val.score([annotations[0], *annotations], tmp_path)
    with pytest.raises(DataError, match="no pred_boxes, no masks_bev"):
        val.score([{"metadata": one["metadata"]} for one in annotations], tmp_path)


def test_files_per_sample_hold_boxes_and_map(val, tmp_path):
    batch = batch_of(val)
    val.annotate(batch, truth(batch, **NO_BOXES), ["car"], output_path=tmp_path)
    tokens = [info["token"] for info in val.infos]
    names = {f"{token}.{kind}" for token in tokens for kind in ("json", "npz")}
    assert {path.name for path in tmp_path.iterdir()} == names
    with np.load(tmp_path / f"{tokens[1]}.npz") as written:
        assert written["probabilities"].dtype == np.float16
        np.testing.assert_array_equal(written["probabilities"], batch["gt_masks_bev"][1])
        assert written["classes"].tolist() == MAP_CONFIG.CLASSES
        assert written["x_bound"].tolist() == MAP_CONFIG.XBOUND
        assert written["y_bound"].tolist() == MAP_CONFIG.YBOUND
        assert str(written["sample"]) == val.infos[1]["token"]


def test_frames_without_a_map_cannot_be_scored(val):
    batch = batch_of(val)
    predictions = truth(batch)
    del batch["gt_masks_bev"]
    token = val.infos[0]["token"]
    with pytest.raises(DataError, match=f"sample {token} has no gt_masks_bev"):
        val.annotate(batch, predictions, [])


def test_a_broken_map_names_its_sample(val):
    batch = batch_of(val)
    predictions = truth(batch)
    predictions[2]["masks_bev"][1, 2, 3] = float("nan")
    with pytest.raises(NonFiniteError, match=f"sample {val.infos[2]['token']} is NaN"):
        val.annotate(batch, predictions, [])


def test_a_map_alone_asks_for_no_boxes(val):
    val.class_names = ["animal"]
    val.infos = [{"token": info["token"]} for info in val.infos]
    assert val.check(boxes=False).name == "mini_val"
    val.infos = val.infos[1:]
    with pytest.raises(DataError, match="the info files hold 2 of the 3 samples"):
        val.check(boxes=False)
