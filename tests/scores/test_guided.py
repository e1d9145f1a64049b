"""The score by one guided sample."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scored import ACT, AGENT, BATCH, BEHAVIOUR, OBS, make_batch, make_support, q_value, scaled

from stratdiff.diffusion.energy import EnergyConfig, EnergyModel
from stratdiff.diffusion.sampler import dpm_solver
from stratdiff.diffusion.sde import VPSDE
from stratdiff.phases import StorePhase
from stratdiff.scores.guided import Guided, GuidedOptions, guided_alignment


def test_guided_alignment():
    # ‖a - â‖² / (2 · 0.1²): 0.25 / 0.02, then 0, then (0.02² + 0.01²) / 0.02.
    action = jnp.array([[0.3, 0.4], [0.5, -1.0], [0.1, 0.1]])
    sample = jnp.array([[0.0, 0.0], [0.5, -1.0], [0.12, 0.09]])
    found = guided_alignment(action, sample)
    np.testing.assert_allclose(found, [12.5, 0.0, 0.025], rtol=1e-4)


OPTIONS = GuidedOptions(
    guidance_scale=1.7,
    inverse_temperature=2.5,
    behaviour=BEHAVIOUR,
    energy=EnergyConfig(hidden=(8,)),
)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def guided():
    """(the score, a state whose weights and moving average are networks apart)."""
    score = Guided(OPTIONS, OBS, ACT)
    state = score.init(jax.random.split(KEY, 2))
    return score, eqx.tree_at(lambda s: s.behaviour.net, state, scaled(state.behaviour.net, 3.0))


def test_score_is_the_distance_from_a_guided_sample(guided):
    score, state = guided
    batch = make_batch(make_support())
    obs, action = batch.transitions.obs, batch.transitions.action
    sde = VPSDE()

    # ∇ log π_t = h_θ/σ + w ∇_a f, with the moving average of the weights.
    def guided_score(noisy, t):
        slope = jax.grad(lambda a: state.energy.net(obs, a, t).sum())(noisy)
        return state.behaviour.ema(noisy, t, obs) / sde.sigma(t) + 1.7 * slope

    key = jax.random.key(7)
    sample = jax.jit(lambda z: dpm_solver(guided_score, z, sde, 3))
    drawn = np.asarray(sample(jax.random.normal(key, action.shape)), np.float64)
    expected = np.square(np.asarray(action) - drawn).sum(-1) / 0.02
    found = eqx.filter_jit(score.score)(state, AGENT, batch, key)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1


def test_online_update_trains_the_energy_model_on_beta_q_and_nothing_else(guided):
    score, state = guided
    support = make_support()
    batch = make_batch(support)
    obs = batch.transitions.obs
    key = jax.random.key(8)
    new, metrics = eqx.filter_jit(score.update)(state, AGENT, batch, key)
    update = eqx.filter_jit(EnergyModel(OPTIONS.energy, OBS, ACT).update)
    expected, wanted = update(state.energy, obs, support, 2.5 * q_value(obs, support), key)
    # Not the last bias: the loss does not depend on it, so its gradient is rounding alone.
    nets = (
        eqx.tree_at(lambda n: n.mlp.layers[-1].bias, s.net, None) for s in (new.energy, expected)
    )
    for a, b in zip(*map(jax.tree.leaves, nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert metrics["energy_loss"] == pytest.approx(float(wanted["energy_loss"]))
    same = jax.tree.map(np.array_equal, new.behaviour, state.behaviour)
    assert jax.tree.all(same)
    assert score.frozen == ("behaviour",)


def test_phases(guided):
    score, _ = guided
    behaviour, support, energy = score.phases()
    assert [p.name for p in (behaviour, support, energy)] == ["behaviour", "support", "energy"]
    assert isinstance(support, StorePhase)
    assert (behaviour.steps, energy.steps) == (500_000, 100_000)
    assert (behaviour.after, support.after, energy.after) == (
        (),
        ("behaviour",),
        ("base", "support"),
    )
    assert not behaviour.acts and not energy.acts


def test_without_guidance_it_draws_from_the_behaviour_policy(guided):
    _, state = guided
    score = Guided(dataclasses.replace(OPTIONS, guidance_scale=0.0), OBS, ACT)
    assert [phase.name for phase in score.phases()] == ["behaviour"]
    assert score.init(jax.random.split(KEY, 2)).energy == ()
    batch, key = make_batch(()), jax.random.key(7)
    assert score.store(state, batch.transitions.obs, jax.random.split(KEY, BATCH)) == ()
    new, metrics = score.update(state, AGENT, batch, KEY)
    assert new is state and metrics == {}
    obs, action = batch.transitions.obs, batch.transitions.action
    sde = VPSDE()

    def plain(noisy, t):
        return state.behaviour.ema(noisy, t, obs) / sde.sigma(t)

    sample = jax.jit(lambda z: dpm_solver(plain, z, sde, 3))
    drawn = sample(jax.random.normal(key, action.shape))
    found = eqx.filter_jit(score.score)(state, AGENT, batch, key)
    np.testing.assert_allclose(found, guided_alignment(action, drawn), rtol=1e-4, atol=1e-4)
