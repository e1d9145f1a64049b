"""Both trained models on eight Gaussians whose mode weights are known.

The code that trains and samples is docs/figures/ring.py, which also draws the picture.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

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


@pytest.mark.slow
def test_ring():
    # A short training: the shares are right, the modes still blurred, 0.09 to 0.12 for 0.05.
    pool, guided = run(3000, 1500, (32, 32), 256)
    shares, offset = ring.nearest_mode(pool)
    # Training leaves up to 0.022; the standard error is 0.005.
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
