"""The likelihood ratio against densities of SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scored import ACT, BEHAVIOUR, OBS, make_batch, make_support

from stratdiff.agents.networks import GaussianPolicy, SquashedGaussianPolicy
from stratdiff.scores.base import AgentView
from stratdiff.scores.behaviour import BehaviourOptions
from stratdiff.scores.likelihood import Likelihood
from stratdiff.scores.support import support_std

KEY = jax.random.key(2)


def log_kernel_density(action, support):
    """Log of the mean of normal densities around the support actions, one loop a state."""
    std = float(support_std(support))
    return np.array(
        [
            np.log(np.mean([stats.norm.pdf(a, m, std).prod() for m in row]))
            for a, row in zip(np.asarray(action), np.asarray(support), strict=True)
        ]
    )


def check(actor, log_policy):
    score, support = Likelihood(BehaviourOptions(behaviour=BEHAVIOUR), OBS, ACT), make_support()
    batch = make_batch(support)
    agent = AgentView(q=None, policy=actor)
    found = score.score(score.init(jax.random.split(KEY, 2)), agent, batch, KEY)
    action = batch.transitions.action
    expected = log_policy(batch.transitions.obs, action) - log_kernel_density(action, support)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert np.std(expected) > 0.3


def test_with_iql_s_policy():
    actor = GaussianPolicy(OBS, ACT, (8,), KEY, final_gain=1.0)

    def log_policy(obs, action):
        return stats.norm.logpdf(action, actor.mode(obs), 1.0).sum(1)

    check(actor, log_policy)


def test_with_a_squashed_policy():
    actor = SquashedGaussianPolicy(OBS, ACT, (8,), KEY, -1.0)

    def log_policy(obs, action):
        mean, log_std = np.split(np.asarray(actor.net(obs), np.float64), 2, axis=-1)
        u = np.arctanh(np.asarray(action, np.float64))
        # Change of variables: da/du = 1 - a².
        density = stats.norm.pdf(u, mean, np.exp(log_std)) / (1 - np.square(action))
        return np.log(density).sum(1)

    check(actor, log_policy)


def test_actions_at_the_bounds_have_a_density():
    actor = SquashedGaussianPolicy(OBS, ACT, (8,), KEY)
    obs = jnp.zeros((3, OBS))
    at, near = (actor.log_prob(obs, jnp.full((3, ACT), a)) for a in (1.0, 0.999))
    np.testing.assert_allclose(at, near, rtol=1e-6)
    assert np.isfinite(at).all()


def test_log_prob_is_that_of_the_samples():
    actor = SquashedGaussianPolicy(OBS, ACT, (8,), KEY, -1.0)
    obs = jax.random.normal(KEY, (5, OBS))
    action, log_prob = actor.sample_n(obs, KEY, 4)
    inside = np.abs(action).max(-1) < 0.99
    again = actor.log_prob(jnp.repeat(obs[:, None], 4, 1), action)
    np.testing.assert_allclose(again[inside], log_prob[inside], rtol=1e-3, atol=1e-3)
    assert inside.sum() > 5
