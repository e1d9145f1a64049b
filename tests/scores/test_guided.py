"""The score by one guided sample."""

import dataclasses
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scored import ACT, AGENT, BATCH, BEHAVIOUR, OBS, make_batch, make_support, q_value, scaled

from stratdiff.diffusion.behaviour import BehaviourModel
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
EXACT = Guided(dataclasses.replace(OPTIONS, guidance="exact"), OBS, ACT)
SDE = VPSDE()


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

    # ∇ log π_t = h_θ/σ + w ∇_a f, with the moving average of the weights.
    def guided_score(noisy, t):
        slope = jax.grad(lambda a: state.energy.net(obs, a, t).sum())(noisy)
        return state.behaviour.ema(noisy, t, obs) / SDE.sigma(t) + 1.7 * slope

    key = jax.random.key(7)
    sample = jax.jit(lambda z: dpm_solver(guided_score, z, SDE, 3))
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
    assert (behaviour.steps, energy.steps) == (600_000, 100_000)
    assert (behaviour.after, support.after, energy.after) == (
        (),
        ("behaviour",),
        ("base", "support"),
    )
    assert not behaviour.acts and not energy.acts
    assert "guidance" in energy.reads and "guidance_scale" not in energy.reads
    assert "guidance_scale" in EXACT.phases()[2].reads


def test_exact_guidance_trains_on_w_beta_q(guided, monkeypatch):
    _, state = guided
    support, learned = make_support(), []

    def update(self, state, obs, support, beta_q, key):
        learned.append(beta_q)
        return state, {}

    monkeypatch.setattr(EnergyModel, "update", update)
    batch = make_batch(support)
    EXACT.update(state, AGENT, batch, KEY)
    expected = 1.7 * 2.5 * q_value(batch.transitions.obs, support)
    np.testing.assert_allclose(learned[0], expected, rtol=1e-6)


class Energy(eqx.Module):
    """Log E[exp(slope a - curvature a²/2) | a_t] up to a constant: given a_t, a is N(m, p)."""

    variance: float
    slope: float
    curvature: float

    def __call__(self, obs, noisy, t):
        marginal = SDE.alpha(t) ** 2 * self.variance + SDE.sigma(t) ** 2
        p = self.variance * SDE.sigma(t) ** 2 / marginal
        m = (self.variance * SDE.alpha(t) / marginal * noisy)[..., 0]
        return (2 * self.slope * m - self.curvature * m**2) / (2 * (1 + self.curvature * p))


@pytest.mark.parametrize(
    ("guidance", "slope", "curvature", "hits"),
    [
        ("scaled", 0.4, 0.0, True),
        ("exact", 0.4, 0.0, True),
        ("scaled", 0.0, 12.0, False),
        ("exact", 0.0, 12.0, True),
    ],
)
def test_exact_guidance_hits_the_gaussian_target(monkeypatch, guidance, slope, curvature, hits):
    # Q(a) = slope a - curvature a²/2 and μ = N(0, v): π_0 has precision 1/v + w β curvature.
    variance, w, beta, rows = 0.04, 3.0, 2.5, 20_000
    behaviour = dataclasses.replace(BEHAVIOUR, solver_steps=40)
    options = dataclasses.replace(OPTIONS, guidance=guidance, guidance_scale=w, behaviour=behaviour)
    score = Guided(options, 1, 1)
    # The energy model's optimum for what it is trained on: β Q, or w β Q.
    learned = beta * w if guidance == "exact" else beta
    net = Energy(variance, learned * slope, learned * curvature)
    models = eqx.tree_at(lambda m: m.energy.net, score.init(jax.random.split(KEY, 2)), net)

    def plain(noisy, t):
        return -noisy / (SDE.alpha(t) ** 2 * variance + SDE.sigma(t) ** 2)

    monkeypatch.setattr(BehaviourModel, "score", lambda self, net, obs: plain)
    zeros = jnp.zeros((rows, 1))
    batch = make_batch(())._replace(transitions=types.SimpleNamespace(obs=zeros, action=zeros))
    found = score.score(models, AGENT, batch, jax.random.key(0))
    target = 1 / (1 / variance + w * beta * curvature)
    # The score of the action 0 is â²/0.02; the spread of a mean of squares is 1 %.
    expected = (w * beta * slope * target) ** 2 + target
    ratio = float(np.mean(np.asarray(found, np.float64)) * 0.02 / expected)
    assert (abs(ratio - 1) < 0.04) == hits, ratio


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

    def plain(noisy, t):
        return state.behaviour.ema(noisy, t, obs) / SDE.sigma(t)

    sample = jax.jit(lambda z: dpm_solver(plain, z, SDE, 3))
    drawn = sample(jax.random.normal(key, action.shape))
    found = eqx.filter_jit(score.score)(state, AGENT, batch, key)
    np.testing.assert_allclose(found, guided_alignment(action, drawn), rtol=1e-4, atol=1e-4)
