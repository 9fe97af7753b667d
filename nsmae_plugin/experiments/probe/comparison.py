"""Scores of networks over seeds, each against those of a reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.probe.center_scores import ERRORS
from nsmae_plugin.experiments.probe.trials import Result
from nsmae_plugin.experiments.spread import Spread

PERCENT = 100.0


@dataclass(frozen=True)
class Panel:
    """What is comparable: one metric of one task with one head on one branch."""

    task: str
    metric: str
    branch: str
    head: str


@dataclass(frozen=True)
class Row:
    """One network at one fraction of the labels.

    Attributes:
        score: by seed; scores in percent, errors in their unit.
        difference: from the reference, seed by seed: both saw the same labelled frames in the same
            order, and their heads began alike. None for the reference itself, and without a seed
            that both have.
    """

    panel: Panel
    fraction: float
    network: str
    score: Spread
    difference: Spread | None


def compare(
    results: Sequence[Result],
    metrics: Mapping[str, Sequence[str]],
    networks: Sequence[str],
    reference: str,
) -> list[Row]:
    """All panels, fractions ascending, networks in the order given.

    Args:
        metrics: of each task that is shown.

    Raises:
        DataError: a result has no such metric.
    """
    values: dict[tuple[Panel, float], dict[str, dict[int, float]]] = defaultdict(dict)
    for result in results:
        trial = result.trial
        for metric in metrics.get(trial.task, ()):
            panel = Panel(trial.task, metric, trial.branch, trial.head)
            by_network = values[panel, trial.fraction]
            by_network.setdefault(trial.network, {})[trial.seed] = value_of(result, metric)
    rows = []
    for panel, fraction in sorted(values, key=lambda key: (_order(key[0], metrics), key[1])):
        found = values[panel, fraction]
        for network in networks:
            score = Spread.of(found.get(network, {}))
            if score is not None:
                paired = network != reference and reference in found
                difference = (
                    Spread.of_difference(found[network], found[reference]) if paired else None
                )
                rows.append(Row(panel, fraction, network, score, difference))
    return rows


def _order(panel: Panel, metrics: Mapping[str, Sequence[str]]) -> tuple[int, int, str, str]:
    task = list(metrics).index(panel.task)
    return task, list(metrics[panel.task]).index(panel.metric), panel.branch, panel.head


def value_of(result: Result, metric: str) -> float:
    """A metric of a result; scores in percent.

    Raises:
        DataError: it has no such metric.
    """
    if metric not in result.metrics:
        raise DataError(
            f"the task {result.trial.task} has no metric {metric!r}; it has "
            f"{', '.join(result.metrics)}"
        )
    return result.metrics[metric] * (1 if metric in ERRORS else PERCENT)


def format_table(rows: Sequence[Row], reference: str) -> str:
    """Markdown: a line for each panel and network, two columns for each fraction."""
    fractions = sorted({row.fraction for row in rows})
    most = max(len(row.score.values) for row in rows)
    lines: dict[tuple[Panel, str], dict[float, Row]] = defaultdict(dict)
    for row in rows:
        lines[row.panel, row.network][row.fraction] = row
    titles = [title for one in fractions for title in (f"{100 * one:g} %", f"against {reference}")]
    table = [["task", "features", "head", "network", *titles]]
    table.append(["---"] * 4 + ["--:"] * len(titles))
    for (panel, network), found in lines.items():
        cells = [cell for one in fractions for cell in _cells(found.get(one), most)]
        table.append([f"{panel.task}, {panel.metric}", panel.branch, panel.head, network, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _cells(row: Row | None, most: int) -> tuple[str, str]:
    """Score and difference; with the number of seeds where it is less than ``most``."""
    if row is None:
        return "–", "–"
    count = len(row.score.values)
    score = f"{row.score.mean:.2f}" + ("" if row.score.sd is None else f" ± {row.score.sd:.2f}")
    if count < most:
        score += f" ({count})"
    if row.difference is None:
        return score, "–"
    interval = row.difference.interval()
    ends = "" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]"
    return score, f"{row.difference.mean:+.2f}{ends}"
