"""The behaviour model: its loss, its moving average, its support actions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from stratdiff.diffusion.behaviour import BehaviourConfig, BehaviourModel, denoising_error
from stratdiff.diffusion.sde import VPSDE


def test_denoising_error_on_numbers_worked_by_hand():
    # h = (1, 0) whatever it sees: (1 + 0.5)² + (0 - 2)² and (1 - 1)² + (0 + 3)².
    def constant(noisy, t):
        return jnp.broadcast_to(jnp.array([1.0, 0.0]), noisy.shape)

    noise = jnp.array([[0.5, -2.0], [-1.0, 3.0]])
    found = denoising_error(constant, jnp.zeros((2, 2)), jnp.full(2, 0.5), noise, VPSDE())
    np.testing.assert_array_equal(found, [6.25, 9.0])


def test_denoising_error_is_zero_for_the_true_noise():
    # One known action: a_t determines the noise, and h = -z is perfect. h = 0 costs ‖z‖².
    rng = np.random.default_rng(0)
    action, noise, t = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), rng.uniform(0.05, 1, 50)
    alpha = np.exp(-(20.0 - 0.1) * t**2 / 4 - 0.1 * t / 2)[:, None]
    action, noise, t = (jnp.asarray(x, jnp.float32) for x in (action, noise, t))

    def perfect(noisy, t):
        return -(noisy - alpha * action) / np.sqrt(1 - alpha**2)

    # Float32, divided by σ >= 0.15 and squared.
    np.testing.assert_allclose(denoising_error(perfect, action, t, noise, VPSDE()), 0, atol=1e-9)
    zero = denoising_error(lambda a, t: jnp.zeros_like(a), action, t, noise, VPSDE())
    np.testing.assert_allclose(zero, np.square(noise).sum(1), rtol=1e-6)


def test_update_moves_the_average_by_its_decay():
    model = BehaviourModel(BehaviourConfig(widths=(8, 4), ema=0.9, learning_rate=0.01), 2, 3)
    before = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    obs, action = (jnp.asarray(rng.normal(size=(16, n)), jnp.float32) for n in (2, 3))
    after, _ = eqx.filter_jit(model.update)(before, obs, action, jax.random.key(1))
    for old, new, average in zip(
        *(jax.tree.leaves(x) for x in (before.ema, after.net, after.ema)), strict=True
    ):
        expected = 0.9 * np.asarray(old, np.float64) + 0.1 * np.asarray(new, np.float64)
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    # The first Adam step is the learning rate in every weight that has a gradient.
    step = np.abs(after.net.out.weight - before.net.out.weight)
    np.testing.assert_allclose(step, 0.01, rtol=1e-3)


def test_support_rows_depend_on_their_own_key_and_state_only():
    config = BehaviourConfig(widths=(8, 4), support_actions=5, solver_steps=4)
    model = BehaviourModel(config, 2, 3)
    state = model.init(jax.random.key(0))
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 6)
    draw = eqx.filter_jit(model.support)
    support = np.asarray(draw(state, obs, keys))
    assert support.shape == (6, 5, 3)
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(draw(state, obs[order], keys[order]), support[order], atol=1e-5)
    # Another key or another state does change the row, and only that one.
    for changed in (
        draw(state, obs, keys.at[2].set(jax.random.key(9))),
        draw(state, obs.at[2].add(3.0), keys),
    ):
        moved = np.abs(np.asarray(changed) - support).max((1, 2)) > 1e-4
        np.testing.assert_array_equal(moved, np.arange(6) == 2)
