"""Results of a probe: ``table.md``, ``results.json`` and ``plot.png``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.fraction_plot import label_axis, style
from nsmae_plugin.experiments.probe.center_scores import ERRORS
from nsmae_plugin.experiments.probe.comparison import Panel, Row, compare, format_table
from nsmae_plugin.experiments.probe.study import Probed, Study
from nsmae_plugin.runtime import files
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.colours import CURVE_COLOURS, CURVE_MARKERS

APART = 0.03  # of a decade, between the error bars of networks


def write_summary(
    study: Study,
    networks: Sequence[str],
    metrics: Mapping[str, Sequence[str]],
    reference: str,
) -> str:
    """Write the files of a probe from the trials that have finished so far.

    Args:
        networks: those that are compared. metrics: of each task.

    Returns:
        The text of ``table.md``.

    Raises:
        DataError: no trial has finished, or a task has no such metric.
    """
    results, others = study.results(networks)
    rows = compare(results, metrics, networks, reference)
    if not rows:
        raise DataError(f"no trial in {study.folder} has finished yet")
    text = _document(study, networks, rows, reference, others)
    files.write_text(study.folder / "table.md", text)
    content = {
        **{key: value for key, value in vars(study).items() if key not in ("folder", "networks")},
        "reference": reference,
        "networks": {name: asdict(study.networks[name]) for name in networks},
        "comparisons": [_row(row) for row in rows],
        "seconds": sum(result.seconds for result in results),
        "trials": len(results),
    }
    files.write_text(study.folder / "results.json", json.dumps(content, indent=1))
    panels.save(draw(rows, networks), study.folder / "plot.png")
    return text


def _row(row: Row) -> dict[str, Any]:
    content = {**vars(row.panel), **vars(row), "score": asdict(row.score)}
    del content["panel"]
    content["score"]["interval"] = row.score.interval()
    if row.difference is not None:
        content["difference"] = {
            **asdict(row.difference),
            "interval": row.difference.interval(),
        }
    return content


def _document(
    study: Study, networks: Sequence[str], rows: Sequence[Row], reference: str, others: int
) -> str:
    seeds = max(len(row.score.values) for row in rows)
    train, test = study.frames
    lines = [
        f"# Probe of {study.cfg_file}",
        "",
        format_table(rows, reference),
        "",
        f"Scores in percent, mean ± standard deviation over {seeds} seeds (in parentheses: fewer). "
        f"Heads learnt from a part of {train} frames ({study.label_fraction_by}) and are scored on "
        f"{test}, the split {study.split}. Behind: the difference from {reference}, paired by "
        "seed, with its 95 % interval (Student's t; each for itself: of twenty comparisons of "
        "equal networks, one interval leaves out 0).",
        "Seeds differ in the labelled frames, the initial head and the order of training; with all "
        "labels in the last two alone, so that the interval there says nothing about other labels.",
    ]
    if others:
        lines.append(f"{others} results that were made with other settings do not count.")
    lines += ["", "## Networks", "", _networks(study, networks)]
    return "\n".join(lines) + "\n"


def _networks(study: Study, networks: Sequence[str]) -> str:
    """Markdown: the weights of all networks, and tables of the diagnostics of their features."""
    lines = _origins({name: study.networks[name] for name in networks})
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for name in networks:
        for part, numbers in study.networks[name].diagnostics.items():
            cells = [name, part, *(f"{value:.4g}" for value in numbers.values())]
            tables.setdefault(tuple(numbers), []).append(cells)
    for titles, rows in tables.items():
        head = ["network", "diagnostics", *(title.replace("_", " ") for title in titles)]
        table = [head, ["---", "---", *["--:"] * len(titles)], *rows]
        lines += ["", *(f"| {' | '.join(row)} |" for row in table)]
    return "\n".join(lines)


def _origins(networks: Mapping[str, Probed]) -> list[str]:
    """A line for each network, with the options in which its features differ from others'."""
    keys = dict.fromkeys(key for one in networks.values() for key in one.options)
    found = {key: {repr(one.options.get(key)) for one in networks.values()} for key in keys}
    different = [key for key, values in found.items() if len(values) > 1]
    lines = []
    for name, one in networks.items():
        words = [one.origin, *(f"{key} {one.options.get(key)}" for key in different)]
        if one.untrained and not one.origin.startswith("untrained"):
            words.append(f"without weights of {', '.join(one.untrained)}, which are untrained")
        lines.append(f"- {name}: {', '.join(words)}")
    if different:
        lines += [
            "",
            f"**The features were computed with different {', '.join(different)}**: the "
            "differences between networks are also due to that.",
        ]
    return lines


def draw(rows: Sequence[Row], networks: Sequence[str]) -> Figure:
    """Scores over the fraction of the labels, a line for each network, with 95 % intervals.

    A row of panels for each metric, a column for each branch and head.
    """
    metrics = list(dict.fromkeys((row.panel.task, row.panel.metric) for row in rows))
    columns = list(dict.fromkeys((row.panel.branch, row.panel.head) for row in rows))
    size = (3.6 * len(columns) + 0.6, 2.9 * len(metrics) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(metrics), len(columns), squeeze=False, sharex=True)
    handles: dict[str, Any] = {}
    for line, (task, metric) in enumerate(metrics):
        for column, (branch, head) in enumerate(columns):
            panel = Panel(task, metric, branch, head)
            shown = [row for row in rows if row.panel == panel]
            handles |= _draw_panel(grid[line, column], shown, networks)
            grid[line, column].set_title(f"{task}, {branch}, {head} head", fontsize=9)
        unit = "" if metric in ERRORS else " (%)"
        grid[line, 0].set_ylabel(f"{metric}{unit}", fontsize=8)
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    ordered = [handles[name] for name in networks if name in handles]
    panels.legend_below(figure, ordered, min(len(ordered), 2 * len(columns)))
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], networks: Sequence[str]) -> dict[str, Any]:
    handles = {}
    for index, name in enumerate(networks):
        shown = [row for row in rows if row.network == name]
        if not shown:
            continue
        shift = 10 ** (APART * (index - (len(networks) - 1) / 2))
        ends = [row.score.interval() or (row.score.mean, row.score.mean) for row in shown]
        handles[name] = axes.errorbar(
            [100 * row.fraction * shift for row in shown],
            [row.score.mean for row in shown],
            yerr=[(high - low) / 2 for low, high in ends],
            label=name,
            color=CURVE_COLOURS[index % len(CURVE_COLOURS)],
            marker=CURVE_MARKERS[index % len(CURVE_MARKERS)],
            markersize=4,
            capsize=2,
            linewidth=1.2,
        )
    if rows:
        label_axis(axes, sorted({100 * row.fraction for row in rows}))
    style(axes)
    return handles
