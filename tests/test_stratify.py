"""Alignment scores, the split and its diagnostics against hand-worked numbers and plain loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from stratdiff import stratify

BATCH = 8
# Few values, so ties are common.
scores = st.lists(st.integers(-3, 3), min_size=BATCH, max_size=BATCH).map(
    lambda x: np.array(x, np.float32)
)
origins = st.lists(st.booleans(), min_size=BATCH, max_size=BATCH).map(np.array)
counts = st.sampled_from([0, 1, 3, 4, BATCH])
support_alignment = jax.jit(stratify.support_alignment)
split = functools.partial(jax.jit, static_argnums=1)(stratify.split)
diagnostics = functools.partial(jax.jit, static_argnums=2)(stratify.diagnostics)


# Scores


def test_guided_alignment():
    # ‖a - â‖² / (2 · 0.1²): 0.25 / 0.02, then 0, then (0.02² + 0.01²) / 0.02.
    action = jnp.array([[0.3, 0.4], [0.5, -1.0], [0.1, 0.1]])
    guided = jnp.array([[0.0, 0.0], [0.5, -1.0], [0.12, 0.09]])
    found = stratify.guided_alignment(action, guided)
    np.testing.assert_allclose(found, [12.5, 0.0, 0.025], rtol=1e-4)


def test_support_alignment_of_two_actions():
    # Supports -0.5 and 0.5: standard deviation 0.5, times 2^(-1/5) (Scott, one dimension).
    std = 0.5 * 2**-0.2
    support = jnp.array([[[-0.5], [0.5]]] * 3)
    action = jnp.array([[-0.5], [0.0], [0.5]])
    # Weights 1/2, 1/2; then 1/4, 3/4; then 0, 1.
    weighted_q = jnp.array([[7.0, 7.0], [0.0, math.log(3)], [-90.0, 10.0]])

    def normal(x):
        return math.exp(-0.5 * (x / std) ** 2) / (std * math.sqrt(2 * math.pi))

    expected = [
        -math.log(0.5 * normal(0) + 0.5 * normal(1)),
        -math.log(0.25 * normal(0.5) + 0.75 * normal(0.5)),
        -math.log(normal(0)),
    ]
    found = support_alignment(action, support, weighted_q)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("dim", "m"), [(1, 2), (3, 16), (6, 8)])
def test_support_alignment_equals_loops(dim, m):
    rng = np.random.default_rng(dim)
    batch = 5
    action = rng.uniform(-1, 1, (batch, dim)).astype(np.float32)
    support = rng.uniform(-1, 1, (batch, m, dim)).astype(np.float32)
    weighted_q = (5 * rng.normal(size=(batch, m))).astype(np.float32)
    variances = [
        np.mean((support[i, :, d] - support[i, :, d].mean()) ** 2)
        for i in range(batch)
        for d in range(dim)
    ]
    std = math.sqrt(np.mean(variances)) * m ** (-1 / (dim + 4))
    expected = []
    for i in range(batch):
        total = sum(math.exp(q) for q in weighted_q[i])
        density = 0.0
        for j in range(m):
            kernel = 1.0
            for d in range(dim):
                z = (action[i, d] - support[i, j, d]) / std
                kernel *= math.exp(-0.5 * z * z) / (std * math.sqrt(2 * math.pi))
            density += math.exp(weighted_q[i, j]) / total * kernel
        expected.append(-math.log(density))
    found = support_alignment(*map(jnp.asarray, (action, support, weighted_q)))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert stratify.support_std(jnp.asarray(support)) == pytest.approx(std, rel=1e-5)


def test_equal_support_actions_keep_a_least_width():
    # One action, density of N(a; 0, 0.05² I) in two dimensions, 0.1 away: z = 2.
    support, q = jnp.zeros((1, 4, 2)), jnp.zeros((1, 4))
    found = support_alignment(jnp.array([[0.1, 0.0]]), support, q)
    assert found[0] == pytest.approx(2.0 + math.log(2 * math.pi * 0.05**2), rel=1e-5)


def test_far_actions_stay_finite():
    # The density itself would be exp(-8 · 2² / (2 · 0.05²)) = 0.
    support, q = -jnp.ones((1, 4, 8)), jnp.array([[0.0, 1e4, -1e4, 3.0]])
    found = float(support_alignment(jnp.ones((1, 8)), support, q)[0])
    assert found == pytest.approx(6400 + 4 * math.log(2 * math.pi * 0.05**2), rel=1e-5)


@functools.cache
def many_states():
    """Actions [B, 2], each with 4096 support actions of a Gaussian mixture of its own state."""
    rng = np.random.default_rng(0)
    batch, m = 48, 4096
    action = rng.uniform(-1, 1, (batch, 2))
    # Two modes per state, 0.3 and 0.7 of the mass, standard deviation 0.25.
    modes = rng.uniform(-0.7, 0.7, (batch, 2, 2))
    which = (rng.uniform(size=(batch, m)) < 0.7).astype(int)
    support = modes[np.arange(batch)[:, None], which] + 0.25 * rng.normal(size=(batch, m, 2))
    return action, modes, support


def mixture_score(action, modes, weights, std):
    """-log of the exact mixture density."""
    distance = np.square(action[:, None] - modes).sum(-1)
    return -np.log((weights * np.exp(-distance / (2 * std**2)) / (2 * np.pi * std**2)).sum(-1))


def order_agreement(weighted_q, exact):
    action, _, support = many_states()
    found = support_alignment(*(jnp.asarray(x, jnp.float32) for x in (action, support, weighted_q)))
    return spearmanr(found, exact).statistic


def test_unweighted_support_orders_like_the_behaviour_density():
    action, modes, support = many_states()
    exact = mixture_score(action, modes, np.array([0.3, 0.7]), 0.25)
    assert order_agreement(np.zeros(support.shape[:2]), exact) > 0.97
    # Not so by one arbitrary mode.
    first = np.square(action - modes[:, 0]).sum(-1)
    assert spearmanr(first, exact).statistic < 0.8


def test_weighted_support_orders_like_the_tilted_density():
    # μ(a) exp(c·a): every mode moves by 0.25² c and gains exp(c·mode).
    action, modes, support = many_states()
    c = np.array([5.0, -3.0])
    gain = np.array([0.3, 0.7]) * np.exp(modes @ c)
    tilted = mixture_score(action, modes + 0.25**2 * c, gain / gain.sum(-1, keepdims=True), 0.25)
    assert order_agreement(support @ c, tilted) > 0.97
    assert order_agreement(np.zeros(support.shape[:2]), tilted) < 0.8


# Split


@given(alignment=scores, k=counts)
@settings(deadline=None)
def test_split(alignment, k):
    # The k lowest, ties by row; within each stratum as they were.
    lowest = sorted(range(BATCH), key=lambda i: (alignment[i], i))[:k]
    expected = sorted(lowest) + [i for i in range(BATCH) if i not in lowest]
    np.testing.assert_array_equal(split(jnp.asarray(alignment), k), expected)


@pytest.mark.parametrize("k", [0, BATCH])
def test_one_stratum_leaves_the_batch_alone(k):
    falling = jnp.arange(BATCH, dtype=jnp.float32)[::-1]
    np.testing.assert_array_equal(split(falling, k), np.arange(BATCH))


def test_split_by_hand():
    alignment = jnp.array([3.0, 1.0, 2.0, 1.0, 0.0, 1.0, 9.0, 8.0])
    np.testing.assert_array_equal(split(alignment, 3), [1, 3, 4, 0, 2, 5, 6, 7])


@pytest.mark.parametrize(
    ("rho", "batch", "k"),
    [(0.5, 256, 128), (0.3, 256, 77), (0.7, 256, 179), (0.0, 7, 0), (1.0, 7, 7), (0.5, 5, 3)],
)
def test_offline_like_count(rho, batch, k):
    assert stratify.offline_like_count(rho, batch) == k


@given(rho=st.floats(0, 1), batch=st.integers(1, 4096))
def test_offline_like_count_is_the_nearest_whole_number(rho, batch):
    k = stratify.offline_like_count(rho, batch)
    assert 0 <= k <= batch
    assert abs(k - rho * batch) <= 0.5 + 1e-9


# Diagnostics


def naive_diagnostics(alignment, online, k):
    n = len(alignment)
    offline_like = set(sorted(range(n), key=lambda i: (alignment[i], i))[:k])
    exchanged = sum(
        (online[i] and i in offline_like) or (not online[i] and i not in offline_like)
        for i in range(n)
    )
    pairs = wins = 0
    for i in range(n):
        for j in range(n):
            if online[i] and not online[j]:
                pairs += 1
                wins += (alignment[i] > alignment[j]) + 0.5 * (alignment[i] == alignment[j])
    out = {
        "exchange_count": exchanged,
        "exchange_fraction": exchanged / n,
        "alignment_auc": wins / pairs if pairs else math.nan,
        "alignment_threshold": max((alignment[i] for i in offline_like), default=-math.inf),
    }
    for name, wanted in (("offline", False), ("online", True)):
        values = [float(a) for a, o in zip(alignment, online, strict=True) if o == wanted]
        mean = sum(values) / len(values) if values else math.nan
        variance = sum((v - mean) ** 2 for v in values) / len(values) if values else math.nan
        out[f"alignment_mean_{name}"] = mean
        out[f"alignment_std_{name}"] = math.sqrt(variance)
        for percent in (10, 25, 50, 75, 90):
            out[f"alignment_q{percent}_{name}"] = (
                np.percentile(values, percent, method="nearest") if values else math.nan
            )
    return out


@given(alignment=scores, online=origins, k=counts)
@settings(deadline=None)
def test_diagnostics_equal_loops(alignment, online, k):
    found = diagnostics(jnp.asarray(alignment), jnp.asarray(online), k)
    expected = naive_diagnostics(alignment, online, k)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_diagnostics_by_hand():
    # Rows 0 to 3 from D_off, 4 to 7 from D_on; the three lowest are rows 0, 1 and 4.
    alignment = jnp.array([1.0, 2.0, 6.0, 7.0, 3.0, 4.0, 6.0, 9.0])
    online = jnp.array([False] * 4 + [True] * 4)
    found = {k: float(v) for k, v in diagnostics(alignment, online, 3).items()}
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
    alignment, none = jnp.arange(8.0), jnp.zeros(8, bool)
    found = diagnostics(alignment, none, 4)
    for name in ("alignment_auc", "alignment_mean_online", "alignment_std_online"):
        assert math.isnan(found[name]), name
    assert found["exchange_count"] == 4
    assert found["alignment_mean_offline"] == 3.5
