"""SAC and its RLPD variant against their formulas in plain NumPy, gradients by differences."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
    FAST,
    adam,
    assert_trees_close,
    critics,
    finite_differences,
    mlp,
    to_numpy,
    with_moments,
)

from stratdiff.agents import Agent
from stratdiff.agents.sac import SAC, SACConfig, SACState
from stratdiff.data.batch import Transition

OBS, ACT, BATCH = 3, 2, 6
CONFIG = SACConfig(
    learning_rate=0.05, actor_hidden=(5,), critic_hidden=(6,), discount=0.9, polyak=0.2
)
RLPD = {"critics": 4, "target_critics": 2, "layer_norm": True}
KEY = jax.random.key(3)


def squashed(actor, obs, key):
    """(actions, log-densities) of the tanh-Gaussian, one per state, by change of variables."""
    noise = np.array(jax.random.normal(key, (len(obs), 1, ACT)), np.float64)[:, 0]
    mean, log_std = np.split(mlp(actor.net, obs), 2, axis=-1)
    std = np.exp(np.clip(log_std, -20, 2))
    action = np.tanh(mean + std * noise)
    density = np.exp(-0.5 * noise**2) / (std * np.sqrt(2 * np.pi)) / (1 - action**2)
    return action, np.log(density).sum(-1)


def make_agent(**changes):
    return SAC(dataclasses.replace(CONFIG, **changes), OBS, ACT)


def make_state(agent):
    """A state whose weights are all of order one and whose target critics are networks apart."""
    rng = np.random.default_rng(1)
    template = agent.init(KEY)

    def draw(name):
        net = getattr(template, name)
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.6, x.shape), x.dtype), net)

    nets = map(draw, ("actor", "critic", "target_critic"))
    opts = (template.actor_opt, template.critic_opt, template.temperature_opt)
    return SACState(*nets, jnp.array(-0.7), *map(with_moments, opts))


def make_batch():
    rng = np.random.default_rng(2)
    return Transition(
        obs=jnp.asarray(rng.normal(size=(BATCH, OBS)), jnp.float32),
        action=jnp.asarray(rng.uniform(-1, 1, (BATCH, ACT)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=BATCH), jnp.float32),
        next_obs=jnp.asarray(rng.normal(size=(BATCH, OBS)), jnp.float32),
        terminal=jnp.asarray([False, True, False, False, True, False]),
        mc_return=jnp.full(BATCH, -jnp.inf),
    )


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=FAST)
def update(agent, state, batch, key, k):
    return agent.update(state, batch, key, k)


def target_of(state, batch, key, members):
    """y with the minimum over these target critics and the entropy term, in float64."""
    s, b = to_numpy(state), to_numpy(batch)
    action, log_prob = squashed(s.actor, b.next_obs, jax.random.split(key, 3)[0])
    q = critics(s.target_critic, b.next_obs, action)[list(members)].min(0)
    return b.reward + 0.9 * (1 - b.terminal) * (q - np.exp(s.log_temperature) * log_prob)


def expected_update(state, batch, target):
    """(metrics, new state's parts) of SAC (two critics) or RLPD (more), in float64."""
    s, b = to_numpy(state), to_numpy(batch)
    n = len(s.critic.members.layers[0].weight)

    def critic_loss(critic):
        return np.mean(sum((q - target) ** 2 for q in critics(critic, b.obs, b.action)))

    critic = adam(s.critic, finite_differences(critic_loss, s.critic), 0.05)
    actor_key = jax.random.split(KEY, 3)[2]
    temperature = np.exp(s.log_temperature)

    def actor_loss(actor):
        action, log_prob = squashed(actor, b.obs, actor_key)
        q = critics(critic, b.obs, action)
        return np.mean(temperature * log_prob - (q.min(0) if n == 2 else q.mean(0)))

    log_prob = squashed(s.actor, b.obs, actor_key)[1].mean()
    metrics = {
        "critic_loss": critic_loss(s.critic),
        "actor_loss": actor_loss(s.actor),
        "q_mean": critics(s.critic, b.obs, b.action).mean(),
        "td_target_mean": target.mean(),
        "entropy": -log_prob,
        "entropy_temperature": temperature,
    }
    return metrics, {
        "critic": critic,
        "actor": adam(s.actor, finite_differences(actor_loss, s.actor), 0.05),
        "target_critic": jax.tree.map(lambda t, w: 0.8 * t + 0.2 * w, s.target_critic, critic),
        # d/dx of -x (log π + target entropy), target entropy -A.
        "log_temperature": adam(s.log_temperature, -(log_prob - ACT), 0.05),
    }


@pytest.mark.parametrize("changes", [{}, RLPD], ids=["sac", "rlpd"])
def test_update_equals_numpy(changes):
    agent = make_agent(**changes)
    state, batch = make_state(agent), make_batch()
    new, metrics = update(agent, state, batch, KEY, BATCH)
    # Which target critics were drawn is found from the mean of the target.
    pairs = list(itertools.combinations(range(agent.config.critics), 2))
    targets = [target_of(state, batch, KEY, pair) for pair in pairs]
    target = min(targets, key=lambda t: abs(t.mean() - metrics["td_target_mean"]))
    expected, parts = expected_update(state, batch, target)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    for name, value in parts.items():
        assert_trees_close(getattr(new, name), value, atol=3e-6, err_msg=name)
        # What is compared did move, by far more than the tolerance.
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), value, getattr(state, name))
        assert max(jax.tree.leaves(moved)) > 1e-3


