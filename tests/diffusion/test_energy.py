"""Contrastive energy prediction against hand-worked numbers and analytic intermediate energies."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from stratdiff.diffusion.energy import EnergyConfig, EnergyModel, EnergyNet, contrastive_loss
from stratdiff.diffusion.sde import VPSDE

SDE = VPSDE()
KEY = jax.random.key(0)
# Behaviour N(MEAN, VARIANCE) in one dimension.
MEAN, VARIANCE = 0.2, 0.09


def f32(x):
    return jnp.asarray(x, jnp.float32)


def posterior64(t):
    """Slope in a_t, offset and variance of a given a_t: N(slope a_t + offset, p)."""
    log_alpha = -(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2
    alpha, variance = np.exp(log_alpha), 1 - np.exp(2 * log_alpha)
    p = 1 / (1 / VARIANCE + alpha**2 / variance)
    return p * alpha / variance, p * MEAN / VARIANCE, p


def test_loss_on_numbers_worked_by_hand():
    # Weights 1/2, 1/4, 1/4; softmax of the energy 1/6, 1/3, 1/2.
    beta_q = f32(np.log([[2.0, 1.0, 1.0]]))
    energy = f32(np.log([[1.0, 2.0, 3.0]]))
    expected = np.log(6) / 2 + np.log(3) / 4 + np.log(2) / 4
    np.testing.assert_allclose(contrastive_loss(energy, beta_q), [expected], rtol=1e-6)
    # All equal: log M. Constants added to either change nothing.
    np.testing.assert_allclose(
        contrastive_loss(f32([5.0] * 4), f32([1.0] * 4)), np.log(4), rtol=1e-6
    )
    np.testing.assert_allclose(contrastive_loss(energy + 7, beta_q - 3), [expected], rtol=1e-6)


def test_loss_equals_numpy_and_survives_large_values():
    rng = np.random.default_rng(0)
    energy, beta_q = rng.normal(size=(2, 6, 3, 16)) * 4
    energy[0, 0], beta_q[0, 0] = 300 * rng.normal(size=16), 300 * rng.normal(size=16)
    energy, beta_q = np.float32(energy), np.float32(beta_q)
    expected = -(softmax(beta_q.astype(float), -1) * log_softmax(energy.astype(float), -1)).sum(-1)
    # float32 on values up to 1000.
    np.testing.assert_allclose(contrastive_loss(f32(energy), f32(beta_q)), expected, rtol=1e-5)


@pytest.mark.parametrize("t", [0.05, 0.2, 0.5])
@pytest.mark.parametrize(("linear", "curvature"), [(2.0, 0.0), (0.5, 12.0)])
def test_gradient_vanishes_at_the_analytic_intermediate_energy(t, linear, curvature):
    # β Q(a) = linear a - curvature a²/2 and a | a_t ~ N(m, p): up to a constant
    # log E[exp(β Q) | a_t] = (2 linear m - curvature m²) / (2 (1 + curvature p)).
    states, support = 4000, 256
    rng = np.random.default_rng(1)
    action = MEAN + VARIANCE**0.5 * rng.normal(size=(states, support, 1))
    noisy = SDE.perturb(f32(action), f32(t), f32(rng.normal(size=action.shape)))[..., 0]
    beta_q = f32((linear * action - curvature * action**2 / 2)[..., 0])
    slope, offset, p = posterior64(t)

    def energy(theta, x):
        # Scale and tilt of the analytic energy; (1, 0) is the true one.
        m = slope * x + offset
        exact = (2 * linear * m - curvature * m**2) / (2 * (1 + curvature * p))
        return theta[0] * exact + theta[1] * m

    def gradient(theta):
        def one(x, q):
            return jax.grad(lambda th: contrastive_loss(energy(th, x), q))(theta)

        return np.asarray(jax.jit(jax.vmap(one))(noisy, beta_q), np.float64)

    def sigmas(theta):
        g = gradient(f32(theta))
        return g.mean(0) / (g.std(0) / states**0.5)

    # 4 standard errors of independent states, which leaves room for the bias of order 1/256 that
    # comes from normalising over a finite support.
    assert np.abs(sigmas([1.0, 0.0])).max() < 4
    # No energy, a fifth too little and a tilt are told apart (10 to 580 standard errors).
    for wrong in ([0.0, 0.0], [0.8, 0.0], [1.0, 0.3]):
        assert np.abs(sigmas(wrong)).min() > 8


def test_energy_net_broadcasts_state_and_time():
    net = EnergyNet(5, 3, KEY, (32, 32))
    rng = np.random.default_rng(0)
    obs, noisy, t = (
        f32(rng.normal(size=(4, 1, 5))),
        f32(rng.normal(size=(4, 9, 3))),
        f32(rng.uniform(size=(4, 1))),
    )
    call = eqx.filter_jit(net)
    got = call(obs, noisy, t)
    assert got.shape == (4, 9)
    repeated = call(jnp.repeat(obs[:, 0], 9, 0), noisy.reshape(36, 3), jnp.repeat(t[:, 0], 9))
    # Values of order 0.1, float32 sums in another order.
    np.testing.assert_allclose(got, repeated.reshape(4, 9), atol=1e-6)


def test_energy_net_equals_numpy():
    net = EnergyNet(5, 3, KEY, (32, 16))
    rng = np.random.default_rng(0)
    obs, noisy, t = rng.normal(size=(20, 5)), rng.normal(size=(20, 3)), rng.uniform(size=20)
    obs, noisy, t = (np.float32(x).astype(np.float64) for x in (obs, noisy, t))

    def linear(layer, x):
        return x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)

    angle = 2 * np.pi * t[:, None] * np.asarray(net.time_features.frequencies, np.float64)
    time = linear(net.time_embedding, np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    x = np.concatenate([noisy, time, obs], axis=1)
    for layer in net.mlp.layers[:-1]:
        x = linear(layer, x)
        x = x / (1 + np.exp(-x))
    expected = linear(net.mlp.layers[-1], x)[:, 0]
    assert expected.std() > 0.01
    # Fourier angles lose 1e-5 in float32.
    got = eqx.filter_jit(net)(f32(obs), f32(noisy), f32(t))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_update_reports_loss_and_excess_over_the_entropy():
    model = EnergyModel(EnergyConfig(hidden=(16,)), 2, 1)
    rng = np.random.default_rng(0)
    obs, support, q = (
        rng.normal(size=(8, 2)),
        rng.uniform(-1, 1, (8, 4, 1)),
        rng.normal(size=(8, 4)),
    )
    update = eqx.filter_jit(model.update)
    _, metrics = update(model.init(KEY), f32(obs), f32(support), f32(2.5 * q), KEY)
    weights = softmax(2.5 * q, -1)
    entropy = -(weights * np.log(weights)).sum(-1).mean()
    got = metrics["energy_loss"] - metrics["energy_excess"]
    np.testing.assert_allclose(got, entropy, rtol=1e-5)
    assert metrics["energy_excess"] > 0


def test_trained_energy_approaches_the_analytic_one():
    # β Q(s, a) = 3 s a with s in [-1, 1]: the intermediate energy is 3 s m(a_t) + const.
    config = EnergyConfig(hidden=(32, 32), learning_rate=4e-3)
    model = EnergyModel(config, obs_dim=1, action_dim=1)
    rng = np.random.default_rng(0)

    def draw(states):
        obs = rng.uniform(-1, 1, (states, 1))
        action = MEAN + VARIANCE**0.5 * rng.normal(size=(states, 16, 1))
        return obs, action, 3 * obs * action[..., 0]

    def step(state, batch):
        state, metrics = model.update(state, *batch)
        return state, metrics["energy_excess"]

    n = 1500
    data = tuple(f32(x.reshape(n, 64, *x.shape[1:])) for x in draw(n * 64))
    keys = jax.random.split(KEY, n)
    state, excess = jax.jit(lambda s, d: jax.lax.scan(step, s, d))(model.init(KEY), (*data, keys))

    # Fresh data; losses by NumPy.
    obs, action, beta_q = draw(20_000)
    t = rng.uniform(1e-3, 1.0, (20_000, 1))
    noisy = SDE.perturb(f32(action), f32(t), f32(rng.normal(size=action.shape)))
    slope, offset, _ = posterior64(t)
    exact = 3 * obs * (slope * np.asarray(noisy[..., 0]) + offset)
    learned = np.asarray(eqx.filter_jit(state.net)(f32(obs)[:, None], noisy, f32(t)), np.float64)

    def loss(energy):
        return -(softmax(beta_q, -1) * log_softmax(energy, -1)).sum(-1).mean()

    # The analytic energy cannot be beaten; no energy costs 0.013 more, training leaves 3 % of it.
    best, none = loss(exact), np.log(16)
    assert none - best > 0.01
    assert -0.0002 < loss(learned) - best < 0.1 * (none - best)
    # The reported excess falls to the floor that the noise leaves (batch s.e. 0.0003 and 0.0011).
    floor = best - loss(beta_q)
    assert excess[:20].mean() > floor + 0.007
    np.testing.assert_allclose(excess[-300:].mean(), floor, atol=0.004)
    # Share of the analytic energy's variation within a state that is learned; at larger t hardly
    # any is left to learn.
    for low, high in ((0.0, 0.1), (0.1, 0.2), (0.2, 0.4)):
        rows = (t[:, 0] >= low) & (t[:, 0] < high)
        gap, scale = (x - x.mean(1, keepdims=True) for x in (learned - exact, exact))
        assert 1 - gap[rows].var() / scale[rows].var() > 0.85
