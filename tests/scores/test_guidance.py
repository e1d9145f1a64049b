"""The automatic guidance scale against numbers worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scored import ACT, AGENT, BEHAVIOUR, OBS, make_batch, make_support, q_value

from stratdiff.errors import UserError
from stratdiff.options import check, from_table
from stratdiff.scores.base import AgentView
from stratdiff.scores.guidance import (
    GuidanceOptions,
    Smoothed,
    information,
    log_scale_for,
)
from stratdiff.scores.support import Support, support_alignment

found = jax.jit(lambda q, kappa: log_scale_for(q, kappa)[0], static_argnums=1)
Q = np.random.default_rng(3).normal(size=(32, 8)).astype(np.float32)


def two_action_scale(gap, kappa):
    """W at which softmax(w (0, gap)) has the entropy (1 - κ) log 2, by another root finder."""

    def entropy(w):
        p = 1 / (1 + math.exp(-w * gap))
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    return brentq(lambda w: entropy(w) - (1 - kappa) * math.log(2), 1e-6, 30 / gap)


@pytest.mark.parametrize(("gap", "kappa"), [(1.0, 0.25), (0.05, 0.25), (40.0, 0.5), (2.0, 0.9)])
def test_two_actions_by_hand(gap, kappa):
    w = math.exp(found(jnp.array([[0.0, gap], [gap, 0.0]]), kappa))
    assert w == pytest.approx(two_action_scale(gap, kappa), rel=1e-3)


def test_a_quarter_of_a_bit():
    # H(p) = 0.75 bit at p = 0.7855, whose log-odds are 1.298.
    assert math.exp(found(jnp.array([[0.0, 1.0]]), 0.25)) == pytest.approx(1.298, abs=2e-3)


def test_information_of_certain_and_of_uniform_weights():
    assert information(jnp.zeros((3, 8))) == pytest.approx(0.0, abs=1e-6)
    certain = jnp.zeros((3, 8)).at[:, 2].set(100.0)
    assert information(certain) == pytest.approx(math.log(8), rel=1e-5)
    # Weights 3/4 and 1/4: log 2 - H = 0.6931 - 0.5623.
    assert information(jnp.array([[math.log(3.0), 0.0]])) == pytest.approx(0.1308, abs=1e-4)


def test_it_carries_the_information_that_was_asked_for_and_grows_with_it():
    scales = [float(found(Q, kappa)) for kappa in (0.05, 0.25, 0.5, 0.75, 0.95)]
    assert scales == sorted(scales) and len(set(scales)) == 5
    for log_scale, kappa in zip(scales, (0.05, 0.25, 0.5, 0.75, 0.95), strict=True):
        p = np.exp(np.float64(Q) * math.exp(log_scale))
        p /= p.sum(1, keepdims=True)
        kl = (p * np.log(p * 8)).sum(1).mean()
        assert kl == pytest.approx(kappa * math.log(8), rel=2e-3)


@pytest.mark.parametrize("factor", [10.0, 1e-3, 1e4])
def test_the_weights_do_not_depend_on_the_unit_of_q(factor):
    one, other = (np.exp(float(found(q, 0.25))) * q for q in (Q, factor * Q))
    np.testing.assert_allclose(other, one, rtol=2e-4, atol=1e-5)


def test_equal_values_leave_the_scale_as_it_was():
    log_scale, valid = log_scale_for(jnp.full((4, 8), 3.0), 0.25)
    assert valid == 0 and np.isfinite(log_scale)
    start = Smoothed(jnp.zeros(()), jnp.zeros(()))
    assert start.follow(log_scale, valid).scale == 1.0
    known = start.follow(jnp.log(5.0), jnp.ones(()))
    assert known.follow(log_scale, valid).scale == pytest.approx(5.0)


def test_smoothing_is_an_average_of_the_logarithms():
    state = Smoothed(jnp.zeros(()), jnp.zeros(()))
    for w in (2.0, 8.0):
        state = state.follow(jnp.log(w), jnp.ones(()))
    # Weights 0.09 and 0.1: exp((0.09 log 2 + 0.1 log 8) / 0.19).
    assert state.scale == pytest.approx(2 ** ((0.09 + 0.3) / 0.19), rel=1e-5)


def test_support_uses_the_scale_that_it_finds():
    options = GuidanceOptions(behaviour=BEHAVIOUR, guidance_scale="auto", guidance_information=0.5)
    score, support = Support(options, OBS, ACT), make_support()
    batch = make_batch(support)
    state = score.prepare(score.init(jax.random.split(jax.random.key(0), 2)), AGENT, batch)
    obs, action = batch.transitions.obs, batch.transitions.action
    beta_q = 3.0 * q_value(obs, support)
    w = math.exp(found(beta_q, 0.5))
    np.testing.assert_allclose(
        score.score(state, AGENT, batch, jax.random.key(1)),
        support_alignment(action, support, w * beta_q),
        rtol=1e-5,
    )
    _, metrics = score.update(state, AGENT, batch, jax.random.key(1))
    assert metrics["guidance_scale"] == pytest.approx(w, rel=1e-5)
    # Ten times the Q: the same scores.
    tenfold = AgentView(q=lambda *x: 10 * q_value(*x), policy=None)
    other = score.prepare(score.init(jax.random.split(jax.random.key(0), 2)), tenfold, batch)
    np.testing.assert_allclose(
        score.score(other, tenfold, batch, jax.random.key(1)),
        score.score(state, AGENT, batch, jax.random.key(1)),
        rtol=1e-3,
    )


@pytest.mark.parametrize("value", [-1.0, math.inf])
def test_a_scale_is_a_number_from_0_on_or_auto(value):
    with pytest.raises(UserError, match=r"--guidance-scale is .*; it must be (a number|finite)"):
        check(GuidanceOptions(guidance_scale=value))


def test_the_scale_of_a_table():
    assert from_table(GuidanceOptions, {"guidance_scale": "auto"}).guidance_scale == "auto"
    assert from_table(GuidanceOptions, {"guidance_scale": 2}).guidance_scale == 2.0
    with pytest.raises(UserError, match=r"--guidance-scale is 'automatic'; it must be a number"):
        from_table(GuidanceOptions, {"guidance_scale": "automatic"})
