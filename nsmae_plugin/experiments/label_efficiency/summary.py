"""Results of a label-efficiency experiment: ``table.md``, ``results.json`` and ``plot.png``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.fraction_plot import draw_series, label_axis, style
from nsmae_plugin.experiments.label_efficiency.arms import PRETRAINED, SCRATCH, title
from nsmae_plugin.experiments.label_efficiency.comparison import (
    Comparison,
    compare,
    format_table,
    metric,
    value_of,
)
from nsmae_plugin.experiments.label_efficiency.records import Record
from nsmae_plugin.experiments.label_efficiency.trials import Experiment
from nsmae_plugin.experiments.spread import Spread
from nsmae_plugin.formats.maps.map_classes import describe_drawing
from nsmae_plugin.runtime import files
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.colours import CURVE_COLOURS, CURVE_MARKERS

_SHIFT = 0.04  # arms lie this share apart on the logarithmic axis, so that none hides another


def write_summary(experiment: Experiment, metrics: Sequence[str]) -> str:
    """Write the files of an experiment from the trials that have finished so far.

    Returns:
        The text of ``table.md``.

    Raises:
        DataError: no trial has finished, or one lacks a metric.
    """
    records = experiment.finished()
    if not records:
        raise DataError(f"no trial in {experiment.folder} has finished yet{_left_out(experiment)}")
    comparisons = compare(records, metrics, tuple(experiment.weights) or (PRETRAINED,))
    text = _document(experiment, records, comparisons)
    folder = experiment.folder
    files.write_text(folder / "table.md", text)
    content = _content(experiment, records, comparisons, metrics)
    files.write_text(folder / "results.json", json.dumps(content, indent=1))
    panels.save(draw(comparisons), folder / "plot.png")
    return text


def _document(
    experiment: Experiment, records: Sequence[Record], comparisons: Sequence[Comparison]
) -> str:
    done = {record.trial for record in records}
    open_ones = [trial for trial in experiment.trials() if trial not in done]
    names = f" ({', '.join(trial.name for trial in open_ones)})" if open_ones else ""
    lines = [
        f"# Label efficiency of {experiment.cfg_file.stem}",
        "",
        format_table(comparisons),
        "",
        "Mean ± sample standard deviation over seeds. Differences are those to scratch, paired by "
        "seed: both were trained on the same labelled frames with the same seed. Brackets hold the "
        "95 % confidence interval of their mean (Student's t).",
        f"Trials finished: {len(done)}; not finished: {len(open_ones)}{names}"
        f"{_left_out(experiment)}.",
    ]
    if drawings := _drawings(records):
        lines.append(f"Labels of maps: {'; '.join(map(describe_drawing, drawings))}.")
    if experiment.weights:
        starts = [f"{title(arm)} from `{path}`" for arm, path in experiment.weights.items()]
        lines.append(f"Start: {', '.join(starts)}.")
    return "\n".join(lines) + "\n"


def _drawings(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The distinct ways in which map labels were rasterised; empty without maps."""
    found: list[dict[str, Any]] = []
    for record in records:
        drawing = record.metrics.get("labels")
        if drawing and drawing not in found:
            found.append(drawing)
    return found


def _left_out(experiment: Experiment) -> str:
    outdated = [f"{name} ({reason})" for name, reason in experiment.outdated().items()]
    return f"; not counted, made with other settings: {'; '.join(outdated)}" if outdated else ""


def _content(
    experiment: Experiment,
    records: Sequence[Record],
    comparisons: Sequence[Comparison],
    metrics: Sequence[str],
) -> dict[str, Any]:
    weights = {arm: str(path) for arm, path in experiment.weights.items()}
    single = weights.get(PRETRAINED) if weights.keys() <= {PRETRAINED} else weights
    return {
        "cfg_file": str(experiment.cfg_file),
        "pretrained_model": single,
        "overrides": list(experiment.overrides),
        "map_labels": _drawings(records),
        "comparisons": [_numbers(one) for one in comparisons],
        "trials": [
            {
                **vars(record.trial),
                **{name: value_of(record.metrics, name, record.trial.name) for name in metrics},
                "seconds": record.seconds,
                "folder": str(experiment.trial_folder(record.trial)),
            }
            for record in records
        ],
        "outdated": experiment.outdated(),
    }


def _numbers(one: Comparison) -> dict[str, Any]:
    """A comparison in plain numbers; a single arm ``pretrained`` also under its keys of before."""
    content = asdict(one)
    for arm, difference in one.differences.items():
        if difference is not None:
            content["differences"][arm]["interval"] = difference.interval()
    if [*one.arms] == [PRETRAINED]:
        content["pretrained"] = content["arms"][PRETRAINED]
        content["difference"] = content["differences"][PRETRAINED]
    return content


def draw(comparisons: Sequence[Comparison]) -> Figure:
    """One column per metric: all arms above, their paired differences to scratch below.

    Lines join the means, error bars are one sample standard deviation, dots are single seeds.
    """
    names = list(dict.fromkeys(one.metric for one in comparisons))
    figure = Figure(figsize=(4.8 * len(names), 6), layout="constrained")
    rows = figure.subplots(2, len(names), squeeze=False, sharex=True, height_ratios=(3, 2))
    for column, name in enumerate(names):
        shown = [one for one in comparisons if one.metric == name]
        _draw_arms(rows[0, column], shown, metric(name).title)
        _draw_difference(rows[1, column], shown)
    return figure


def _draw_arms(axes: Axes, comparisons: Sequence[Comparison], name: str) -> None:
    series = {SCRATCH: [one.scratch for one in comparisons]}
    series |= {arm: [one.arms[arm] for one in comparisons] for arm in comparisons[0].arms}
    _draw_series(axes, comparisons, series)
    axes.set_title(name, fontsize=10)
    axes.set_ylabel(name, fontsize=8)
    axes.legend(fontsize=8)
    style(axes)


def _draw_difference(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    axes.axhline(0, color="0.4", linewidth=1)
    arms = [*comparisons[0].arms]
    series = {arm: [one.differences[arm] for one in comparisons] for arm in arms}
    _draw_series(axes, comparisons, series)
    label_axis(axes, [100 * one.fraction for one in comparisons])
    axes.set_ylabel(f"{title(arms[0]) if len(arms) == 1 else 'arm'} − scratch", fontsize=8)
    style(axes)


def _draw_series(
    axes: Axes,
    comparisons: Sequence[Comparison],
    series: Mapping[str, Sequence[Spread | None]],
) -> None:
    """Draw the arms beside each other, each in its colour and with its marker."""
    arms = [SCRATCH, *comparisons[0].arms]
    styles = dict(zip(arms, cycle(zip(CURVE_COLOURS, CURVE_MARKERS, strict=True)), strict=False))
    for place, (arm, spreads) in enumerate(series.items()):
        factor = 1 + _SHIFT * (2 * place - len(series) + 1)
        positions = [factor * 100 * one.fraction for one in comparisons]
        draw_series(axes, positions, spreads, title(arm), *styles[arm])
