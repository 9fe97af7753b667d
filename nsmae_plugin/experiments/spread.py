"""Values of a number over seeds: mean, standard deviation, confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95  # of confidence intervals


@dataclass(frozen=True)
class Spread:
    """Values by seed, their mean and their sample standard deviation (None below two values)."""

    values: dict[int, float]
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Spread | None:
        """None without values."""
        if not values:
            return None
        numbers = list(values.values())
        sd = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(dict(sorted(values.items())), statistics.fmean(numbers), sd)

    @classmethod
    def of_difference(
        cls, values: Mapping[int, float], reference: Mapping[int, float]
    ) -> Spread | None:
        """``values`` minus ``reference``, seed by seed over the seeds that both have.

        What both share with the same seed, such as the labelled frames, cancels.
        """
        return cls.of(
            {seed: values[seed] - reference[seed] for seed in values if seed in reference}
        )

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Confidence interval of the mean by Student's t distribution; None below two values."""
        if self.sd is None:
            return None
        count = len(self.values)
        half = float(stdtrit(count - 1, (1 + level) / 2)) * self.sd / math.sqrt(count)
        return self.mean - half, self.mean + half
