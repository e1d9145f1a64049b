"""Both trained models on eight Gaussians whose mode weights are known, and the behaviour model.

The code that trains and samples is docs/figures/ring.py, which also draws the picture.
"""

import importlib.util
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.diffusion.score import BehaviourConfig, BehaviourModel, denoising_error
from stratdiff.diffusion.sde import VPSDE

_path = Path(__file__).parents[2] / "docs" / "figures" / "ring.py"
_spec = importlib.util.spec_from_file_location("ring", _path)
ring = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ring)

# The spread of one mode at t_min = 1e-3, where σ² = 1.1e-4.
SPREAD = np.sqrt(ring.STD**2 + 1.1e-4)


def run(behaviour_updates, energy_updates, hidden, states, seed=0):
    """Unguided actions, 16 per state, and 8 guided ones."""
    keys = jax.random.split(jax.random.key(seed), 4)
    behaviour = ring.train_behaviour(keys[0], behaviour_updates)
    pool = ring.support(behaviour, keys[1], states)
    energy = ring.train_energy(keys[2], pool, energy_updates, hidden)
    guided = ring.sample_guided(behaviour, energy, keys[3], 8 * states)
    return np.asarray(pool, np.float64).reshape(-1, 2), np.asarray(guided, np.float64)


def test_guided_weights_by_sampling_the_definition():
    # Reweight samples of the ring by exp(β Q): the closed form in ring.py is the target of below.
    actions = np.asarray(ring.draw(jax.random.key(1), 200_000), np.float64)
    mode = np.square(actions[:, None] - ring.CENTRES).sum(-1).argmin(1)
    weight = np.exp(ring.BETA * actions[:, 0])
    shares = np.bincount(mode, weight) / weight.sum()
    # 200 000 samples: standard errors below 0.0015.
    np.testing.assert_allclose(ring.guided_weights(), shares, atol=0.006)


def test_ring():
    # A short training: the shares are right, the modes still blurred, 0.09 to 0.12 for 0.05.
    pool, guided = run(4000, 3000, (32, 32), 512)
    shares, offset = ring.nearest_mode(pool)
    # Training leaves up to 0.022; the standard error is 0.004.
    np.testing.assert_allclose(shares, 1 / 8, atol=0.03)
    # Noise spread evenly over the square would give 0.23.
    assert 0.9 * SPREAD < offset.std() < 0.15
    np.testing.assert_allclose(offset.mean(0), 0.0, atol=0.01)
    shares, offset = ring.nearest_mode(guided)
    # The largest share is 0.276; without guidance it would be 0.15 off.
    np.testing.assert_allclose(shares, ring.guided_weights(), atol=0.06)
    assert offset.std() < 0.15


@pytest.mark.slow
def test_ring_after_longer_training():
    pool, guided = run(12_000, 20_000, (64, 64, 64), 1024)
    shares, offset = ring.nearest_mode(pool)
    np.testing.assert_allclose(shares, 1 / 8, atol=0.02)
    # Training leaves 3 %.
    np.testing.assert_allclose(offset.std(), SPREAD, rtol=0.12)
    np.testing.assert_allclose(offset.mean(0), 0.0, atol=0.006)
    shares, offset = ring.nearest_mode(guided)
    # Training leaves 0.027 in the largest share, 0.276.
    np.testing.assert_allclose(shares, ring.guided_weights(), atol=0.045)
    np.testing.assert_allclose(offset.std(), SPREAD, rtol=0.12)
    # Against the behaviour model's own samples, reweighted, the energy model is alone to blame.
    weight = np.exp(ring.BETA * pool[:, 0])
    mode = np.square(pool[:, None] - ring.CENTRES).sum(-1).argmin(1)
    own = np.bincount(mode, weight) / weight.sum()
    np.testing.assert_allclose(shares, own, atol=0.04)


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
