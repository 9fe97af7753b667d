"""The best evaluation of a run, and when to stop because nothing better comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nsmae_plugin.config.optimization import EarlyStoppingConfig
from nsmae_plugin.detectors.outputs import BOXES, MAP
from nsmae_plugin.errors import CheckpointError, ConfigError

_USUAL = {BOXES: "mAP", MAP: "mIoU"}
_KINDS: dict[str, tuple[type, ...]] = {"value": (float, int), "metric": (str,), "mode": (str,)}


def usual_metric(predicted: frozenset[str]) -> str:
    """The metric of a network's task.

    Args:
        predicted: see :mod:`nsmae_plugin.detectors.outputs`.

    Raises:
        ConfigError: it has none, or more than one.
    """
    usual = [_USUAL[one] for one in (BOXES, MAP) if one in predicted]
    if len(usual) != 1:
        known = " or ".join(usual) or "such as depth_mae, with MODE min"
        raise ConfigError(f"OPTIMIZATION.EARLY_STOPPING.METRIC must name the metric: {known}")
    return usual[0]


def check(config: Mapping[str, Any], eval_epochs: int, own_evaluation: bool = False) -> None:
    """Check that EARLY_STOPPING has evaluations to follow, of other data than the test split.

    Args:
        config: of the training.
        eval_epochs: epochs between evaluations; 0 for none.
        own_evaluation: the caller brings its evaluation, whose data is not known here.

    Raises:
        ConfigError: nothing is evaluated, or there is no validation part.
    """
    if config["OPTIMIZATION"].get("EARLY_STOPPING") is None:
        return
    if eval_epochs == 0:
        raise ConfigError(
            "OPTIMIZATION.EARLY_STOPPING follows the evaluations between epochs, and "
            "--eval_interval 0 makes none; give the number of epochs between them"
        )
    if not own_evaluation and not config["DATA_CONFIG"].get("VALIDATION_FRACTION"):
        raise ConfigError(
            "OPTIMIZATION.EARLY_STOPPING needs a validation part, so that the test split decides "
            "nothing: set DATA_CONFIG.VALIDATION_FRACTION, such as 0.1"
        )


@dataclass
class Best:
    """The best evaluation so far, as checkpoints keep it.

    Attributes:
        metric, mode: what is compared, and whether its ``max`` or ``min`` is best.
        value, epoch, step: of the best evaluation; None and 0 before the first.
        evaluated_step: of the last evaluation.
        without_progress: evaluations since the best one.
    """

    metric: str
    mode: str
    value: float | None = None
    epoch: int = 0
    step: int = 0
    evaluated_step: int = 0
    without_progress: int = 0

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} after epoch {self.epoch} (step {self.step})"


class EarlyStopping:
    """Follows the evaluations of a run.

    Args:
        patience: evaluations in a row without a better one after which training stops; None never
            stops.

    Attributes:
        best: the best evaluation so far.
    """

    def __init__(self, metric: str, mode: str = "max", patience: int | None = None) -> None:
        self.best, self.patience = Best(metric, mode), patience

    @classmethod
    def of(cls, section: Mapping[str, Any], predicted: frozenset[str]) -> EarlyStopping:
        """As configured, by default with the metric of the task of a network.

        Args:
            section: ``OPTIMIZATION.EARLY_STOPPING``.
            predicted: see :func:`usual_metric`.

        Raises:
            ConfigError: the network has no task or several, and METRIC is absent.
        """
        config = EarlyStoppingConfig.of(section, "OPTIMIZATION.EARLY_STOPPING")
        return cls(config.METRIC or usual_metric(predicted), config.MODE, config.PATIENCE)

    @property
    def stops(self) -> bool:
        """True once the patience is exhausted."""
        return self.patience is not None and self.best.without_progress >= self.patience

    def update(self, values: Mapping[str, float], epoch: int, step: int) -> bool:
        """Take in an evaluation; returns whether it is the best so far.

        One that was taken in before, as when a run resumes, changes nothing.

        Raises:
            ConfigError: it lacks the metric.
        """
        best = self.best
        if step <= best.evaluated_step:
            return False
        if best.metric not in values:
            raise ConfigError(
                f"OPTIMIZATION.EARLY_STOPPING.METRIC {best.metric} is not evaluated; known: "
                f"{', '.join(sorted(values))}"
            )
        value = float(values[best.metric])
        best.evaluated_step = step
        if not self._better(value):
            best.without_progress += 1
            return False
        best.value, best.epoch, best.step, best.without_progress = value, epoch, step, 0
        return True

    def _better(self, value: float) -> bool:
        """Return whether a value is better than the best; NaN never is."""
        before = self.best.value
        if before is None:
            return value == value
        return value > before if self.best.mode == "max" else value < before

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self.best)

    def restore(self, state: Mapping[str, Any], source: Path) -> bool:
        """Go on from the state in a checkpoint.

        Returns:
            False if it follows another metric, so that the best is to be found anew.

        Raises:
            CheckpointError: the state is damaged.
        """
        for field in fields(Best):
            value, kinds = state.get(field.name), _KINDS.get(field.name, (int,))
            absent = field.name == "value" and value is None
            if not absent and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise CheckpointError(
                    f"{source} is damaged: {field.name} of its 'early_stopping' is {value!r:.50}"
                )
        found = Best(**{field.name: state[field.name] for field in fields(Best)})
        if (found.metric, found.mode) != (self.best.metric, self.best.mode):
            return False
        self.best = found
        return True