def test_target_is_the_minimum_over_a_random_pair_of_critics():
    agent = make_agent(**RLPD)
    state, batch = make_state(agent), make_batch()
    pairs = list(itertools.combinations(range(4), 2))
    drawn = set()
    for seed in range(30):
        key = jax.random.key(seed)
        found = float(update(agent, state, batch, key, BATCH)[1]["td_target_mean"])
        means = np.array([target_of(state, batch, key, pair).mean() for pair in pairs])
        close = np.flatnonzero(np.abs(means - found) < 2e-5 * np.abs(found))
        assert len(close) >= 1
        # Pairs cannot be told apart where they share the lowest critic of every row.
        if len(close) == 1:
            drawn.add(pairs[close[0]])
    assert len(drawn) >= 4
    assert set(itertools.chain(*drawn)) == {0, 1, 2, 3}


def test_no_sample_is_conservative():
    agent = make_agent()
    state, batch = make_state(agent), make_batch()
    # The same program whatever the count, so the same results.
    programs = [
        str(jax.make_jaxpr(lambda s, b, k=k: agent.update(s, b, KEY, k))(state, batch))
        for k in (0, 3, BATCH)
    ]
    assert programs[0] == programs[1] == programs[2]


def test_terminal_rows_do_not_see_the_next_state():
    agent = make_agent()
    state, batch = make_state(agent), make_batch()
    before = update(agent, state, batch, KEY, BATCH)[1]["critic_loss"]
    for row, terminal in enumerate([False, True, False, False, True, False]):
        moved = np.array(batch.next_obs)
        moved[row] += 0.5
        other = batch._replace(next_obs=jnp.asarray(moved))
        assert (update(agent, state, other, KEY, BATCH)[1]["critic_loss"] == before) == terminal


def test_agent_protocol_and_q():
    agent, batch = make_agent(**RLPD), make_batch()
    state = make_state(agent)
    assert isinstance(agent, Agent)
    assert (agent.obs_dim, agent.action_dim) == (OBS, ACT)
    expected = critics(to_numpy(state.target_critic), batch.obs, batch.action)
    assert len(expected) == 4
    found = jax.jit(agent.q, compiler_options=FAST)(state, batch.obs, batch.action)
    np.testing.assert_allclose(found, expected.min(0), rtol=2e-5)


def test_init_builds_the_ensemble_asked_for():
    plain = make_agent().init(KEY)
    assert plain.critic.members.layers[0].weight.shape == (2, OBS + ACT, 6)
    assert plain.critic.members.norms == []
    state = make_agent(**RLPD).init(KEY)
    assert_trees_close(state.target_critic, state.critic, rtol=0)
    weight = np.asarray(state.critic.members.layers[0].weight)
    assert weight.shape == (4, OBS + ACT, 6)
    for a, b in itertools.combinations(weight, 2):
        assert np.abs(a - b).max() > 0.01
    assert [norm.scale.shape for norm in state.critic.members.norms] == [(4, 6)]
    # Only the critics are normalised.
    assert state.actor.net.norms == []
