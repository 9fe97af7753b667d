"""The built-in TransFusion head against OpenPCDet's, with the same weights and the same batch.

Bounds are 1e-5, relative to the largest value: a hundred times float32's rounding, and attention
sums 1024 cells. Assignments, labels and counts are compared exactly.
"""

import importlib

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host import builtin
from nsmae_plugin.host.builtin.modules.transfusion_targets import iou_3d
from tests.helpers.detector_case import make_config, make_dataset
from tests.helpers.transfusion_case import arguments, gt_boxes, head_config, make_batch
from tests.host.test_parity import randomise

pytestmark = pytest.mark.openpcdet

CASES = {
    "nuScenes": {},
    "biases before norms": {"USE_BIAS_BEFORE_NORM": True},
    "gelu, more layers": {"ACTIVATION": "gelu", "NUM_HM_CONV": 3, "HIDDEN_CHANNEL": 64},
    "no class is small": {"TARGET_ASSIGNER_CONFIG__DATASET": "other"},
    "wide suppression": {"NMS_KERNEL_SIZE": 5, "NUM_PROPOSALS": 40},
    "narrow Gaussians": {
        "TARGET_ASSIGNER_CONFIG__GAUSSIAN_OVERLAP": 0.7,
        "TARGET_ASSIGNER_CONFIG__MIN_RADIUS": 1,
    },
    "other costs": {
        "TARGET_ASSIGNER_CONFIG__HUNGARIAN_ASSIGNER": {
            "cls_cost": {"gamma": 1.5, "alpha": 0.4, "weight": 0.5},
            "reg_cost": {"weight": 2.0},
            "iou_cost": {"weight": 3.0},
        }
    },
    "a threshold": {"POST_PROCESSING__SCORE_THRESH": 0.05},
}


@pytest.fixture(scope="module")
def stock(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    return openpcdet.lookup("dense_head", "TransFusionHead")


@pytest.fixture(params=CASES)
def pair(request, stock):
    return build_pair(stock, **CASES[request.param])


def build_pair(stock, **changes):
    ours = builtin.lookup("dense_head", "TransFusionHead")(head_config(**changes), **arguments())
    theirs = stock(head_config(**changes), **arguments())
    randomise(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def assert_near(value, expected, name=""):
    value, expected = torch.as_tensor(value), torch.as_tensor(expected)
    bound = 1e-5 * max(1.0, float(expected.detach().abs().max())) if expected.numel() else 0
    torch.testing.assert_close(
        value, expected, atol=bound, rtol=0, msg=lambda text: f"{name}: {text}"
    )


def test_names_shapes_types_and_their_order_agree(pair):
    ours, theirs = (
        [(name, value.shape, value.dtype) for name, value in head.state_dict().items()]
        for head in pair
    )
    assert ours == theirs


def test_losses_gradients_and_statistics_agree(pair):
    results = []
    for head in pair:
        batch = make_batch(7, 30, 1)  # more objects than the 20 queries, and a lonely one
        batch["spatial_features_2d"].requires_grad_()
        written = head.train()(batch)
        written["loss"].backward()
        result = {f"gradient of {name}": one.grad for name, one in head.named_parameters()}
        result |= {f"buffer {n}": one for n, one in head.named_buffers() if n != "cell_centers"}
        result |= {name: torch.as_tensor(v).item() for name, v in written["tb_dict"].items()}
        results.append(
            result | {"loss": written["loss"], "input": batch["spatial_features_2d"].grad}
        )
    ours, theirs = results
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert_near(ours[name], value, name)


def test_targets_agree(pair):
    ours, theirs = pair
    batch = make_batch(7, 30, 1)
    boxes = batch["gt_boxes"]
    predictions = {
        k: v.detach() for k, v in ours.train().predict(batch["spatial_features_2d"]).items()
    }
    targets = ours.assigner.assign(predictions, boxes)
    names = ("center", "height", "dim", "rot", "vel", "heatmap")
    labels, label_weights, codes, weights, matched, iou, heatmap = theirs.get_targets(
        boxes[..., :-1], boxes[..., -1].long() - 1, {name: predictions[name] for name in names}
    )
    assert torch.equal(targets.labels, labels)
    assert (label_weights == 1).all()  # ours has none
    assert torch.equal(targets.box_weights, weights)
    assert targets.num_matched == matched == 7 + min(30, targets.labels.shape[1]) + 1
    assert_near(targets.boxes, codes, "boxes")
    assert_near(targets.heatmap, heatmap, "heatmap")
    assert_near(targets.matched_iou, float(iou), "overlap")


def test_decoded_boxes_agree(pair):
    ours, theirs = ([*head.eval()(make_batch(3, 3))["final_box_dicts"]] for head in pair)
    assert sum(len(one["pred_boxes"]) for one in ours) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine) == set(other)
        assert torch.equal(mine["pred_labels"], other["pred_labels"])
        assert_near(mine["pred_scores"], other["pred_scores"], "scores")
        assert_near(mine["pred_boxes"], other["pred_boxes"], "boxes")


def test_the_overlap_of_the_matching_agrees(openpcdet_root):
    from nsmae_plugin.host import openpcdet  # noqa: F401  (makes pcdet importable)

    stock = importlib.import_module("pcdet.models.dense_heads.target_assigner.hungarian_assigner")
    boxes, objects = gt_boxes(40, seed=1)[0, :, :7], gt_boxes(30, seed=2)[0, :, :7]
    expected = stock.overlaps(boxes, objects)
    assert (expected > 0).sum() > 20
    assert_near(iou_3d(boxes, objects), expected)


def test_too_few_classes_are_refused_where_small_ones_have_fixed_numbers(openpcdet_root):
    """OpenPCDet's head takes classes 8 and 9 for small; ours goes by their names."""
    from nsmae_plugin.host import openpcdet

    config, dataset = make_config("transfusion_lidar"), make_dataset()
    dataset.class_names = dataset.class_names[:3]
    builtin.build_network(model_cfg=config, num_class=3, dataset=dataset)
    with pytest.raises(
        ConfigError, match=r"\(8, 9\) of nuScenes .* has 3: set .*DATASET to another"
    ):
        openpcdet.build_network(model_cfg=config, num_class=3, dataset=dataset)
    config.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.DATASET = "other"
    model = openpcdet.build_network(model_cfg=config, num_class=3, dataset=dataset)
    assert model.dense_head.num_classes == 3
