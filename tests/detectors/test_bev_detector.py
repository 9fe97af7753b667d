"""BEVDetector with cameras, LiDAR or both, on the active host."""

import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, NonFiniteError
from tests.helpers.bfloat16_check import check_bfloat16_training
from tests.helpers.detector_case import (
    build,
    check_batch_left_alone,
    check_every_parameter_learns,
    labelled_batch,
    make_config,
)

# Each set of sensors and each head once.
ALL_SENSORS = ("bevfusion_det", "camera_det", "centerpoint_lidar")


def make(recipe):
    return build(recipe, "BEVDetector")


def train(model, batch, steps):
    """Losses before each of some Adam steps on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(steps):
        loss = model(batch)[0]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history


@pytest.mark.parametrize("recipe", ALL_SENSORS)
def test_the_loss_falls_within_a_few_steps(recipe, device):
    model = make(recipe).to(device).train()
    history = train(model, labelled_batch(recipe, device=device), steps=4)
    assert history[-1] < 0.8 * history[0], history


@pytest.mark.parametrize("recipe", ALL_SENSORS)
def test_training_returns_openpcdets_triple_with_floats_or_detached_tensors(recipe):
    result, terms, shown = make(recipe).train()(labelled_batch(recipe))
    assert set(result) == {"loss"}
    assert result["loss"].requires_grad
    assert shown == {}
    assert not any(torch.is_tensor(one) and one.requires_grad for one in terms.values())
    head = "loss_rpn" if recipe in ("camera_det", "centerpoint_lidar") else "loss_trans"
    assert float(terms[head]) == pytest.approx(result["loss"].item())


@pytest.mark.parametrize("recipe", ALL_SENSORS)
def test_evaluation_returns_boxes_and_counts_what_was_found(recipe, device):
    model = make(recipe).to(device).eval()
    batch = labelled_batch(recipe, device=device)
    with torch.no_grad():
        boxes, recall = model(batch)
        del batch["gt_boxes"]
        unlabelled, none = model(batch)
    assert len(boxes) == 2
    for sample, same in zip(boxes, unlabelled, strict=True):
        count = len(sample["pred_scores"])
        assert sample["pred_boxes"].shape == (count, 9)
        assert sample["pred_labels"].shape == (count,)
        assert ((sample["pred_labels"] >= 1) & (sample["pred_labels"] <= 10)).all()
        assert torch.equal(sample["pred_boxes"], same["pred_boxes"])
    assert recall["gt"] == 5
    assert {f"rcnn_{threshold}" for threshold in (0.3, 0.5, 0.7)} <= set(recall)
    assert none == {}


@pytest.mark.parametrize("recipe", ALL_SENSORS)
def test_scores_that_are_nan_are_an_error_and_not_an_empty_scene(recipe):
    """They are below every threshold."""
    model = make(recipe).eval()
    batch = labelled_batch(recipe)
    last = [p for n, p in model.dense_head.named_parameters() if "heatmap" in n or "hm" in n][-1]
    with torch.no_grad():
        last.fill_(float("nan"))
        with pytest.raises(NonFiniteError, match=f"NaN or infinite.* {batch['frame_id'][0]}, "):
            model(batch)


@pytest.mark.parametrize("recipe", ALL_SENSORS)
@pytest.mark.parametrize("counts", [(0, 2), (0, 0)])
def test_samples_without_boxes_train_every_parameter(recipe, counts):
    check_every_parameter_learns(make(recipe).train(), labelled_batch(recipe, counts))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ALL_SENSORS)
def test_the_callers_batch_is_left_alone(recipe, training):
    check_batch_left_alone(make(recipe).train(training), labelled_batch(recipe))


@pytest.mark.parametrize("recipe", ["bevfusion_det", "centerpoint_lidar"])
def test_it_is_the_stock_detector_where_there_is_one(recipe):
    ours, stock = make(recipe), build(recipe)
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert type(ours) is not type(stock)
    losses = [model.train()(labelled_batch(recipe))[0]["loss"].item() for model in (ours, stock)]
    assert losses[0] == losses[1]
    with torch.no_grad():
        (mine, recall), (theirs, expected) = (
            m.eval()(labelled_batch(recipe)) for m in (ours, stock)
        )
    assert recall == expected
    for sample, reference in zip(mine, theirs, strict=True):
        assert torch.equal(sample["pred_boxes"], reference["pred_boxes"])


def test_cameras_alone_feed_the_backbone():
    config = make_config("camera_det")
    model = make("camera_det")
    slots = {name for name, module in model.named_children()}
    assert {"image_backbone", "neck", "vtransform", "backbone_2d", "dense_head"} <= slots
    first = model.backbone_2d.backbone[0][0]
    assert first.conv1.in_channels == config.VTRANSFORM.OUT_CHANNEL
    batch = labelled_batch("camera_det")
    with torch.no_grad():
        before, _ = model.eval()(batch)
        batch["camera_imgs"] = batch["camera_imgs"].flip(-1)
        after, _ = model(batch)
    assert not torch.equal(before[0]["pred_boxes"][:5], after[0]["pred_boxes"][:5])


@pytest.mark.parametrize("cameras", [1, 5])
@pytest.mark.parametrize("recipe", ["bevfusion_det", "camera_det"])
def test_any_number_of_cameras(recipe, cameras):
    result, _, _ = make(recipe).train()(labelled_batch(recipe, cameras=cameras))
    assert result["loss"].isfinite()


@pytest.mark.parametrize("recipe", ALL_SENSORS)
def test_bfloat16_trains_with_the_head_in_float32(recipe, device):
    check_bfloat16_training(make(recipe).to(device), labelled_batch(recipe, device=device))


def test_data_without_labels_or_a_sensor_is_named():
    model = make("bevfusion_det").train()
    batch = labelled_batch("bevfusion_det")
    for key, message in (
        ("gt_boxes", r"no gt_boxes: set DATA_CONFIG\.USE_LABELS"),
        ("voxels", "no voxels"),
        ("camera_imgs", "no camera_imgs"),
    ):
        with pytest.raises(ConfigError, match=message):
            model({k: v for k, v in batch.items() if k != key})


def test_it_is_registered_under_its_name():
    assert host.lookup("detector", "BEVDetector") is type(make("camera_det"))
