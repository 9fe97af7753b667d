"""Mean, spread and confidence interval over seeds, against hand-computed numbers."""

import pytest

from nsmae_plugin.experiments.spread import Spread


def test_the_interval_is_students():
    spread = Spread.of({0: 1.0, 1: 2.0, 2: 6.0})
    # Mean 3, squared deviations 4 + 1 + 9, variance 7. The 97.5 % point of Student's t
    # distribution with 2 degrees of freedom is 4.302653 (tables).
    half = 4.302653 * (7 / 3) ** 0.5
    assert spread.mean == 3
    assert spread.sd == pytest.approx(7**0.5)
    assert spread.interval() == pytest.approx((3 - half, 3 + half))


def test_of_twenty_seeds_the_interval_is_close_to_two_standard_errors():
    spread = Spread.of({seed: float(seed % 2) for seed in range(20)})
    low, high = spread.interval()
    # 2.093024 for 19 degrees of freedom; the variance is 20 * 0.25 / 19.
    assert high - low == pytest.approx(2 * 2.093024 * (5 / 19 / 20) ** 0.5)
    assert spread.interval(0.5)[1] < high


def test_differences_are_paired_by_seed():
    difference = Spread.of_difference({0: 5.0, 1: 9.0, 3: 1.0}, {1: 7.0, 0: 4.0, 2: 0.0})
    assert difference.values == {0: 1.0, 1: 2.0}
    assert difference.mean == 1.5
    assert Spread.of_difference({0: 1.0}, {1: 1.0}) is None


def test_one_value_has_no_spread():
    spread = Spread.of({4: 2.0})
    assert (spread.mean, spread.sd, spread.interval()) == (2.0, None, None)
