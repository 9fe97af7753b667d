"""FREEZE: sections that stay bit for bit as they are, while the rest of the network trains."""

import copy
import logging

import pytest
import torch
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.optimization.freezing import freeze
from nsmae_plugin.optimization.optim import build_optimizer, build_scheduler
from nsmae_plugin.training.precision import fit_precision
from nsmae_plugin.training.run_state import Progress, Run
from tests.detectors import test_nsmae
from tests.helpers import detector_case, map_case
from tests.helpers.made_up_batch import made_up_batch
from tests.helpers.toys import train_step

LOGGER = logging.getLogger("freezing")
CONFIG = {
    "OPTIMIZER": "adam_onecycle",
    "LR": 1e-3,
    "WEIGHT_DECAY": 0.5,
    "MOMS": [0.9, 0.8],
    "PCT_START": 0.4,
    "DIV_FACTOR": 10,
    "BN_MOMENTUM": 0.5,
}
ENCODERS = ["IMAGE_BACKBONE", "NECK", "VTRANSFORM", "BACKBONE_3D"]
# name -> network, batch, and what is frozen
CASES = {
    "pre-training": (
        lambda: test_nsmae.build("both"),
        lambda: made_up_batch("both"),
        ["IMAGE_BACKBONE", "VTRANSFORM", "BEV_HEAD"],
    ),
    "detection": (
        lambda: detector_case.build("bevfusion_det"),
        lambda: detector_case.labelled_batch("bevfusion_det"),
        ENCODERS,
    ),
    "a frozen head": (  # computes its targets and loss all the same
        lambda: detector_case.build("transfusion_lidar"),
        lambda: detector_case.labelled_batch("transfusion_lidar"),
        ["DENSE_HEAD", "BACKBONE_2D"],
    ),
    "map and boxes": (
        lambda: map_case.build("bevfusion_multitask"),
        lambda: map_case.mapped_batch("bevfusion_multitask"),
        ["BACKBONE_3D", "FUSER", "MAP_HEAD"],
    ),
}


def new_run(model, sections, **options):
    config = {**CONFIG, "FREEZE": sections, **options}
    freeze(model, config, LOGGER)
    optimizer = build_optimizer(model, config)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Run(model, optimizer, build_scheduler(optimizer, config, 4, 4), scaler, Progress())


def is_frozen(name, sections):
    return name.split(".")[0].upper() in sections


@pytest.mark.parametrize("case", CASES)
def test_frozen_sections_keep_every_bit_and_the_rest_trains(case):
    build, make_batch, sections = CASES[case]
    model, batch = build(), make_batch()
    fit_precision(model, torch.bfloat16)
    run = new_run(model, sections)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    model.train()  # as after an evaluation
    record = train_step(run, [batch], clip_by_branch=True)
    train_step(run, [batch], amp_dtype=torch.bfloat16)
    assert record["grad_norm"] > 0
    trained = {id(one) for group in run.optimizer.param_groups for one in group["params"]}
    for name, parameter in model.named_parameters():
        frozen = is_frozen(name, sections)
        assert (id(parameter) in trained) is parameter.requires_grad
        if frozen:
            assert parameter.grad is None, name
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert not {name for name in changed if is_frozen(name, sections)}
    statistics = {name for name in before if name.endswith("running_mean")}
    moving = {name for name in statistics if not is_frozen(name, sections)}
    assert moving <= changed
    assert moving != statistics
    weights = {name for name, one in model.named_parameters() if one.requires_grad}
    assert len(weights & changed) > 0.9 * len(weights)
    assert before.keys() == model.state_dict().keys()  # checkpoints are interchangeable


def test_autograd_records_nothing_before_the_first_section_that_trains():
    kept = {}
    for sections in ([], ENCODERS):
        model = detector_case.build("bevfusion_det").train()
        new_run(model, sections)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda one, sizes=sizes: (sizes.append(one.numel()), one)[1], lambda one: one
        ):
            result = model(detector_case.labelled_batch("bevfusion_det"))[0]
        kept[len(sections)] = sum(sizes)
        result["loss"].backward()
    assert kept[4] < 0.5 * kept[0]  # the rest is fuser, BEV backbone and head


def test_gradients_pass_through_a_frozen_section():
    model = detector_case.build("transfusion_lidar").train()
    free = copy.deepcopy(model)
    batch = detector_case.labelled_batch("transfusion_lidar")
    run = new_run(model, ["DENSE_HEAD", "BACKBONE_2D"])
    train_step(run, [batch])
    assert all(one.grad.abs().sum() > 0 for one in model.backbone_3d.parameters())
    # A copy made after freezing is frozen as well, and the copy made before is not.
    again = copy.deepcopy(model).train()
    for network, expected in ((model, False), (again, False), (free.train(), True)):
        norms = [one for one in network.backbone_2d.modules() if isinstance(one, nn.BatchNorm2d)]
        assert {one.training for one in norms} == {expected}
    assert again.backbone_2d.train().__class__ is model.backbone_2d.__class__
    assert not any(one.training for one in list(again.backbone_2d.modules())[1:])


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_backbone = nn.Dropout(0.5)
        self.neck = nn.BatchNorm1d(2)
        self.map_head = nn.Linear(2, 2)


def test_a_section_that_is_one_layer_is_in_evaluation_mode_itself():
    model = Drops()
    freeze(model, {"FREEZE": ["NECK"]}, LOGGER)
    model.train()
    assert (model.training, model.neck.training, model.image_backbone.training) == (
        *(True, False, True),
    )


def test_batchnorm_that_is_synchronised_afterwards_stays_frozen():
    layers = {
        "neck": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        "map_head": nn.Linear(2, 2),
    }
    model = nn.ModuleDict(layers)
    freeze(model, {"FREEZE": ["NECK"]}, LOGGER)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    norm = model["neck"][1]
    assert isinstance(norm, nn.SyncBatchNorm)
    assert not norm.training
    assert not norm.weight.requires_grad


def test_sections_without_weights_and_networks_without_anything_to_train_are_named(caplog):
    message = r"FREEZE: the network has no weights in NEKC \(did you mean NECK\?\)"
    with pytest.raises(ConfigError, match=message):
        freeze(Drops(), {"FREEZE": ["NEKC"]}, LOGGER)
    with pytest.raises(ConfigError, match="no weights in BACKBONE_3D; known: MAP_HEAD, NECK"):
        freeze(Drops(), {"FREEZE": ["BACKBONE_3D"]}, LOGGER)
    with pytest.raises(ConfigError, match="FREEZE leaves nothing to train; remove a section"):
        freeze(Drops(), {"FREEZE": ["NECK", "MAP_HEAD"]}, LOGGER)
    with caplog.at_level(logging.INFO):
        freeze(Drops(), {"FREEZE": ["NECK"]}, LOGGER)
    assert "frozen: NECK, 0.00 M parameters" in caplog.text
    freeze(Drops(), {}, LOGGER)


def test_rates_and_decay_of_a_frozen_section_may_stay_in_the_configuration():
    run = new_run(
        detector_case.build("bevfusion_det"),
        ENCODERS,
        LR_SCALE={"IMAGE_BACKBONE": 0.3},
        LAYER_DECAY=0.5,
        NO_DECAY=["relative_position_bias_table"],
    )
    (group,) = run.optimizer.param_groups
    assert group["weight_decay"] == 0.5
