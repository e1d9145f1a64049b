"""The split and its diagnostics against hand-worked numbers and plain loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratdiff import splits
from stratdiff.options import NoOptions
from stratdiff.splits import Ratio, RatioOptions, Split, Whole, offline_like_count, split_class

BATCH = 8
# Few values, so ties are common.
scores = st.lists(st.integers(-3, 3), min_size=BATCH, max_size=BATCH).map(
    lambda x: np.array(x, np.float32)
)
origins = st.lists(st.booleans(), min_size=BATCH, max_size=BATCH).map(np.array)
counts = st.sampled_from([0, 1, 3, 4, BATCH])
stable_order = functools.partial(jax.jit, static_argnums=1)(splits.stable_order)
diagnostics = functools.partial(jax.jit, static_argnums=2)(splits.diagnostics)


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
    for name, value in splits.diagnostics(score, online, k).items():
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
