"""The sections OPTIMIZATION and HOOK."""

import pytest

from nsmae_plugin.config.optimization import Hook, Optimization
from nsmae_plugin.errors import ConfigError

CONFIG = {
    "BATCH_SIZE_PER_GPU": 2,
    "NUM_EPOCHS": 3,
    "OPTIMIZER": "adam_onecycle",
    "LR": 0.001,
    "WEIGHT_DECAY": 0,
    "MOMS": [0.95, 0.85],
    "PCT_START": 0.4,
    "DIV_FACTOR": 10,
    "GRAD_NORM_CLIP": 35,
}
# An LR_SCALE of 0 leaves open what BatchNorm does; FREEZE says it.
SCALES = "a section of positive numbers (FREEZE lists the sections that do not train)"


def problem(**changes) -> str:
    with pytest.raises(ConfigError) as caught:
        Optimization.of({**CONFIG, **changes}, "OPTIMIZATION")
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("LR", -1, "a positive number"),
        ("LR", float("nan"), "a positive number"),
        ("NUM_EPOCHS", 0, "a positive integer"),
        ("BATCH_SIZE_PER_GPU", 1.5, "a positive integer"),
        ("WEIGHT_DECAY", -0.1, "a number of at least 0"),
        ("GRAD_NORM_CLIP", 0, "a positive number"),
        ("GRAD_NORM_CLIP", -1, "a positive number"),
        ("ACCUMULATE_STEPS", True, "a positive integer"),
        ("MOMS", [0.9, 1.0], "a list of 2 numbers from 0 to below 1"),
        ("MOMS", None, "a list of 2 numbers from 0 to below 1"),
        ("PCT_START", 1.1, "a number from 0 to 1"),
        ("DIV_FACTOR", 0, "a positive number"),
        ("BN_MOMENTUM", 0, "a number above 0, at most 1"),
        ("LOSS_SCALE_FP16", float("inf"), "a positive number"),
        ("LR_SCALE", {"NECK": 0}, SCALES),
        ("LR_SCALE", [], SCALES),
        ("LAYER_DECAY", 0, "a number above 0, at most 1, or a section of such numbers"),
        ("LAYER_DECAY", {"NECK": 1.5}, "a number above 0, at most 1, or a section of such numbers"),
        ("FREEZE", "NECK", "a list of sections of MODEL, each once"),
        ("FREEZE", ["NECK", "NECK"], "a list of sections of MODEL, each once"),
        ("USE_AMP", "yes", "true or false"),
        ("EARLY_STOPPING", True, "a section or null"),
        ("OPTIMIZER", "adamw", "adam_onecycle or adam_cosineanneal or adam or sgd"),
    ],
)
def test_values_out_of_range_are_refused(key, value, expected):
    assert problem(**{key: value}).startswith(f"OPTIMIZATION.{key} must be {expected}, not ")


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        ("adam_onecycle", "DIV_FACTOR"),
        ("adam_cosineanneal", "WARMUP_ITER"),
        ("adam_cosineanneal", "MOMS"),
        ("sgd", "MOMENTUM"),
    ],
)
def test_a_schedule_says_which_key_it_needs(optimizer, key):
    given = {"WARMUP_ITER": 5, "LR_DECAY": 0.1, "LR_CLIP": 0, "MOMENTUM": 0.9}
    full = {**CONFIG, **given, "OPTIMIZER": optimizer}
    Optimization.of(full)
    with pytest.raises(ConfigError, match=f"OPTIMIZER {optimizer} needs the key {key}"):
        Optimization.of({name: value for name, value in full.items() if name != key})


def test_a_cosine_must_have_steps_to_return_in():
    text = problem(OPTIMIZER="adam_cosineanneal", WARMUP_ITER=5, PCT_START=1)
    assert text.startswith("OPTIMIZATION: PCT_START must be below 1")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"PATIENCE": 0}, "EARLY_STOPPING.PATIENCE must be a positive integer or null, not 0"),
        ({"MODE": "best"}, "EARLY_STOPPING.MODE must be max or min, not 'best'"),
        ({"METRIC": None}, "EARLY_STOPPING.METRIC must be a string, not None"),
        ({"METRICS": "mAP"}, r"unknown key OPTIMIZATION.EARLY_STOPPING.METRICS \(did you mean"),
    ],
)
def test_early_stopping_names_its_wrong_keys(section, expected):
    with pytest.raises(ConfigError, match=expected):
        Optimization.of({**CONFIG, "EARLY_STOPPING": section}, "OPTIMIZATION")


def test_other_hooks_are_refused():
    with pytest.raises(ConfigError, match=r"unknown key HOOK\.Other; known: DisableAugmentation"):
        Hook.of({"Other": {}}, "HOOK")
