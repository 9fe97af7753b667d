"""Tables and figures of a probe, from results made up by hand."""

import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.probe.comparison import compare, format_table
from nsmae_plugin.experiments.probe.summary import draw
from nsmae_plugin.experiments.probe.trials import Result, Trial

METRICS = {"map": ["mIoU"], "centers": ["mAP", "mATE"]}


def result(network, seed, value, fraction=0.1, task="map", branch="lidar", head="linear"):
    names = {"map": ("mIoU",), "centers": ("mAP", "mATE")}[task]
    trial = Trial(network, branch, head, task, fraction, seed)
    return Result(trial, "", dict.fromkeys(names, value), 0.0, 1.0)


RESULTS = [
    *(result("random", seed, value) for seed, value in enumerate((0.10, 0.20, 0.30))),
    *(result("paper", seed, value) for seed, value in enumerate((0.12, 0.21, 0.36))),
    result("random", 0, 0.5, fraction=1.0),
    result("paper", 0, 0.4, fraction=1.0),
    result("paper", 0, 0.8, task="centers", branch="fused"),
]


def test_networks_are_compared_seed_by_seed():
    rows = compare(RESULTS, METRICS, ["random", "paper"], "random")
    tenth = [row for row in rows if row.panel.task == "map" and row.fraction == 0.1]
    random, paper = tenth
    assert (random.network, random.difference) == ("random", None)
    assert random.score.mean == pytest.approx(20)
    assert random.score.sd == pytest.approx(10)
    # Differences 2, 1 and 6: mean 3, sd √7; the quantile of 2 degrees of freedom is 4.302653.
    assert paper.difference.values == pytest.approx({0: 2, 1: 1, 2: 6})
    half = 4.302653 * (7 / 3) ** 0.5
    assert paper.difference.interval() == pytest.approx((3 - half, 3 + half))


def test_errors_are_no_percentages():
    rows = compare(RESULTS, METRICS, ["random", "paper"], "random")
    found = {row.panel.metric: row.score.mean for row in rows if row.panel.task == "centers"}
    assert found == {"mAP": pytest.approx(80), "mATE": pytest.approx(0.8)}


def test_any_network_can_be_the_reference():
    rows = compare(RESULTS, METRICS, ["random", "paper"], "paper")
    differences = {row.network: row.difference for row in rows if row.fraction == 0.1}
    assert differences["random"].mean == pytest.approx(-3)
    assert differences["paper"] is None


def test_the_table_has_a_line_for_each_network_and_columns_for_each_fraction():
    rows = compare(RESULTS, {"map": ["mIoU"]}, ["random", "paper"], "random")
    assert format_table(rows, "random").splitlines() == [
        "| task | features | head | network | 10 % | against random | 100 % | against random |",
        "| --- | --- | --- | --- | --: | --: | --: | --: |",
        "| map, mIoU | lidar | linear | random | 20.00 ± 10.00 | – | 50.00 (1) | – |",
        "| map, mIoU | lidar | linear | paper | 23.00 ± 12.12 | +3.00 [-3.57, +9.57] "
        "| 40.00 (1) | -10.00 |",
    ]


def test_an_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(DataError, match="the task map has no metric 'IoU/road'; it has mIoU"):
        compare(RESULTS, {"map": ["IoU/road"]}, ["random"], "random")


def test_each_panel_has_a_line_with_intervals_for_each_network():
    rows = compare(RESULTS, METRICS, ["random", "paper"], "random")
    figure = draw(rows, ["random", "paper"])
    assert [axes.get_title() for axes in figure.axes] == [
        f"{task}, {branch}, linear head"
        for task in ("map", "centers", "centers")
        for branch in ("lidar", "fused")
    ]
    maps, empty, *_ = figure.axes
    assert not empty.containers
    lines = {bar.get_label(): bar for bar in maps.containers}
    assert list(lines) == ["random", "paper"]
    assert list(lines["paper"].lines[0].get_ydata()) == pytest.approx([23, 40])
    (segment, _) = lines["random"].lines[2][0].get_segments()
    half = 4.302653 * 10 / 3**0.5
    assert segment[:, 1] == pytest.approx([20 - half, 20 + half])
