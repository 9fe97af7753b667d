"""Behaviour of the built-in TransFusion head; parity with OpenPCDet is tested beside."""

import math

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host import builtin
from nsmae_plugin.host.builtin.modules.transfusion_head import TransFusionHead, sigmoid_focal_loss
from tests.helpers.transfusion_case import CHANNELS, CLASSES, arguments, head_config, make_batch


def make_head(changes: dict | None = None, **others) -> TransFusionHead:
    torch.manual_seed(0)
    return TransFusionHead(head_config(**(changes or {})), **arguments(**others))


def test_the_host_finds_it_under_openpcdets_name():
    assert builtin.lookup("dense_head", "TransFusionHead") is TransFusionHead


def test_training_writes_a_loss_with_its_terms(device):
    head = make_head().to(device).train()
    batch = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in make_batch(3, 5).items()
    }
    written = head(batch)
    # Tensors, so that nothing waits for the device; detached, so that no graph stays alive.
    assert not any(
        torch.is_tensor(one) and one.requires_grad for one in written["tb_dict"].values()
    )
    terms = {name: float(one) for name, one in written["tb_dict"].items()}
    total = terms["loss_heatmap"] + terms["loss_cls"] + terms["loss_bbox"]
    assert written["loss"].item() == pytest.approx(total) == terms["loss_trans"]
    assert written["loss"].device.type == device.type
    assert "final_box_dicts" not in written


def test_an_untrained_head_expects_objects_to_be_rare():
    head = make_head()
    head.shared_conv.weight.data.zero_()  # what remains are the biases
    predictions = head.eval().predict(make_batch(1)["spatial_features_2d"])
    assert predictions["dense_heatmap"].sigmoid().mean() < 0.2
    assert predictions["heatmap"].sigmoid().mean() < 0.3


def test_the_decoder_starts_with_xaviers_weights():
    weight = make_head().decoder.linear1.weight  # 16 -> 24 channels
    bound = math.sqrt(6 / (16 + 24))
    assert 0.9 * bound < weight.abs().max() <= bound


def test_it_learns_to_give_back_the_boxes_of_a_batch():
    quarter = {"grid_size": [128, 128, 40], "point_cloud_range": [-6.4, -6.4, -5, 6.4, 6.4, 3]}
    changes = {"NUM_PROPOSALS": 12, "HIDDEN_CHANNEL": 32, "BN_MOMENTUM": 0.1}
    head = make_head(changes, **quarter).train()
    batch = make_batch(4, 4, seed=5, size=(16, 16))
    batch["gt_boxes"][..., :2] *= 0.4  # inside of the map
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(60):
        loss = head(dict(batch))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 10)
        optimizer.step()
    found = head.eval()(dict(batch))["final_box_dicts"]
    for prediction, objects in zip(found, batch["gt_boxes"], strict=True):
        best = prediction["pred_scores"].topk(len(objects)).indices
        boxes, labels = prediction["pred_boxes"][best], prediction["pred_labels"][best]
        distance = torch.cdist(objects[:, :2], boxes[:, :2])
        nearest = distance.argmin(dim=1)
        assert distance.amin(dim=1).max() < 0.4  # half a cell
        assert torch.equal(labels[nearest].float(), objects[:, -1])
        assert (boxes[nearest, 3:6] / objects[:, 3:6]).log().abs().max() < 0.2


@pytest.mark.parametrize("counts", [(0, 0), (0, 4)], ids=["no objects", "one sample without"])
def test_a_sample_without_objects_trains(counts):
    head = make_head().train()
    written = head(make_batch(*counts))
    written["loss"].backward()
    assert written["loss"].isfinite()
    # Every process of a distributed training needs a gradient of every parameter.
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_nothing(device, training):
    head = make_head().to(device).train(training)
    results = []
    for enabled in (False, True):
        batch = make_batch(3, 5)
        features = batch["spatial_features_2d"].bfloat16().to(device)
        batch |= {"spatial_features_2d": features, "gt_boxes": batch["gt_boxes"].to(device)}
        torch.manual_seed(1)
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            written = head(batch)
        if training:
            written["loss"].backward()
            results.append(written["loss"].detach())
        else:
            results.append(written["final_box_dicts"][0]["pred_boxes"])
    assert results[0].dtype == results[1].dtype == torch.float32
    torch.testing.assert_close(*results)


def test_huge_features_give_no_nan():
    head = make_head().train()
    batch = make_batch(3)
    batch["spatial_features_2d"] *= 1e6
    written = head(batch)
    written["loss"].backward()
    assert written["loss"].isfinite()


