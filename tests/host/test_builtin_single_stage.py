"""OpenPCDet's detectors on the built-in host: what they are, what they recall, and parity."""

import math

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host import builtin
from nsmae_plugin.host.builtin.recall import generate_recall_record, pairwise_iou_3d
from nsmae_plugin.models.view_transform import FactorizedDepthLSSTransform
from tests.helpers.detector_case import SENSORS, build, labelled_batch, make_config

STOCK = [recipe for recipe, sensors in SENSORS.items() if sensors != "camera"]
BOX = [1.0, 2.0, 0.0, 4.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize("name", ["BevFusion", "CenterPoint", "TransFusion"])
def test_a_detector_without_head_is_refused(name):
    config = make_config("transfusion_lidar")
    del config["DENSE_HEAD"]
    with pytest.raises(ConfigError, match=f"{name} needs MODEL.DENSE_HEAD"):
        build("transfusion_lidar", name, builtin, config)


@pytest.mark.parametrize("recipe", STOCK)
def test_batch_norms_and_step_count_are_all_the_state_beside_weights(recipe):
    model = build(recipe, on=builtin)
    names = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    buffers = {name for name in model.state_dict() if name not in dict(model.named_parameters())}
    known = {"running_mean", "running_var", "num_batches_tracked", "global_step"}
    assert {name.rpartition(".")[2] for name in buffers} <= known | {"relative_position_index"}
    assert known <= names


# ---- recall


def boxes(*changes):
    """BOX with (position, value) pairs replaced, one box per argument."""
    result = torch.tensor([BOX] * len(changes))
    for row, pairs in zip(result, changes, strict=True):
        for position, value in pairs:
            row[position] = value
    return result


def test_overlap_of_volumes_is_as_computed_by_hand():
    others = boxes(
        [],
        [(0, 3.0)],  # 2 of 4 m along: 8 of 24 m3
        [(2, 1.0)],  # 1 of 2 m up: 8 of 24
        [(2, 2.0)],  # on top of it
        [(6, math.pi / 2)],  # crossed: 2 x 2 x 2 of 24
        [(0, 50.0)],
    )
    iou = pairwise_iou_3d(boxes([]), others)[0].tolist()
    # The overlap of the kernel that it follows is generous by a centimetre.
    assert iou == pytest.approx([1, 1 / 3, 1 / 3, 0, 1 / 3, 0], abs=0.01)


def labelled(*rows):
    """gt_boxes of one sample: boxes with label 1, two rows of padding."""
    padded = torch.zeros(1, len(rows) + 2, 8)
    for index, row in enumerate(rows):
        padded[0, index] = torch.tensor([*row, 1.0])
    return {"gt_boxes": padded}


def test_recall_counts_labelled_boxes_by_their_best_overlap():
    far = [30.0, *BOX[1:]]
    data = labelled(BOX, far)
    predicted = boxes([(0, 2.0)], [(0, 3.0)])  # overlaps of 0.6 and a third with the first
    counts = generate_recall_record(predicted, {}, 0, data, [0.3, 0.5, 0.7])
    expected = {"gt": 2, "rcnn_0.3": 1, "rcnn_0.5": 1, "rcnn_0.7": 0}
    assert counts == expected | {"roi_0.3": 0, "roi_0.5": 0, "roi_0.7": 0}
    again = generate_recall_record(predicted, counts, 0, data, [0.3, 0.5, 0.7])
    assert again == {name: 2 * count for name, count in counts.items()}
    assert counts["gt"] == 2  # what went in is left alone


def test_recall_of_nothing_or_without_labels():
    none = boxes([])[:0]
    assert generate_recall_record(none, {}, 0, labelled(BOX), [0.5]) == {
        "gt": 1,
        "roi_0.5": 0,
        "rcnn_0.5": 0,
    }
    assert generate_recall_record(boxes([]), {}, 0, labelled(), [0.5])["gt"] == 0
    assert generate_recall_record(boxes([]), {}, 0, {}, [0.5]) == {}


# ---- parity


@pytest.fixture(scope="module")
def stock(openpcdet_root):
    """OpenPCDet as a host, with the view transform of the recipes."""
    from nsmae_plugin.host import openpcdet

    openpcdet.register("vtransform", "FactorizedDepthLSSTransform", FactorizedDepthLSSTransform)
    return openpcdet


@pytest.mark.openpcdet
def test_recall_is_counted_as_openpcdet_counts(stock):
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor(BOX) + torch.randn(20, 7, generator=generator) * 4
    truth[:, 3:6] = truth[:, 3:6].abs() + 0.5
    predicted = truth + torch.randn(20, 7, generator=generator) * 0.2
    predicted[:, 3:6].clamp_(min=0.1)
    data = labelled(*truth.tolist())
    arguments = (predicted, {}, 0, data, [0.3, 0.5, 0.7])
    ours = generate_recall_record(*arguments)
    assert ours == stock.Detector3DTemplate.generate_recall_record(*arguments)
    assert 20 > ours["rcnn_0.3"] > ours["rcnn_0.7"] > 0


@pytest.mark.openpcdet
@pytest.mark.parametrize("recipe", STOCK)
def test_the_same_weights_give_openpcdets_losses_and_boxes(stock, recipe):
    ours, theirs = build(recipe, on=builtin), build(recipe, on=stock)
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict(state, strict=True)
    (_, terms, _), (_, expected, _) = (m.train()(labelled_batch(recipe)) for m in (ours, theirs))
    expected = {name: float(torch.as_tensor(value).detach()) for name, value in expected.items()}
    assert {name: terms[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    with torch.no_grad():
        found = [model.eval()(labelled_batch(recipe))[0] for model in (ours, theirs)]
    for sample, wanted in zip(*found, strict=True):
        # As sets: untrained scores differ by rounding alone, and so does their order, on which it
        # hangs what is suppressed.
        mine, reference = (
            torch.cat([one["pred_boxes"], one["pred_labels"][:, None]], dim=1)
            for one in (sample, wanted)
        )
        assert abs(len(mine) - len(reference)) <= 0.02 * len(reference)
        nearest = torch.cdist(mine, reference).amin(dim=1)
        assert (nearest < 1e-2).float().mean() > 0.95
