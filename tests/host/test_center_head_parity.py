"""The built-in CenterHead against OpenPCDet's: names, targets, losses, gradients, boxes.

Both get the same weights and the same batch. Bounds are relative to the largest value; they are
rounding (float32 sums in another order), a few times what was seen.
"""

import pytest
import torch

from nsmae_plugin.host import builtin
from tests.helpers.center_head_case import batch_of, head_arguments, head_config, random_labels

pytestmark = pytest.mark.openpcdet

BOUND = 1e-5

LABELS = {
    "boxes": random_labels([9, 4], seed=5),
    "a sample without boxes": random_labels([0, 6], seed=6),
    "no boxes": random_labels([0, 0]).new_zeros(2, 2, 10),
}
CONFIGS = {
    "with biases": {},
    "without": {"USE_BIAS_BEFORE_NORM": False, "BN_EPS": 1e-3, "BN_MOM": 0.01},
    "no rotation in suppression": {
        "POST_PROCESSING": {
            **head_config().POST_PROCESSING,
            "NMS_CONFIG": {
                **head_config().POST_PROCESSING.NMS_CONFIG,
                "NMS_TYPE": "nms_normal_gpu",
            },
        }
    },
}


@pytest.fixture(scope="module")
def stock(openpcdet_root):
    """OpenPCDet's lookup."""
    from nsmae_plugin.host import openpcdet

    return openpcdet.lookup


def make_pair(stock, **changes):
    """Our head and OpenPCDet's, with the same weights and statistics, none of them neutral."""
    torch.manual_seed(1)
    pair = [
        lookup("dense_head", "CenterHead")(**head_arguments(model_cfg=head_config(**changes)))
        for lookup in (builtin.lookup, stock)
    ]
    for name, value in pair[0].state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            value.add_(torch.rand_like(value) * 0.2)
        if name.endswith("hm.1.weight"):
            value.mul_(6)  # so that scores pass the threshold
    pair[1].load_state_dict(pair[0].state_dict(), strict=True)
    return pair


def largest(tensors):
    return max(1.0, *(float(one.detach().abs().max()) for one in tensors if one.numel()))


def assert_near(ours, theirs, name, scale=None):
    bound = BOUND * (scale or largest([theirs]))
    torch.testing.assert_close(
        ours.detach(), theirs.detach(), atol=bound, rtol=0, msg=lambda text: f"{name}: {text}"
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_names_shapes_and_their_order_are_the_same(stock, config):
    ours, theirs = make_pair(stock, **CONFIGS[config])
    states = [
        [(name, value.shape, value.dtype) for name, value in head.state_dict().items()]
        for head in (ours, theirs)
    ]
    assert states[0] == states[1]


def test_the_same_seed_gives_the_same_weights(stock):
    states = []
    for lookup in (builtin.lookup, stock):
        torch.manual_seed(7)
        states.append(lookup("dense_head", "CenterHead")(**head_arguments()).state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("labels", LABELS)
def test_targets_are_identical(stock, labels):
    ours, theirs = make_pair(stock)
    got = ours.assign_targets(LABELS[labels].clone())
    expected = theirs.assign_targets(LABELS[labels].clone(), feature_map_size=[15, 20])
    assert sum(mask.sum() for mask in got["masks"]) == (LABELS[labels][..., -1] > 0).sum()
    for key in got:
        for mine, reference in zip(got[key], expected[key], strict=True):
            torch.testing.assert_close(mine.float(), reference.float(), atol=0, rtol=0)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("config", CONFIGS)
def test_losses_and_gradients_agree(stock, config, labels):
    results = []
    for head in make_pair(stock, **CONFIGS[config]):
        batch = batch_of(LABELS[labels].clone())
        batch["spatial_features_2d"].requires_grad_()
        head.train()(batch)
        loss, terms = head.get_loss()
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
        gradients["features"] = batch["spatial_features_2d"].grad
        results.append((terms, gradients, dict(head.named_buffers())))
    (terms, gradients, buffers), (expected_terms, expected_gradients, expected_buffers) = results
    assert terms == pytest.approx(expected_terms, rel=BOUND)
    for name, expected in expected_buffers.items():
        assert_near(buffers[name], expected, name)
    # One scale for all: the gradient of a bias in front of a batch norm is zero up to rounding.
    scale = largest(expected_gradients.values())
    for name, expected in expected_gradients.items():
        assert_near(gradients[name], expected, name, scale)


@pytest.mark.parametrize("config", CONFIGS)
def test_decoded_boxes_agree(stock, config):
    found = []
    for head in make_pair(stock, **CONFIGS[config]):
        with torch.no_grad():
            found.append(head.eval()(batch_of(LABELS["boxes"]))["final_box_dicts"])
    assert all(len(sample["pred_boxes"]) > 10 for sample in found[1])
    for sample, expected in zip(*found, strict=True):
        assert list(sample) == list(expected)
        assert torch.equal(sample["pred_labels"], expected["pred_labels"])
        for key in ("pred_boxes", "pred_scores"):
            assert_near(sample[key], expected[key], key)
