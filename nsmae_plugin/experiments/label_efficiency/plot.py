"""Figure of metrics over the fraction of labels, from scratch and pre-trained."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from nsmae_plugin.experiments.label_efficiency.comparison import TITLES, Comparison, Spread, metric
from nsmae_plugin.experiments.label_efficiency.trials import PRETRAINED, SCRATCH

COLOURS = {SCRATCH: "tab:orange", PRETRAINED: "tab:blue"}
# Factors on the logarithmic axis that keep the arms from being drawn on top of each other.
_SHIFT = {SCRATCH: 0.96, PRETRAINED: 1.04}


def draw(comparisons: Sequence[Comparison]) -> Figure:
    """One column per metric: both arms above, their paired difference below.

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


def _draw_arms(axes: Axes, comparisons: Sequence[Comparison], title: str) -> None:
    for arm, spreads in (
        (SCRATCH, [one.scratch for one in comparisons]),
        (PRETRAINED, [one.pretrained for one in comparisons]),
    ):
        positions = [_SHIFT[arm] * 100 * one.fraction for one in comparisons]
        _draw_series(axes, positions, spreads, TITLES[arm], COLOURS[arm])
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(title, fontsize=8)
    axes.legend(fontsize=8)
    _style(axes)


def _draw_difference(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    axes.axhline(0, color="0.4", linewidth=1)
    percentages = [100 * one.fraction for one in comparisons]
    _draw_series(axes, percentages, [one.difference for one in comparisons], "difference", "0.1")
    axes.set_xscale("log")
    axes.set_xticks(percentages, [f"{one:g} %" for one in percentages])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels", fontsize=8)
    axes.set_ylabel("pre-trained − scratch", fontsize=8)
    _style(axes)


def _draw_series(
    axes: Axes,
    positions: Sequence[float],
    spreads: Sequence[Spread | None],
    label: str,
    colour: str,
) -> None:
    known = [
        (position, spread)
        for position, spread in zip(positions, spreads, strict=True)
        if spread is not None
    ]
    if not known:
        return
    axes.errorbar(
        [position for position, _ in known],
        [spread.mean for _, spread in known],
        yerr=[spread.sd or 0.0 for _, spread in known],
        label=label,
        color=colour,
        marker="o",
        capsize=3,
        linewidth=1.2,
    )
    for position, spread in known:
        values = list(spread.values.values())
        axes.plot([position] * len(values), values, ".", color=colour, alpha=0.4, markersize=5)


def _style(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
