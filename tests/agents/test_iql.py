"""IQL against its formulas in plain NumPy, gradients by finite differences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
    COUNT,
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
from stratdiff.agents.iql import (
    IQL,
    IQLConfig,
    IQLState,
    advantage_weight,
    expectile_loss,
    max_q_actor_loss,
    max_q_value,
    regression_loss,
)
from stratdiff.data.batch import Transition

OBS, ACT, BATCH = 3, 2, 6
CONFIG = IQLConfig(
    learning_rate=0.05,
    actor_hidden=(5,),
    critic_hidden=(6,),
    discount=0.9,
    polyak=0.2,
    expectile=0.7,
    online_expectile=0.95,
    inverse_temperature=2.0,
    online_target="max-q",
    max_target_actions=4,
)
KEY = jax.random.key(11)


def make_state(agent):
    """A state whose weights are all of order one and whose target critics are networks apart."""
    rng = np.random.default_rng(22)  # advantages of both signs, one weight above 100
    template = agent.init(KEY)

    def draw(name):
        net = getattr(template, name)
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.6, x.shape), x.dtype), net)

    nets = map(draw, ("actor", "value", "critic", "target_critic"))
    opts = (template.actor_opt, template.value_opt, template.critic_opt)
    return IQLState(*nets, *map(with_moments, opts))


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


AGENT = IQL(CONFIG, OBS, ACT)


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=FAST)
def update(agent, state, batch, key, k):
    return agent.update(state, batch, key, k)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def dynamic_update(agent, state, batch, key, k):
    return agent.update(state, batch, key, k)


def expected_update(state, batch, k, noise, c=CONFIG):
    """(metrics, new networks) by docs/method.md, section 6, and the IQL paper, in float64.

    `noise` [B - k, N, A] is what the candidates of the online-like rows are drawn with.
    """
    s, b = to_numpy(state), to_numpy(batch)
    q = critics(s.target_critic, b.obs, b.action).min(0)
    tau = np.array([0.7] * k + [c.online_expectile or 0.7] * (BATCH - k))

    def value_loss(value):
        u = q - mlp(value, b.obs)[:, 0]
        return np.mean(np.where(u < 0, 1 - tau, tau) * u**2)

    metrics = {"value_loss": value_loss(s.value)}
    value = adam(s.value, finite_differences(value_loss, s.value), c.learning_rate)
    v = mlp(value, b.obs)[:, 0]
    weight = np.minimum(np.exp(2.0 * (q - v)), 100)

    def actor_loss(actor):
        std = np.exp(np.clip(actor.log_std, -5, 2))
        z = (b.action - np.tanh(mlp(actor.net, b.obs))) / std
        losses = -weight * np.sum(-0.5 * z**2 - np.log(std * np.sqrt(2 * np.pi)), -1)
        if c.online_actor == "max-q":
            greedy = np.tanh(mlp(actor.net, b.obs[k:]))
            value = critics(s.target_critic, b.obs[k:], greedy).min(0)
            losses[k:] = -value / np.abs(q).mean()
        return np.mean(losses)

    metrics["actor_loss"] = actor_loss(s.actor)
    actor = adam(s.actor, finite_differences(actor_loss, s.actor), c.learning_rate)

    # V(s') of the new value network on conservative rows, the best of N actions on the others.
    next_value = mlp(value, b.next_obs)[:, 0]
    mean = np.tanh(mlp(s.actor.net, b.next_obs[k:]))[:, None]
    action = np.clip(mean + np.exp(s.actor.log_std) * noise, -1, 1)
    for i in range(BATCH - k if c.online_target != "value" else 0):
        candidates = [critics(s.target_critic, b.next_obs[k + i], a).min() for a in action[i]]
        next_value[k + i] = max(candidates)
    target = b.reward + 0.9 * np.where(b.terminal, 0, next_value)

    def critic_loss(critic):
        first, second = critics(critic, b.obs, b.action)
        return np.mean((first - target) ** 2 + (second - target) ** 2)

    metrics["critic_loss"] = critic_loss(s.critic)
    metrics["q_mean"] = critics(s.critic, b.obs, b.action).mean()
    metrics["v_mean"] = v.mean()
    metrics["td_target_mean"] = target.mean()
    metrics["advantage_weight_mean"] = weight.mean()
    metrics["actor_std"] = np.exp(actor.log_std).mean()
    critic = adam(s.critic, finite_differences(critic_loss, s.critic), c.learning_rate)
    target_critic = jax.tree.map(lambda t, w: 0.8 * t + 0.2 * w, s.target_critic, critic)
    return metrics, {
        "value": value,
        "actor": actor,
        "critic": critic,
        "target_critic": target_critic,
    }


def normal(rows, n=4):
    return np.array(jax.random.normal(KEY, (rows, n, ACT)), np.float64)


def check_update(state, found, expected):
    """The update's metrics and networks against those by NumPy."""
    (new, metrics), (numbers, networks) = found, expected
    assert metrics.keys() == numbers.keys()
    for name, value in numbers.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    for name, value in networks.items():
        assert_trees_close(getattr(new, name), value, atol=3e-6, err_msg=name)
        # What is compared did move, by far more than the tolerance.
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), value, getattr(state, name))
        assert max(jax.tree.leaves(moved)) > 1e-3
    for opt in (new.actor_opt, new.value_opt, new.critic_opt):
        assert opt[0].count == COUNT + 1


