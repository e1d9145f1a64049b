"""The density under weighted support actions against hand-worked numbers and plain loops."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from scored import ACT, AGENT, BATCH, BEHAVIOUR, OBS, SUPPORT, make_batch, make_support, q_value

from stratdiff.phases import StorePhase
from stratdiff.scores import support as module
from stratdiff.scores.guidance import GuidanceOptions
from stratdiff.scores.support import Support, support_std

support_alignment = jax.jit(module.support_alignment)


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
    assert support_std(jnp.asarray(support)) == pytest.approx(std, rel=1e-5)


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


# The score


OPTIONS = GuidanceOptions(guidance_scale=1.7, inverse_temperature=2.5, behaviour=BEHAVIOUR)


def test_support_std():
    # Within the states 0.5 and 0 in one dimension, 0.3 and 0 in the other: variances 0.25, 0.09.
    # Root of their mean over four numbers times 2^(-1/6) (Scott, two dimensions).
    support = jnp.array([[[-0.5, 0.3], [0.5, -0.3]], [[0.9, 0.9], [0.9, 0.9]]])
    assert support_std(support) == pytest.approx(math.sqrt(0.34 / 4) * 2 ** (-1 / 6), rel=1e-5)


def test_score_weighs_the_stored_actions_by_w_beta_q():
    score, support = Support(OPTIONS, OBS, ACT), make_support()
    batch = make_batch(support)
    obs, action = batch.transitions.obs, batch.transitions.action
    state = score.init(jax.random.split(jax.random.key(0), 2))
    found = score.score(state, AGENT, batch, jax.random.key(0))
    expected = support_alignment(action, support, 1.7 * 2.5 * q_value(obs, support))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(np.asarray(expected)) > 1


def test_it_trains_the_behaviour_model_and_stores_support_actions():
    score = Support(OPTIONS, OBS, ACT)
    behaviour, support = score.phases()
    assert (behaviour.name, support.name) == ("behaviour", "support")
    assert isinstance(support, StorePhase) and support.after == ("behaviour",)
    state = score.init(jax.random.split(jax.random.key(0), 2))
    assert state.energy == ()
    obs = make_batch(()).transitions.obs
    stored = eqx.filter_jit(score.store)(state, obs, jax.random.split(jax.random.key(1), BATCH))
    assert stored.shape == (BATCH, SUPPORT, ACT)
    assert np.ptp(np.asarray(stored), axis=1).max() > 0.1
    # Online it learns nothing.
    new, metrics = score.update(state, AGENT, make_batch(stored), jax.random.key(2))
    assert new is state and metrics == {}
