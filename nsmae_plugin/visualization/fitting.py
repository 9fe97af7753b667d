"""Break titles and labels into lines that fit into their figure."""

from __future__ import annotations

import math
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

MARGIN = 4  # pixels that stay free at both ends of a line
ROUNDS = 3  # broken titles move the panels, whose width decides where titles break


def fit(figure: Figure) -> None:
    """Break titles and labels that are wider than their panel, and headings wider than the figure.

    A word that is too long stays whole.
    """
    for _ in range(ROUNDS):
        figure.draw_without_rendering()
        changed = [_break(heading, figure.bbox.width) for heading in figure.texts]
        changed += [_fit_panel(axes) for axes in figure.axes]
        if not any(changed):
            return


def _fit_panel(axes: Axes) -> bool:
    width, height = axes.get_window_extent().size
    # The place of a panel may be wider than the panel itself, which keeps its aspect ratio.
    place = axes.get_position(original=True).width * axes.figure.bbox.width
    changed = [_break(axes.title, max(width, place)), _break(axes.xaxis.label, max(width, place))]
    return any([*changed, _break(axes.yaxis.label, height, upright=True)])


def _break(text: Text, room: float, upright: bool = False) -> bool:
    """Break a text into lines of at most ``room`` pixels; true if it changed."""
    content = text.get_text()
    box = text.get_window_extent()
    length = box.height if upright else box.width
    if not content or length <= room - 2 * MARGIN:
        return False
    longest = max(map(len, content.splitlines()))
    letters = max(1, math.floor(longest * (room - 2 * MARGIN) / length))
    words = " ".join(content.split())
    lines = textwrap.wrap(words, letters, break_long_words=False, break_on_hyphens=False)
    text.set_text("\n".join(lines))
    return text.get_text() != content
