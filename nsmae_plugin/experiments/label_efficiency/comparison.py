"""Compare the finished trials of every arm with those from scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.label_efficiency.arms import SCRATCH, title
from nsmae_plugin.experiments.label_efficiency.records import Record
from nsmae_plugin.experiments.spread import Spread
from nsmae_plugin.formats.maps import map_results
from nsmae_plugin.formats.nuscenes import devkit


@dataclass(frozen=True)
class Metric:
    """A number of the metrics files: its title, the keys that lead to it, and a scale."""

    title: str
    keys: tuple[str, ...]
    scale: float = 1.0


# Another task adds its row here; every other number is reached by its dotted keys.
METRICS = {
    "mAP": Metric("mAP (%)", ("mean_ap",), 100.0),
    "NDS": Metric("NDS (%)", ("nd_score",), 100.0),
    "mIoU": Metric("mIoU (%)", ("mean_iou",), 100.0),
}


def usual_metrics(model_cfg: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Metrics for the comparison of a network, and their files from ``nsmae test``.

    Args:
        model_cfg: the section MODEL. With MAP_HEAD the map counts; boxes count unless it is alone.
    """
    maps = model_cfg.get("MAP_HEAD") is not None
    boxes = not maps or model_cfg.get("DENSE_HEAD") is not None
    names, files = [], []
    if boxes:
        names += ["mAP", "NDS"]
        files.append(devkit.SUMMARY)
    if maps:
        names.append("mIoU")
        files.append(map_results.SUMMARY)
    return names, files


def metric(name: str) -> Metric:
    """A metric by its short name, or by dotted keys such as ``mean_dist_aps.car``."""
    return METRICS.get(name, Metric(name, tuple(name.split("."))))


def value_of(metrics: Mapping[str, Any], name: str, where: str) -> float:
    """The number ``name`` of a trial's metrics, scaled.

    Raises:
        DataError: when it is absent or not finite.
    """
    wanted = metric(name)
    value: Any = metrics
    for key in wanted.keys:
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "nothing"
            raise DataError(f"{where} has no metric {name}: {key!r} is not among {known}")
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: metric {name} is {value!r}, no finite number")
    return wanted.scale * value


@dataclass(frozen=True)
class Comparison:
    """All arms at one fraction in one metric.

    Attributes:
        arms: the arms other than scratch; None where none of their trials has finished.
        differences: each of them minus scratch, seed by seed: both saw the same labelled frames, in
            the same order, so that what they share cancels.
    """

    fraction: float
    metric: str
    scratch: Spread | None
    arms: dict[str, Spread | None]
    differences: dict[str, Spread | None]


def compare(
    records: Sequence[Record], metrics: Sequence[str], arms: Sequence[str]
) -> list[Comparison]:
    """Every fraction in every metric, fractions ascending.

    Args:
        arms: other than scratch.
    """
    fractions = sorted({record.trial.fraction for record in records})
    return [_compare(records, fraction, name, arms) for fraction in fractions for name in metrics]


def _compare(
    records: Sequence[Record], fraction: float, name: str, arms: Sequence[str]
) -> Comparison:
    values: dict[str, dict[int, float]] = {arm: {} for arm in (SCRATCH, *arms)}
    for record in records:
        trial = record.trial
        if trial.fraction == fraction:
            values[trial.arm][trial.seed] = value_of(record.metrics, name, trial.name)
    scratch = values[SCRATCH]
    return Comparison(
        fraction,
        name,
        Spread.of(scratch),
        {arm: Spread.of(values[arm]) for arm in arms},
        {arm: Spread.of_difference(values[arm], scratch) for arm in arms},
    )


def format_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown table: a row per fraction; with several arms beside scratch a row for each arm."""
    several = len(comparisons[0].arms) > 1
    header, rows = (_rows_of_arms if several else _rows_of_fractions)(comparisons)
    rows = [header, ["--:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows_of_fractions(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Three columns per metric: scratch, the other arm, and their difference."""
    (arm,) = comparisons[0].arms
    kinds = (title(SCRATCH), title(arm), "difference")
    metrics = dict.fromkeys(one.metric for one in comparisons)
    header = ["labels", "seeds", *(f"{metric(m).title} {kind}" for m in metrics for kind in kinds)]
    rows = []
    for there in _by_fraction(comparisons):
        cells = [
            text
            for one in there
            for text in (
                _cell(one.scratch),
                _cell(one.arms[arm]),
                _difference(one.differences[arm]),
            )
        ]
        counts = dict.fromkeys(_count(one) for one in (there[0].scratch, there[0].arms[arm]))
        rows.append([_labels(there[0]), " / ".join(counts), *cells])
    return header, rows


def _rows_of_arms(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Two columns per metric: the arm, and its difference to scratch."""
    metrics = dict.fromkeys(one.metric for one in comparisons)
    titles = [text for name in metrics for text in (metric(name).title, "difference")]
    rows = []
    for there in _by_fraction(comparisons):
        for arm in (SCRATCH, *there[0].arms):
            found = [(one.scratch if arm == SCRATCH else one.arms[arm], one) for one in there]
            cells = [
                text
                for spread, one in found
                for text in (_cell(spread), _difference(one.differences.get(arm)))
            ]
            rows.append([_labels(there[0]), title(arm), _count(found[0][0]), *cells])
    return ["labels", "arm", "seeds", *titles], rows


def _by_fraction(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    fractions = dict.fromkeys(one.fraction for one in comparisons)
    return [[one for one in comparisons if one.fraction == fraction] for fraction in fractions]


def _labels(one: Comparison) -> str:
    return f"{100 * one.fraction:g} %"


def _count(spread: Spread | None) -> str:
    return str(len(spread.values) if spread else 0)


def _cell(spread: Spread | None, sign: str = "") -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:{sign}.2f}" + ("" if spread.sd is None else f" ± {spread.sd:.2f}")


def _difference(spread: Spread | None) -> str:
    """Mean, standard deviation and the confidence interval of the mean."""
    interval = spread.interval() if spread else None
    bounds = "" if interval is None else " [{:+.2f}, {:+.2f}]".format(*interval)
    return _cell(spread, "+") + bounds
