"""Estimates against numbers worked by hand and against SciPy's own bootstrap and U statistic."""

import numpy as np
import pytest
from scipy import stats

from stratdiff.report.statistics import (
    bootstrap,
    curve,
    early,
    improvement,
    iqm,
    late,
    lowest,
    mean,
    regret,
    spread,
)

RNG = np.random.default_rng(7)


def test_by_hand():
    one = [np.arange(1.0, 9.0)[None]]
    assert iqm(one)[0] == 4.5  # of 3, 4, 5, 6
    assert mean([np.array([[1.0, 3.0]]), np.array([[10.0]])])[0] == 6.0  # of 2 and 10
    x, y = np.array([[1.0, 2.0]]), np.array([[2.0, 0.0]])
    assert improvement([x, y])[0] == 0.625  # 1 > 0, 2 > 0, 2 = 2 of four pairs
    assert improvement([x, y, y, y])[0] == pytest.approx((0.625 + 0.5) / 2)


def test_last_quarter_by_hand():
    steps = np.array([0, 100, 300, 301, 350, 400])
    scores = np.array([[9.0, 1.0]] * 3 + [[1.0, np.nan], [2.0, 4.0], [6.0, np.nan]])
    np.testing.assert_allclose(late(steps, scores), [3.0, 4.0])  # 300 is no more than 3/4 of 400
    values = np.array([[1.0], [3.0], [9.0], [9.0]])
    np.testing.assert_allclose(early(np.array([1, 2, 3, 8]), values), [2.0])  # up to 1/4 of 8
    for quarter in (early, late):
        assert np.isnan(quarter(np.zeros(0, int), np.zeros((0, 2)))).all()


def test_lowest_and_spread_by_hand():
    steps = np.array([0, 100, 200])
    scores = np.array([[1.0, 5.0, np.nan], [4.0, np.nan, np.nan], [3.0, 9.0, np.nan]])
    # What comes before the first environment step is not the online phase's.
    np.testing.assert_allclose(lowest(steps, scores), [3.0, 9.0, np.nan])
    # Deviations sqrt(8) of 1 and 5, sqrt(18) of 3 and 9; the second point has one seed.
    assert spread(scores) == pytest.approx((8**0.5 + 18**0.5) / 2)
    assert np.isnan(spread(scores[:, :1]))
    assert np.isnan(lowest(steps[:1], scores[:1])).all()


def test_regret_by_hand():
    steps = np.array([0, 100, 300])
    scores = np.array([[0.0, 100.0], [50.0, 100.0], [100.0, np.nan]])
    # (100 · (1 + 0.5) / 2 + 200 · (0.5 + 0) / 2) / 300; the second seed never misses a point.
    np.testing.assert_allclose(regret(steps, scores), [125 / 300, 0.0])
    assert np.isnan(regret(np.array([0]), np.array([[5.0]]))).all()


def test_improvement_is_mann_and_whitneys_u():
    x, y = RNG.integers(0, 6, 9).astype(float), RNG.integers(0, 6, 7).astype(float)
    u = stats.mannwhitneyu(x, y).statistic
    assert improvement([x[None], y[None]])[0] == pytest.approx(u / (9 * 7))


@pytest.mark.parametrize("ours", [mean, iqm])
def test_interval_is_scipys_percentile_interval(ours):
    x = RNG.normal(50, 10, 25)
    theirs = np.mean if ours is mean else (lambda v, axis: stats.trim_mean(v, 0.25, axis=axis))
    ci = stats.bootstrap(
        (x,), theirs, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    found = bootstrap(ours, [x])
    assert found.low == pytest.approx(ci.low, abs=0.35)  # a tenth of the interval's width
    assert found.high == pytest.approx(ci.high, abs=0.35)


def test_strata_are_drawn_within():
    x, y = RNG.normal(0, 3, 20), RNG.normal(100, 6, 12)
    ci = stats.bootstrap(
        (x, y),
        lambda a, b, axis: (a.mean(axis) + b.mean(axis)) / 2,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = bootstrap(mean, [x, y])
    assert found.low == pytest.approx(ci.low, abs=0.2)
    assert found.high == pytest.approx(ci.high, abs=0.2)
    # Tasks that differ, seeds that do not: nothing is uncertain.
    sure = bootstrap(mean, [np.full(3, 1.0), np.full(3, 99.0)])
    assert (sure.value, sure.low, sure.high) == (50, 50, 50)


def test_coverage_of_a_normal_sample():
    samples = RNG.normal(3, 1, (300, 40))
    found = [bootstrap(mean, [x]) for x in samples]
    held = np.mean([e.low <= 3 <= e.high for e in found])
    assert 0.90 <= held <= 0.98


def test_no_interval_without_spread():
    one = bootstrap(mean, [np.array([4.0])])
    assert one.value == 4 and not one.has_interval
    assert not bootstrap(mean, [np.array([4.0, 5.0]), np.array([4.0])]).has_interval
    assert np.isnan(bootstrap(mean, []).value)
    assert np.isnan(bootstrap(mean, [np.array([np.nan, np.nan])]).value)
    assert bootstrap(mean, [np.array([np.nan, 1.0, 3.0])]).value == 2


def test_same_interval_again():
    x = RNG.normal(0, 1, 6)
    assert bootstrap(iqm, [x, x]) == bootstrap(iqm, [x, x])


def test_curve_is_the_bootstrap_of_each_point():
    values = RNG.normal(0, 1, (3, 6))
    middle, low, high = curve(values)
    for i, row in enumerate(values):
        e = bootstrap(mean, [row])
        np.testing.assert_allclose((middle[i], low[i], high[i]), (e.value, e.low, e.high))


def test_curve_leaves_nan_out():
    nan = np.nan
    middle, low, high = curve(np.array([[1.0, 3.0, nan], [nan, 5.0, nan], [nan, nan, nan]]))
    np.testing.assert_allclose(middle, [2, 5, nan])
    assert low[0] == 1 and high[0] == 3
    assert np.isnan(low[1:]).all() and np.isnan(high[1:]).all()
    assert np.isnan(curve(np.ones((2, 1)))[1]).all()
