"""Scratch against pre-trained over the fraction of labels, as a figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from nsmae_plugin.experiments.label_efficiency.comparison import TITLES, Comparison, Spread, metric
from nsmae_plugin.experiments.label_efficiency.trials import PRETRAINED, SCRATCH

COLOURS = {SCRATCH: "tab:orange", PRETRAINED: "tab:blue"}
# Fractions lie on a logarithmic axis: the arms are drawn beside each other, not on top.
_SHIFT = {SCRATCH: 0.96, PRETRAINED: 1.04}


def draw(comparisons: Sequence[Comparison]) -> Figure:
    """A column per metric: both arms above, their paired difference below.

    Lines join means, bars are one sample standard deviation, dots are single seeds.
    """
    names = list(dict.fromkeys(one.metric for one in comparisons))
    figure = Figure(figsize=(4.8 * len(names), 6), layout="constrained")
    rows = figure.subplots(2, len(names), squeeze=False, sharex=True, height_ratios=(3, 2))
    for column, name in enumerate(names):
        there = [one for one in comparisons if one.metric == name]
        _draw_arms(rows[0, column], there, metric(name).title)
        _draw_difference(rows[1, column], there)
    return figure


def _draw_arms(axes: Axes, there: Sequence[Comparison], title: str) -> None:
    for arm, spreads in (
        (SCRATCH, [one.scratch for one in there]),
        (PRETRAINED, [one.pretrained for one in there]),
    ):
        places = [_SHIFT[arm] * 100 * one.fraction for one in there]
        _draw_series(axes, places, spreads, TITLES[arm], COLOURS[arm])
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(title, fontsize=8)
    axes.legend(fontsize=8)
    _style(axes)


def _draw_difference(axes: Axes, there: Sequence[Comparison]) -> None:
    axes.axhline(0, color="0.4", linewidth=1)
    places = [100 * one.fraction for one in there]
    _draw_series(axes, places, [one.difference for one in there], "difference", "0.1")
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g} %" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels", fontsize=8)
    axes.set_ylabel("pre-trained − scratch", fontsize=8)
    _style(axes)


def _draw_series(
    axes: Axes,
    places: Sequence[float],
    spreads: Sequence[Spread | None],
    label: str,
    colour: str,
) -> None:
    known = [
        (place, spread) for place, spread in zip(places, spreads, strict=True) if spread is not None
    ]
    if not known:
        return
    axes.errorbar(
        [place for place, _ in known],
        [spread.mean for _, spread in known],
        yerr=[spread.sd or 0.0 for _, spread in known],
        label=label,
        color=colour,
        marker="o",
        capsize=3,
        linewidth=1.2,
    )
    for place, spread in known:
        values = list(spread.values.values())
        axes.plot([place] * len(values), values, ".", color=colour, alpha=0.4, markersize=5)


def _style(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
