"""Plots of a score over the fraction of the labels."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from nsmae_plugin.experiments.spread import Spread


def draw_series(
    axes: Axes,
    positions: Sequence[float],
    spreads: Sequence[Spread | None],
    label: str,
    colour: str,
    marker: str,
) -> None:
    """Join the means, with error bars of one sample standard deviation; dots are single seeds.

    Args:
        positions: where the spreads stand on the horizontal axis; those that are None are left out.
    """
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
        marker=marker,
        capsize=3,
        linewidth=1.2,
    )
    for position, spread in known:
        values = list(spread.values.values())
        axes.plot([position] * len(values), values, ".", color=colour, alpha=0.4, markersize=5)


def label_axis(axes: Axes, percentages: Sequence[float]) -> None:
    """A logarithmic axis of the labelled part, with ticks at the percentages."""
    axes.set_xscale("log")
    axes.set_xticks(percentages, [f"{one:g} %" for one in percentages])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels", fontsize=8)


def style(axes: Axes) -> None:
    """Small ticks and a light grid."""
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
