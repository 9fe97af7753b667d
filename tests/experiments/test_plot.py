"""The figure of a label-efficiency experiment: what is drawn where."""

import pytest

from nsmae_plugin.experiments.label_efficiency.comparison import Comparison
from nsmae_plugin.experiments.label_efficiency.summary import draw
from nsmae_plugin.experiments.spread import Spread


def comparison(fraction, scratch, pretrained, metric="mAP"):
    return compared(fraction, metric, scratch, pretrained=pretrained)


def compared(fraction, metric, scratch, **arms):
    return Comparison(
        fraction,
        metric,
        Spread.of(scratch),
        {name: Spread.of(values) for name, values in arms.items()},
        {name: Spread.of_difference(values, scratch) for name, values in arms.items()},
    )


def means(axes):
    """Label -> places and heights of the line through the means."""
    return {
        bar.get_label(): [list(data) for data in bar.lines[0].get_data()] for bar in axes.containers
    }


def test_means_and_differences_lie_over_their_fractions():
    figure = draw([comparison(0.1, {0: 4, 1: 6}, {0: 7, 1: 7}), comparison(1.0, {0: 9}, {0: 8})])
    arms, difference = figure.axes
    assert means(arms)["scratch"][1] == [5, 9]
    assert means(arms)["pre-trained"][1] == [7, 8]
    assert means(difference)["pre-trained"] == [[10, 100], [2, -1]]
    assert [text.get_text() for text in difference.get_xticklabels()] == ["10 %", "100 %"]
    assert difference.get_xscale() == arms.get_xscale() == "log"
    assert arms.get_title() == "mAP (%)"


def test_bars_are_one_standard_deviation_and_dots_single_seeds():
    arms = draw([comparison(0.1, {0: 4, 1: 6}, {0: 7, 1: 7})]).axes[0]
    (segment,) = arms.containers[0].lines[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([5 - 2**0.5, 5 + 2**0.5])
    dots = [line for line in arms.lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [[4, 6], [7, 7]]


def test_each_metric_has_a_column():
    rows = [comparison(0.1, {0: 1}, {0: 2}), comparison(0.1, {0: 3}, {0: 5}, "car.ap")]
    figure = draw(rows)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["mAP (%)", "car.ap"]
    assert means(figure.axes[3])["pre-trained"][1] == [2]


def test_every_arm_has_its_place_and_colour_in_both_rows():
    rows = [compared(f, "mAP", {0: 1, 1: 3}, a={0: 2, 1: 5}, b={0: 4}) for f in (0.1, 1.0)]
    arms, difference = draw(rows).axes
    assert {name: line[1] for name, line in means(arms).items()} == {
        "scratch": [2, 2],
        "a": [3.5, 3.5],
        "b": [4, 4],
    }
    # A seed of its own counts where scratch has it as well: a - scratch is 1 and 2, b - scratch 3.
    assert {name: line[1] for name, line in means(difference).items()} == {
        "a": [1.5, 1.5],
        "b": [3, 3],
    }
    colours = [
        {one.get_label(): one.lines[0].get_color() for one in x.containers} for x in draw(rows).axes
    ]
    assert colours[1].items() <= colours[0].items()
    assert len(set(colours[0].values())) == 3
    places = [line[0][0] for line in means(arms).values()]
    assert places == pytest.approx([9.2, 10, 10.8])
    assert difference.get_ylabel() == "arm − scratch"


def test_an_arm_that_has_not_begun_is_left_out():
    arms, difference = draw([comparison(0.1, {0: 4}, {}), comparison(1.0, {0: 9}, {0: 8})]).axes
    assert len(means(arms)["pre-trained"][0]) == 1
    assert means(difference)["pre-trained"] == [[100], [-1]]
    alone, nothing = draw([comparison(0.1, {0: 4}, {})]).axes
    assert list(means(alone)) == ["scratch"]
    assert means(nothing) == {}