def test_queries_start_at_the_cells_of_a_map_that_is_not_square():
    head = make_head(point_cloud_range=[-16.0, -8.0, -5.0, 16.0, 8.0, 3.0]).eval()
    head.prediction_head.center[-1].weight.data.zero_()
    head.prediction_head.center[-1].bias.data.zero_()
    batch = make_batch(0, size=(20, 40))
    predictions = head.predict(batch["spatial_features_2d"])
    scores = head._suppress(predictions["dense_heatmap"].sigmoid())[0]
    expected = [
        (x + 0.5, y + 0.5)
        for x, y, c in (
            (i % 40, i // 40 % 20, i // 800)
            for i in scores.flatten().argsort(descending=True, stable=True)[:20].tolist()
        )
    ]
    assert [tuple(one) for one in predictions["center"][0].T.tolist()] == expected


def test_only_local_maxima_become_queries_except_for_small_classes():
    head = make_head()
    heatmap = torch.full((1, 10, 6, 6), 0.1)
    heatmap[0, :, 2, 2], heatmap[0, :, 2, 3], heatmap[0, :, 0, 5] = 0.9, 0.8, 0.7
    kept = head._suppress(heatmap)[0]
    for index, name in enumerate(CLASSES):
        cells = {(2, 2)} if name not in ("pedestrian", "traffic_cone") else {(2, 2), (2, 3), (0, 5)}
        assert {tuple(one) for one in (kept[index] > 0.5).nonzero().tolist()} == cells


def test_small_classes_are_found_by_name():
    names = ["traffic_cone", "car", "pedestrian"]
    assert make_head(class_names=names, num_class=3).small == [0, 2]
    assert make_head({"TARGET_ASSIGNER_CONFIG__DATASET": "Waymo"}).small == []


def test_without_suppression_every_cell_may_become_a_query():
    head = make_head({"NMS_KERNEL_SIZE": 1})
    heatmap = torch.rand(1, 10, 4, 4)
    assert torch.equal(head._suppress(heatmap), heatmap)


def test_boxes_are_kept_by_score_and_range():
    head = make_head().eval()
    with torch.no_grad():
        predictions = head.predict(make_batch(0)["spatial_features_2d"])
    predictions["center"][0, 0] = torch.linspace(-10, 42, 20)  # x from -20.8 m to 20.8 m
    found = head.decode(predictions)[0]
    x = torch.linspace(-20.8, 20.8, 20)
    assert len(found["pred_boxes"]) == (x.abs() <= 14).sum()
    assert found["pred_boxes"][:, 0].abs().max() <= 14
    assert found["pred_labels"].min() >= 1
    scores = predictions["heatmap"].sigmoid() * predictions["query_heatmap_score"]
    own = scores.gather(1, predictions["query_labels"][:, None])[0, 0]
    torch.testing.assert_close(found["pred_scores"], own[x.abs() <= 14])
    head.model_cfg.POST_PROCESSING.SCORE_THRESH = own.median().item()
    kept = head.decode(predictions)[0]["pred_scores"]
    assert 0 < len(kept) < len(found["pred_scores"])
    assert (kept > own.median()).all()


def test_a_head_without_velocity_gives_boxes_of_seven_numbers():
    changes = {
        "SEPARATE_HEAD_CFG__HEAD_ORDER": ["center", "height", "dim", "rot"],
        "LOSS_CONFIG__LOSS_WEIGHTS__code_weights": [1.0] * 8,
    }
    head = make_head(changes)
    assert head.train()(make_batch(3))["loss"].isfinite()
    assert head.eval()(make_batch(3))["final_box_dicts"][0]["pred_boxes"].shape[1] == 7


def test_the_loss_weights_scale_their_terms():
    terms = {}
    for weight in (1.0, 3.0):
        names = ("cls_weight", "bbox_weight", "hm_weight")
        changes = {f"LOSS_CONFIG__LOSS_WEIGHTS__{name}": weight for name in names}
        terms[weight] = make_head(changes).train()(make_batch(4))["tb_dict"]
    for name in ("loss_heatmap", "loss_cls", "loss_bbox"):
        assert terms[3.0][name] == pytest.approx(3 * terms[1.0][name])


def test_the_focal_loss_by_hand():
    logits = torch.tensor([[math.log(4.0), 0.0]])  # probabilities 0.8 and 0.5
    loss = sigmoid_focal_loss(logits, torch.tensor([[1.0, 0.0]]), alpha=0.25, gamma=2.0)
    expected = -0.25 * 0.2**2 * math.log(0.8) - 0.75 * 0.5**2 * math.log(0.5)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LOSS_CONFIG__LOSS_CLS__use_sigmoid": False}, "use_sigmoid must be True"),
        ({"SEPARATE_HEAD_CFG__HEAD_ORDER": ["height", "center"]}, "HEAD_ORDER must be"),
        ({"SEPARATE_HEAD_CFG__HEAD_DICT__dim__out_channels": 2}, "HEAD_DICT give each"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_head(changes)


def test_a_class_agnostic_head_is_refused():
    with pytest.raises(ConfigError, match="CLASS_AGNOSTIC must be False"):
        make_head(num_class=1)


def test_a_map_of_another_stride_is_refused():
    batch = {"spatial_features_2d": torch.zeros(1, CHANNELS, 16, 16)}
    with pytest.raises(ConfigError, match=r"16 x 16 cells, but the grid at .* 8 has 32 x 32"):
        make_head().eval()(batch)
