"""The sections OPTIMIZATION and HOOK; docs/HOSTS.md says what each host makes of the keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import (
    ABSENT,
    BelowOne,
    Fraction,
    NonNegative,
    NonNegativeInt,
    PairBelowOne,
    PositiveFloat,
    PositiveInt,
    Ratio,
    Words,
    each_once,
)

_STEPWISE = ("LR_DECAY", "LR_CLIP")
#: Optimiser -> the keys that it and its schedule need. ``tools/train.py`` has the first two.
NEEDED = {
    "adam_onecycle": ("MOMS", "PCT_START", "DIV_FACTOR"),
    "adam_cosineanneal": ("MOMS", "PCT_START", "WARMUP_ITER"),
    "adam": _STEPWISE,
    "sgd": ("MOMENTUM", *_STEPWISE),
}

Scales = Annotated[
    dict[str, PositiveFloat],
    Words("a section of positive numbers (FREEZE lists the sections that do not train)"),
]
LayerDecay = Annotated[
    Fraction | dict[str, Fraction],
    Words("a number above 0, at most 1, or a section of such numbers"),
]
Sections = Annotated[
    list[str], AfterValidator(each_once), Words("a list of sections of MODEL, each once")
]


class EarlyStoppingConfig(Section):
    """EARLY_STOPPING: keep the best checkpoint by a metric of the validation part.

    METRIC is by default that of the task, mAP or mIoU. Training stops after PATIENCE evaluations in
    a row without a better one; null trains to the end.
    """

    METRIC: str = ABSENT
    MODE: Literal["max", "min"] = "max"
    PATIENCE: PositiveInt | None = None


class Optimization(Section):
    """OPTIMIZATION: optimiser, schedule and length of a training."""

    BATCH_SIZE_PER_GPU: PositiveInt
    NUM_EPOCHS: PositiveInt
    OPTIMIZER: Literal["adam_onecycle", "adam_cosineanneal", "adam", "sgd"]
    LR: PositiveFloat
    LR_SCALE: Scales = Field(default={})
    LAYER_DECAY: LayerDecay = Field(default={})
    FREEZE: Sections = Field(default=[])
    WEIGHT_DECAY: NonNegative
    NO_DECAY: list[str] = Field(default=[])
    BETAS: PairBelowOne = Field(default=[0.9, 0.99])
    MOMENTUM: BelowOne = ABSENT
    MOMS: PairBelowOne = ABSENT
    PCT_START: Ratio = ABSENT
    DIV_FACTOR: PositiveFloat = ABSENT
    WARMUP_ITER: NonNegativeInt = ABSENT
    DECAY_STEP_LIST: list[NonNegative] = Field(default=[])
    LR_DECAY: Fraction = ABSENT
    LR_CLIP: NonNegative = ABSENT
    LR_WARMUP: bool = False
    WARMUP_EPOCH: PositiveFloat = ABSENT
    BN_MOMENTUM: Fraction = ABSENT
    GRAD_NORM_CLIP: PositiveFloat
    CLIP_BY_BRANCH: bool = False
    LOSS_SCALE_FP16: PositiveFloat = ABSENT
    USE_AMP: bool = False
    ACCUMULATE_STEPS: PositiveInt = 1
    EARLY_STOPPING: EarlyStoppingConfig | None = None

    @model_validator(mode="after")
    def _check_schedule(self) -> Optimization:
        for key in NEEDED[self.OPTIMIZER]:
            if getattr(self, key) is ABSENT:
                raise ValueError(f"OPTIMIZER {self.OPTIMIZER} needs the key {key}")
        if self.OPTIMIZER == "adam_cosineanneal" and self.PCT_START == 1:
            raise ValueError("PCT_START must be below 1 for the OPTIMIZER adam_cosineanneal")
        return self


class DisableAugmentation(Section):
    """Augmentations that are disabled in the last epochs."""

    DISABLE_AUG_LIST: list[str]
    NUM_LAST_EPOCHS: NonNegativeInt


class Hook(Section):
    """HOOK: actions between epochs."""

    DisableAugmentationHook: DisableAugmentation = ABSENT
