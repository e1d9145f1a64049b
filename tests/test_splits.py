"""The split and its diagnostics against hand-worked numbers and plain loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from stratdiff import splits
from stratdiff.options import NoOptions
from stratdiff.scores.guided import Guided
from stratdiff.scores.origin import Origin
from stratdiff.splits import (
    Exchange,
    ExchangeOptions,
    Ratio,
    RatioOptions,
    Split,
    Whole,
    Window,
    offline_like_count,
    split_class,
)

BATCH = 8
# Few values, so ties are common.
scores = st.lists(st.integers(-3, 3), min_size=BATCH, max_size=BATCH).map(
    lambda x: np.array(x, np.float32)
)
origins = st.lists(st.booleans(), min_size=BATCH, max_size=BATCH).map(np.array)
counts = st.sampled_from([0, 1, 3, 4, BATCH])


@functools.partial(jax.jit, static_argnums=1)
def stable_order(score, k):
    return splits.conservative_first(splits.lowest(score, k))


@functools.partial(jax.jit, static_argnums=2)
def diagnostics(score, online, k):
    return splits.diagnostics(score, online, splits.lowest(score, k))


# Order


@given(score=scores, k=counts)
@settings(deadline=None)
def test_order(score, k):
    # The k lowest, ties by row; within each stratum as they were.
    lowest = sorted(range(BATCH), key=lambda i: (score[i], i))[:k]
    expected = sorted(lowest) + [i for i in range(BATCH) if i not in lowest]
    np.testing.assert_array_equal(stable_order(jnp.asarray(score), k), expected)


@pytest.mark.parametrize("k", [0, BATCH])
def test_one_stratum_leaves_the_batch_alone(k):
    falling = jnp.arange(BATCH, dtype=jnp.float32)[::-1]
    np.testing.assert_array_equal(stable_order(falling, k), np.arange(BATCH))


def test_order_by_hand():
    score = jnp.array([3.0, 1.0, 2.0, 1.0, 0.0, 1.0, 9.0, 8.0])
    np.testing.assert_array_equal(stable_order(score, 3), [1, 3, 4, 0, 2, 5, 6, 7])


@pytest.mark.parametrize(
    ("rho", "batch", "k"),
    [(0.5, 256, 128), (0.3, 256, 77), (0.7, 256, 179), (0.0, 7, 0), (1.0, 7, 7), (0.5, 5, 3)],
)
def test_offline_like_count(rho, batch, k):
    assert offline_like_count(rho, batch) == k


@given(rho=st.floats(0, 1), batch=st.integers(1, 4096))
def test_offline_like_count_is_the_nearest_whole_number(rho, batch):
    k = offline_like_count(rho, batch)
    assert 0 <= k <= batch
    assert abs(k - rho * batch) <= 0.5 + 1e-9


# Diagnostics


def naive_diagnostics(score, online, k):
    n = len(score)
    offline_like = set(sorted(range(n), key=lambda i: (score[i], i))[:k])
    exchanged = sum(
        (online[i] and i in offline_like) or (not online[i] and i not in offline_like)
        for i in range(n)
    )
    pairs = wins = 0
    for i in range(n):
        for j in range(n):
            if online[i] and not online[j]:
                pairs += 1
                wins += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
    out = {
        "exchange_count": exchanged,
        "exchange_fraction": exchanged / n,
        "conservative_fraction": k / n,
        "alignment_auc": wins / pairs if pairs else math.nan,
        "alignment_threshold": max((score[i] for i in offline_like), default=-math.inf),
    }
    for name, wanted in (("offline", False), ("online", True)):
        values = [float(a) for a, o in zip(score, online, strict=True) if o == wanted]
        mean = sum(values) / len(values) if values else math.nan
        variance = sum((v - mean) ** 2 for v in values) / len(values) if values else math.nan
        out[f"alignment_mean_{name}"] = mean
        out[f"alignment_std_{name}"] = math.sqrt(variance)
        for percent in (10, 25, 50, 75, 90):
            out[f"alignment_q{percent}_{name}"] = (
                np.percentile(values, percent, method="nearest") if values else math.nan
            )
    return out


@given(score=scores, online=origins, k=counts)
@settings(deadline=None)
def test_diagnostics_equal_loops(score, online, k):
    found = diagnostics(jnp.asarray(score), jnp.asarray(online), k)
    expected = naive_diagnostics(score, online, k)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_diagnostics_by_hand():
    # Rows 0 to 3 from D_off, 4 to 7 from D_on; the three lowest are rows 0, 1 and 4.
    score = jnp.array([1.0, 2.0, 6.0, 7.0, 3.0, 4.0, 6.0, 9.0])
    online = jnp.array([False] * 4 + [True] * 4)
    found = {k: float(v) for k, v in diagnostics(score, online, 3).items()}
    # Exchanged: 2 and 3 sent up, 4 sent down.
    assert found["exchange_count"] == 3
    assert found["exchange_fraction"] == 0.375
    assert found["conservative_fraction"] == 0.375
    assert found["alignment_threshold"] == 3
    # Wins over (1, 2, 6, 7): 3 beats 2, 4 beats 2, 6 beats 2 and ties 1, 9 beats 4.
    assert found["alignment_auc"] == (2 + 2 + 2.5 + 4) / 16
    assert found["alignment_mean_offline"] == 4
    assert found["alignment_std_offline"] == pytest.approx(math.sqrt(6.5))
    assert found["alignment_mean_online"] == 5.5
    assert found["alignment_std_online"] == pytest.approx(math.sqrt(5.25))


def test_diagnostics_without_online_rows():
    score, none = jnp.arange(8.0), jnp.zeros(8, bool)
    found = diagnostics(score, none, 4)
    for name in ("alignment_auc", "alignment_mean_online", "alignment_std_online"):
        assert math.isnan(found[name]), name
    assert found["exchange_count"] == 4
    assert found["alignment_mean_offline"] == 3.5


# Rules


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_ratio_puts_the_lowest_scores_first(rho):
    rule = Ratio(RatioOptions(rho))
    assert isinstance(rule, Split)
    score = jnp.array([3.0, 1.0, 2.0, 1.0, 0.0, 1.0, 9.0, 8.0])
    online = jnp.arange(BATCH) >= 4
    state, rows, metrics = rule(rule.init(), score, online)
    # round(0.3 · 8) = 2: the 0 and the first 1, in the order of the batch.
    order, k = {
        0.0: (range(BATCH), 0),
        0.3: ([1, 4, 0, 2, 3, 5, 6, 7], 2),
        1.0: (range(BATCH), BATCH),
    }[rho]
    np.testing.assert_array_equal(rows.order, [*order])
    # A number and not an array: the conservative terms are computed on these rows only.
    assert type(rows.conservative) is int and rows.conservative == k
    assert state == rule.init()
    for name, value in diagnostics(score, online, k).items():
        np.testing.assert_array_equal(metrics[name], value, err_msg=name)


def test_without_a_split_the_batch_is_as_it_was():
    rule = Whole(NoOptions())
    assert isinstance(rule, Split)
    score = jnp.arange(BATCH, dtype=jnp.float32)[::-1]
    _, rows, metrics = rule(rule.init(), score, jnp.zeros(BATCH, bool))
    np.testing.assert_array_equal(score[rows.order], score)
    assert (rows.conservative, metrics) == (BATCH, {})


def test_without_a_score_there_is_nothing_to_split_by():
    assert split_class("ratio", "none") is Whole
    assert split_class("ratio", "random") is Ratio


# Exchange

ORIGIN = Origin(Origin.options(), 3, 2)


def exchange(odds, score=ORIGIN):
    rule = Exchange(ExchangeOptions(odds), score)
    return rule, jax.jit(rule)


def naive_windows(batches):
    """(weights, means, variances) of both origins: every row of the past, weighed by its age."""
    out = []
    for origin in (False, True):
        values, weights = [], []
        for age, (score, online) in enumerate(reversed(batches)):
            chosen = [float(x) for x, o in zip(score, online, strict=True) if o == origin]
            values += chosen
            weights += [0.9**age] * len(chosen)
        mean = np.average(values, weights=weights) if values else 0.0
        variance = np.average((np.array(values) - mean) ** 2, weights=weights) if values else 0.0
        out.append((sum(weights), mean, variance))
    return np.array(out).T


def make_batches(seed=0, n=6):
    """Batches of other sizes of both kinds; the first has no row of D_on."""
    rng, batches = np.random.default_rng(seed), []
    for i in range(n):
        online = rng.random(BATCH) < (0.5 if i else 0.0)
        batches.append((np.float32(rng.normal(2 + 3 * online, 1 + 2 * online)), online))
    return batches


def test_the_window_is_every_row_weighed_by_its_age():
    rule, call = exchange(3.0)
    state, batches = rule.init(), make_batches()
    for i, (score, online) in enumerate(batches):
        state, _, metrics = call(state, jnp.asarray(score), jnp.asarray(online))
        weight, mean, variance = naive_windows(batches[: i + 1])
        np.testing.assert_allclose(state.weight, weight, rtol=1e-5)
        np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(state.variance, variance, rtol=1e-4, atol=1e-6)
        # No row of D_on was seen in the first batch.
        np.testing.assert_array_equal(
            metrics["exchange_mean_online"], state.mean[1] if i else np.nan
        )
        assert metrics["exchange_std_offline"] == pytest.approx(math.sqrt(variance[0]), rel=1e-4)


@pytest.mark.parametrize("odds", [1.0, 3.0, 6.0])
def test_rows_change_sides_where_the_odds_of_two_gaussians_say_so(odds):
    rule, call = exchange(odds)
    state, batches, moved = rule.init(), make_batches(1, 40), 0
    for i, (score, online) in enumerate(batches):
        state, rows, metrics = call(state, jnp.asarray(score), jnp.asarray(online))
        _, mean, variance = naive_windows(batches[: i + 1])
        if not any(o.any() for _, o in batches[: i + 1]):
            offline_like = ~online
            assert offline_like.all()
        else:
            off, on = (
                norm.logpdf(score, m, math.sqrt(v)) for m, v in zip(mean, variance, strict=True)
            )
            gap = on - off
            offline_like = np.where(online, -gap > math.log(odds), ~(gap > math.log(odds)))
        order = [*np.flatnonzero(offline_like), *np.flatnonzero(~offline_like)]
        np.testing.assert_array_equal(rows.order, order)
        assert rows.conservative == offline_like.sum()
        assert metrics["exchange_count"] == (offline_like == online).sum()
        moved += int((offline_like == online).sum())
    assert moved > 0


def test_scores_that_are_distances_are_compared_by_their_logarithms():
    guided = Guided(Guided.options(), 3, 2)
    score, online = jnp.array([1.0, 4.0, 0.0, 9.0]), jnp.array([False, False, True, True])
    rule = Exchange(ExchangeOptions(), guided)
    state, _, metrics = jax.jit(rule)(rule.init(), score, online)
    # A score of 0 counts as 1e-4.
    expected = [np.log([1.0, 4.0]).mean(), np.log([1e-4, 9.0]).mean()]
    np.testing.assert_allclose(state.mean, expected, rtol=1e-5)
    assert metrics["alignment_mean_offline"] == 2.5  # reported as they are


@pytest.mark.parametrize("odds", [1.0, 3.0, math.inf])
@pytest.mark.parametrize(
    "online", [[False] * 4, [True] * 4, [False, False, True, True]], ids=["off", "on", "both"]
)
@pytest.mark.parametrize("score", [[2.0] * 4, [0.0, 0.0, 1.0, 1.0], [1e30, 0.0, 0.0, -1e30]])
def test_one_origin_or_no_spread_exchanges_nothing_and_is_finite(odds, online, score):
    rule, call = exchange(odds)
    online = jnp.array(online)
    state, rows, metrics = call(rule.init(), jnp.array(score), online)
    if len({*online.tolist()}) == 1 or len({*score}) < 3:
        assert metrics["exchange_count"] == 0
        assert rows.conservative == (~online).sum()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    assert sorted(rows.order.tolist()) == [0, 1, 2, 3] and 0 <= rows.conservative <= 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_score_that_is_not_finite_is_left_out_of_the_window(bad):
    """Otherwise one of them would end all exchanges for the rest of the run."""
    rule, call = exchange(3.0)
    score, online = jnp.arange(8.0), jnp.arange(8) >= 4
    without, *_ = call(rule.init(), score[1:], online[1:])
    found, rows, _ = call(rule.init(), score.at[0].set(bad), online)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, without)
    assert sorted(rows.order.tolist()) == [*range(8)]


def test_infinite_odds_are_the_split_by_origin():
    rule, call = exchange(math.inf)
    assert isinstance(rule, Split) and rule.init() == ()
    assert not rule.uses_scores(rule.config) and rule.uses_scores(ExchangeOptions())
    for score, online in make_batches():
        _, rows, metrics = call((), jnp.asarray(score), jnp.asarray(online))
        np.testing.assert_array_equal(rows.order, np.argsort(online, kind="stable"))
        assert rows.conservative == (~online).sum() and metrics["exchange_count"] == 0


def test_the_origin_as_score_never_exchanges():
    online = jnp.arange(BATCH) >= 3
    rule, call = exchange(1.0)
    _, rows, _ = call(rule.init(), online.astype(float), online)
    assert rows.conservative == 3 and rows.order.tolist() == [*range(BATCH)]


def test_log_odds_by_hand():
    # N(x; 1, 2²) against N(x; 0, 1): at 3, -log 2 - (2/2)²/2 + 3²/2.
    window = Window(jnp.ones(2), jnp.array([0.0, 1.0]), jnp.array([1.0, 4.0]))
    found = splits.log_odds(window, jnp.array([3.0, 1.0]))
    np.testing.assert_allclose(found, [-math.log(2) - 0.5 + 4.5, -math.log(2) + 0.5], rtol=1e-6)