@pytest.mark.parametrize("k", [0, 2, BATCH])
def test_update_equals_numpy(k):
    state, batch = make_state(AGENT), make_batch()
    expected = expected_update(state, batch, k, normal(BATCH - k))
    check_update(state, update(AGENT, state, batch, KEY, k), expected)


@pytest.mark.parametrize("k", [0, 2, BATCH])
def test_a_number_of_conservative_rows_that_depends_on_the_data(k):
    state, batch = make_state(AGENT), make_batch()
    found = dynamic_update(AGENT, state, batch, KEY, jnp.asarray(k))
    # Here candidates are drawn for all rows, and those of conservative rows are not looked at.
    check_update(state, found, expected_update(state, batch, k, normal(BATCH)[k:]))
    # Where no value lies beyond, the candidates play no part.
    ended = batch._replace(terminal=jnp.ones(BATCH, bool))
    dynamic = dynamic_update(AGENT, state, ended, KEY, jnp.asarray(k))
    assert_trees_close(dynamic, update(AGENT, state, ended, KEY, k), rtol=1e-6, atol=1e-7)
    if k in (0, BATCH):
        static = update(AGENT, state, batch, KEY, k)
        assert_trees_close(found, static, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"online_target": "policy", "online_expectile": None},
        {"online_target": "value", "online_actor": "max-q"},
    ],
    ids=["policy", "value-max-q-actor"],
)
def test_other_losses_of_online_like_rows(changes):
    c = dataclasses.replace(CONFIG, **changes)
    agent, state, batch = IQL(c, OBS, ACT), make_state(AGENT), make_batch()
    check_update(
        state,
        update(agent, state, batch, KEY, 2),
        expected_update(state, batch, 2, normal(BATCH - 2, 1), c),
    )
    check_update(
        state,
        dynamic_update(agent, state, batch, KEY, jnp.asarray(2)),
        expected_update(state, batch, 2, normal(BATCH, 1)[2:], c),
    )


def test_what_a_run_gets_that_says_nothing():
    # docs/method.md, section 6: the TD target of one policy action, the offline expectile.
    c = IQLConfig()
    assert (c.online_target, c.online_expectile, c.online_actor) == ("policy", None, "regression")
    # The authors' fine-tuning: a constant rate, gain √2 in every layer.
    state = IQL(c, OBS, ACT, offline_steps=8).init(KEY)
    for net in (state.actor.net, state.value):
        last = np.asarray(net.layers[-1].weight, np.float64)
        np.testing.assert_allclose(last.T @ last, 2 * np.eye(last.shape[1]), atol=1e-5)
    # No schedule: the optimiser's state counts no steps of one.
    assert jax.tree.structure(state.actor_opt[1:]) == jax.tree.structure(state.value_opt[1:])


def test_agent_protocol_and_q():
    state, batch = to_numpy(make_state(AGENT)), make_batch()
    assert isinstance(AGENT, Agent)
    assert (AGENT.obs_dim, AGENT.action_dim) == (OBS, ACT)
    expected = np.minimum(*critics(state.target_critic, to_numpy(batch.obs), batch.action))
    q = jax.jit(AGENT.q, compiler_options=FAST)
    found = q(make_state(AGENT), batch.obs, batch.action)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # One state, several actions.
    found = q(make_state(AGENT), batch.obs[:1], batch.action)
    expected = critics(state.target_critic, np.repeat(batch.obs[:1], BATCH, 0), batch.action)
    np.testing.assert_allclose(found, expected.min(0), rtol=1e-5)


def test_init_copies_the_critics_to_the_targets():
    state = AGENT.init(KEY)
    assert_trees_close(state.target_critic, state.critic, rtol=0)
    first, second = state.critic.members.layers[0].weight
    assert np.abs(first - second).max() > 0.01
    assert state.critic.members.layers[0].weight.shape == (2, OBS + ACT, 6)
    assert state.actor.net.layers[1].weight.shape == (5, ACT)
    assert state.value.layers[1].weight.shape == (6, 1)


