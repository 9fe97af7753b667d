"""Compare the finished trials from scratch and from pre-trained weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.label_efficiency.records import Record
from nsmae_plugin.experiments.label_efficiency.trials import ARMS, PRETRAINED, SCRATCH
from nsmae_plugin.experiments.spread import Spread
from nsmae_plugin.formats.maps import map_results
from nsmae_plugin.formats.nuscenes import devkit

TITLES = {SCRATCH: "scratch", PRETRAINED: "pre-trained"}


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
    """Metrics for the comparison of a network, and their files from tools/test.py.

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
    """Both arms at one fraction in one metric.

    Attributes:
        difference: pre-trained minus scratch, seed by seed: both saw the same labelled frames, in
            the same order, so that what they share cancels.
    """

    fraction: float
    metric: str
    scratch: Spread | None
    pretrained: Spread | None
    difference: Spread | None


def compare(records: Sequence[Record], metrics: Sequence[str]) -> list[Comparison]:
    """Every fraction in every metric, fractions ascending."""
    fractions = sorted({record.trial.fraction for record in records})
    return [_compare(records, fraction, name) for fraction in fractions for name in metrics]


def _compare(records: Sequence[Record], fraction: float, name: str) -> Comparison:
    values: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
    for record in records:
        trial = record.trial
        if trial.fraction == fraction:
            values[trial.arm][trial.seed] = value_of(record.metrics, name, trial.name)
    scratch, pretrained = values[SCRATCH], values[PRETRAINED]
    difference = Spread.of_difference(pretrained, scratch)
    return Comparison(fraction, name, Spread.of(scratch), Spread.of(pretrained), difference)


def format_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown table, a row per fraction and three columns per metric."""
    metrics = list(dict.fromkeys(one.metric for one in comparisons))
    columns = [
        f"{metric(name).title} {kind}"
        for name in metrics
        for kind in (*TITLES.values(), "difference")
    ]
    rows = [["labels", "seeds", *columns], ["--:"] * (len(columns) + 2)]
    for fraction in dict.fromkeys(one.fraction for one in comparisons):
        there = [one for one in comparisons if one.fraction == fraction]
        cells = [
            _cell(spread, sign)
            for one in there
            for spread, sign in ((one.scratch, ""), (one.pretrained, ""), (one.difference, "+"))
        ]
        rows.append([f"{100 * fraction:g} %", _seeds(there[0]), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(spread: Spread | None, sign: str) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:{sign}.2f}" + ("" if spread.sd is None else f" ± {spread.sd:.2f}")


def _seeds(one: Comparison) -> str:
    """Number of seeds of a row; one per column if they differ."""
    counts = [len(spread.values) if spread else 0 for spread in (one.scratch, one.pretrained)]
    if counts[0] == counts[1]:
        return str(counts[0])
    return f"{counts[0]} / {counts[1]}"
