"""Critics and policies against NumPy in float64 and SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import f64, normal
from scipy import stats

from stratdiff import cpu
from stratdiff.agents.networks import CriticEnsemble, GaussianPolicy, SquashedGaussianPolicy
from stratdiff.nn import stack

KEY = jax.random.key(0)


def test_critics_broadcast_one_state_over_many_actions():
    critics = CriticEnsemble(4, 3, (32, 32), 5, KEY)
    obs, action = normal(1, 6, 1, 4), normal(2, 6, 7, 3)
    got = eqx.filter_jit(critics)(obs, action)
    assert got.shape == (5, 6, 7)
    joint = np.concatenate([np.broadcast_to(obs, (6, 7, 4)), action], axis=-1).astype(np.float64)
    for k in range(5):
        x = joint
        for layer in critics.members.layers[:-1]:
            x = np.maximum(x @ f64(layer.weight[k]) + f64(layer.bias[k]), 0)
        last = critics.members.layers[-1]
        expected = x @ f64(last.weight[k]) + f64(last.bias[k])
        # Values are of order 1e-2 (small last layer), float32.
        np.testing.assert_allclose(got[k], expected[..., 0], atol=1e-6)
    # Independent members: no two agree.
    assert np.abs(got[:, None] - got[None]).max(axis=(2, 3))[~np.eye(5, dtype=bool)].min() > 1e-3


def squashed_policy(action_dim):
    """A policy whose mean and standard deviation depend strongly on the state."""
    policy = SquashedGaussianPolicy(2, action_dim, (16,), KEY)
    return eqx.tree_at(lambda p: p.net.layers[-1].weight, policy, replace_fn=lambda w: 40 * w)


def squashed_log_density(policy, obs, action):
    """Change of variables a = tanh u in float64: log N(u) - Σ log(1 - a²)."""
    mean, log_std = np.split(f64(policy.net(obs)), 2, axis=-1)
    gaussian = stats.norm.logpdf(np.arctanh(action), mean[:, None], np.exp(log_std)[:, None])
    return (gaussian - np.log1p(-(action**2))).sum(-1)


def test_squashed_log_density_equals_change_of_variables():
    policy, obs = squashed_policy(3), normal(1, 50, 2)
    action, log_density = eqx.filter_jit(policy.sample_n)(obs, KEY, 20)
    assert action.shape == (50, 20, 3) and log_density.shape == (50, 20)
    action = f64(action)
    # Near ±1 the float32 action no longer determines u; most samples are away from there.
    inside = np.abs(action).max(-1) < 0.99
    assert inside.mean() > 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = squashed_log_density(policy, obs, action)
    # Within 0.99 one float32 ulp of the action moves u by 3e-6, and u/std by less than 1e-4.
    np.testing.assert_allclose(log_density[inside], expected[inside], atol=1e-3)


def test_squashed_density_integrates_to_one():
    policy, obs = squashed_policy(2), normal(1, 4, 2)
    action, log_density = eqx.filter_jit(policy.sample_n)(obs, KEY, 200_000)
    inside = (np.abs(action) < 0.8).all(-1)
    # E[1{a in box} / p(a)] is the volume of the box, 1.6², whatever the policy.
    terms = np.where(inside, np.exp(-f64(log_density)), 0.0)
    error = terms.std(1) / terms.shape[1] ** 0.5
    assert (error < 0.1).all()
    np.testing.assert_array_less(np.abs(terms.mean(1) - 1.6**2), 4 * error)


def test_squashed_log_density_is_finite_where_tanh_saturates():
    policy = SquashedGaussianPolicy(2, 1, (8,), KEY)
    last = policy.net.layers[-1]
    # Mean 30, standard deviation 1: tanh is 1 in float32, log(1 - a²) would be -inf.
    policy = eqx.tree_at(
        lambda p: (p.net.layers[-1].weight, p.net.layers[-1].bias),
        policy,
        (jnp.zeros_like(last.weight), jnp.array([30.0, 0.0])),
    )
    action, log_density = eqx.filter_jit(policy.sample_n)(normal(1, 1, 2), KEY, 10_000)
    assert (np.abs(action) <= 1).all()
    # log p = log N(u) + 2u - 2 log 2 for large u, of mean -½ log 2πe + 60 - 2 log 2.
    expected = -0.5 * np.log(2 * np.pi * np.e) + 60 - 2 * np.log(2)
    # Its spread is about 2.1: 0.1 is over four standard errors of 10 000.
    np.testing.assert_allclose(f64(log_density).mean(), expected, atol=0.1)


def test_squashed_sample_and_mode_follow_the_gaussian():
    policy, obs = squashed_policy(2), normal(1, 3, 2)
    mean, log_std = np.split(f64(policy.net(obs)), 2, axis=-1)
    np.testing.assert_allclose(policy.mode(obs), np.tanh(mean), atol=1e-6)
    many = jnp.repeat(obs, 20_000, axis=0)
    action = f64(eqx.filter_jit(policy.sample)(many, KEY)).reshape(3, 20_000, 2)
    # The median passes through tanh; 0.05 std of u is over 5 standard errors of a median.
    expected = np.tanh(mean), np.tanh(mean + 0.05 * np.exp(log_std)) - np.tanh(mean)
    assert (np.abs(np.median(action, axis=1) - expected[0]) < expected[1] + 1e-3).all()


def gaussian_policy(log_std):
    policy = GaussianPolicy(3, 2, (16,), KEY)
    weight = 30 * policy.net.layers[-1].weight
    return eqx.tree_at(
        lambda p: (p.log_std, p.net.layers[-1].weight), policy, (jnp.array(log_std), weight)
    )


# The last case lies beyond the limits [-5, 2] of the log standard deviation.
@pytest.mark.parametrize(
    ("log_std", "used"), [([-0.7, 0.4], [-0.7, 0.4]), ([0.0, 0.0], [0, 0]), ([-9.0, 3.0], [-5, 2])]
)
def test_gaussian_log_density_equals_scipy(log_std, used):
    policy, obs = gaussian_policy(log_std), normal(1, 40, 3)
    mean = np.tanh(f64(policy.net(obs)))
    action = jnp.asarray(mean + np.exp(used) * np.asarray(normal(2, 40, 2)), jnp.float32)
    expected = stats.norm.logpdf(f64(action), mean, np.exp(np.array(used, float))).sum(-1)
    # At log std -5 float32 actions are rounded by 1e-5 standard deviations.
    found = eqx.filter_jit(policy.log_prob)(obs, action)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_gaussian_samples_have_the_mean_and_spread_and_are_cut():
    policy, obs = gaussian_policy([-9.0, 0.0]), normal(1, 5, 3)
    mean = f64(policy.mode(obs))
    np.testing.assert_allclose(mean, np.tanh(f64(policy.net(obs))), atol=1e-6)
    action = f64(eqx.filter_jit(policy.sample_n)(obs, KEY, 20_000))
    assert np.abs(action).max() == 1.0
    uncut = np.abs(mean[:, 0]) < 0.8  # the first dimension is narrow
    assert uncut.sum() >= 2
    # Log std -9 counts as -5. Standard errors: 0.0067/√20000 = 5e-5, and 0.5 % of the spread.
    np.testing.assert_allclose(action[uncut, :, 0].mean(1), mean[uncut, 0], atol=3e-4)
    np.testing.assert_allclose(action[uncut, :, 0].std(1), np.exp(-5.0), rtol=0.03)
    # The wide dimension piles up at the edges with the Gaussian's tail mass (s.e. 0.0035).
    share = (action[:, :, 1] == 1.0).mean(1)
    np.testing.assert_allclose(share, stats.norm.sf(1 - mean[:, 1]), atol=0.015)


@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_q_of_several_actions_keeps_their_differences(layer_norm, low, monkeypatch):
    """Far from 0 too, where all of Q in bfloat16 would lose them."""
    monkeypatch.setattr(cpu, "low_precision", lambda: low)
    critic = CriticEnsemble(5, 2, (64, 64, 64), 2, jax.random.key(1), layer_norm)
    last = critic.members.layers[-1]
    critic = eqx.tree_at(
        lambda c: (c.members.layers[-1].weight, c.members.layers[-1].bias),
        critic,
        (last.weight * 1000, last.bias + 1000),
    )
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(20, 5)), jnp.float32)
    actions = jnp.asarray(rng.uniform(-1, 1, (20, 16, 2)), jnp.float32)
    exact = np.asarray(eqx.filter_jit(critic)(obs[:, None], actions))
    found = np.asarray(eqx.filter_jit(critic.for_actions)(obs, actions))
    assert found.shape == exact.shape
    spread = exact.std(axis=-1).mean()
    assert spread > 0.1
    assert np.sqrt(np.square(found - exact).mean()) < 0.01 * spread
    assert np.abs(found - exact).max() < 0.05 * spread
    whole = exact.astype(jnp.bfloat16).astype(np.float32)
    assert np.abs(whole - exact).max() > 0.5 * spread


def test_q_of_several_actions_in_blocks_and_seeds_in_turn_is_the_plain_form():
    """150 states are two blocks and a rest; each of three seeds has critics of its own."""
    critics = [
        CriticEnsemble(5, 2, (16, 16), 2, key) for key in jax.random.split(jax.random.key(2), 3)
    ]
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(3, 150, 5)), jnp.float32)
    actions = jnp.asarray(rng.uniform(-1, 1, (3, 150, 4, 2)), jnp.float32)
    found = jax.jit(jax.vmap(lambda c, o, a: c.for_actions(o, a)))(stack(critics), obs, actions)
    plain = jax.jit(
        lambda members, o, a: jax.vmap(lambda member: member.with_shared_input(o, a)[..., 0])(
            members
        )
    )
    for critic, o, a, q in zip(critics, obs, actions, found, strict=True):
        np.testing.assert_allclose(q, plain(critic.members, o, a), rtol=1e-4, atol=1e-6)