def test_the_stratum_of_a_row_is_its_position():
    # From k = 0 to 2 to 6 rows change from L2^0.95 to L2^0.7.
    state, batch = make_state(AGENT), make_batch()
    losses = [float(update(AGENT, state, batch, KEY, k)[1]["value_loss"]) for k in (0, 2, BATCH)]
    s, b = to_numpy(state), to_numpy(batch)
    u = critics(s.target_critic, b.obs, b.action).min(0) - mlp(s.value, b.obs)[:, 0]
    assert (u < 0).any() and (u > 0).any()
    change = np.where(u < 0, 0.3 - 0.05, 0.7 - 0.95) * u**2 / BATCH
    np.testing.assert_allclose(np.diff(losses), [change[:2].sum(), change[2:].sum()], atol=2e-6)


def test_terminal_rows_do_not_see_the_next_state():
    state, batch = make_state(AGENT), make_batch()
    before = update(AGENT, state, batch, KEY, 2)[1]["critic_loss"]
    for row, terminal in enumerate([False, True, False, False, True, False]):
        moved = np.array(batch.next_obs)
        moved[row] += 0.5
        other = batch._replace(next_obs=jnp.asarray(moved))
        after = update(AGENT, state, other, KEY, 2)[1]["critic_loss"]
        assert (after == before) == terminal


def test_actor_rate_follows_a_cosine_then_is_full_again():
    agent = IQL(dataclasses.replace(CONFIG, actor_schedule="cosine"), OBS, ACT, offline_steps=8)
    batch, template = make_batch(), make_state(AGENT)
    steps = {}
    for done in (0, 2, 4, 7, 8, 13):
        # No moments yet: Adam's first step moves every weight by the rate.
        old = dataclasses.replace(
            agent.init(KEY), actor=template.actor, value=template.value, critic=template.critic
        )
        moments, schedule = old.actor_opt
        schedule = schedule._replace(count=jnp.asarray(done, jnp.int32))
        old = dataclasses.replace(old, actor_opt=(moments, schedule))
        new, _ = update(agent, old, batch, KEY, BATCH)
        assert new.actor_opt[1].count == done + 1
        steps[done] = float(np.abs(new.actor.log_std - old.actor.log_std).max())
        for net in ("value", "critic"):
            a, b = (np.asarray(jax.tree.leaves(getattr(s, net))[-1]) for s in (new, old))
            assert np.abs(a - b).max() == pytest.approx(0.05, rel=1e-4)
    half = np.sqrt(0.5)
    expected = {
        0: 0.05,
        2: 0.05 * (1 + half) / 2,
        4: 0.025,
        7: 0.05 * (1 - np.cos(np.pi / 8)) / 2,
        8: 0.05,
        13: 0.05,
    }
    assert steps == pytest.approx(expected, rel=1e-4)


# Pure functions, worked by hand.


def test_expectile_loss():
    # 0.7 · 2², 0.3 · 2², nothing, 0.01 · 1².
    found = expectile_loss(jnp.array([2.0, -2.0, 0.0, -1.0]), jnp.array([0.7, 0.7, 0.7, 0.99]))
    np.testing.assert_allclose(found, [2.8, 1.2, 0.0, 0.01], rtol=1e-5)


def test_advantage_weight_is_cut_at_100():
    # exp(3 A): exp(-3), exp(ln 2), exp(4.59); ln 100 / 3 = 1.535, so 1.54 and 50 are cut.
    found = advantage_weight(jnp.array([0.0, -1.0, np.log(2) / 3, 1.53, 1.54, 50.0]), 3.0)
    np.testing.assert_allclose(found, [1, 0.0497871, 2, 98.4944, 100, 100], rtol=1e-4)


def test_regression_loss():
    # -(2 · -1.5), -(0.5 · 4), -(0 · -7); by log π the slope is -weight.
    log_prob, weight = jnp.array([-1.5, 4.0, -7.0]), jnp.array([2.0, 0.5, 0.0])
    np.testing.assert_array_equal(regression_loss(log_prob, weight), [3.0, -2.0, 0.0])
    slope = jax.grad(lambda x: regression_loss(x, weight).sum())(log_prob)
    np.testing.assert_array_equal(slope, -weight)


def test_max_q_actor_loss():
    # mean |Q| of the data is 2: -3/2 and 1/2.
    found = max_q_actor_loss(jnp.array([3.0, -1.0]), jnp.array([1.0, -2.0, 3.0]))
    np.testing.assert_allclose(found, [-1.5, 0.5], rtol=1e-6)


def test_max_q_value():
    # The best of three candidates of two states.
    q = jnp.array([[1.0, -2.0, 3.5], [-4.0, -0.5, -1.0]])
    np.testing.assert_array_equal(max_q_value(q), [3.5, -0.5])
