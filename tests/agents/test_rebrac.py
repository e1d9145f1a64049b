"""ReBRAC against its formulas in plain NumPy, gradients by finite differences."""

import dataclasses
import functools

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
from stratdiff.agents.rebrac import (
    ReBRAC,
    ReBRACConfig,
    ReBRACState,
    penalized_actor_loss,
    penalized_value,
    smoothed,
    squared_distance,
)
from stratdiff.data.batch import Transition
from stratdiff.errors import UserError
from stratdiff.options import check

OBS, ACT, BATCH = 3, 2, 6
CONFIG = ReBRACConfig(
    actor_learning_rate=0.02,
    critic_learning_rate=0.05,
    actor_hidden=(5,),
    critic_hidden=(6, 4),
    discount=0.9,
    polyak=0.2,
    actor_penalty=0.7,
    critic_penalty=0.4,
)
AGENT = ReBRAC(CONFIG, OBS, ACT)
KEY = jax.random.key(5)
UNKNOWN = 2
"""The row whose next action is not known."""


def make_state(updates=0):
    """A state whose weights are all of order one and whose targets are networks apart."""
    rng = np.random.default_rng(1)
    template = AGENT.init(KEY)

    def draw(net):
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.6, x.shape), x.dtype), net)

    actor, critic = template.actor, template.critic
    nets = map(draw, (actor, actor, critic, critic))
    opts = map(with_moments, (template.actor_opt, template.critic_opt))
    return ReBRACState(*nets, *opts, jnp.asarray(-7.0), jnp.asarray(updates, jnp.int32))


def make_batch():
    rng = np.random.default_rng(2)
    next_action = rng.uniform(-1, 1, (BATCH, ACT))
    next_action[UNKNOWN] = np.nan
    return Transition(
        obs=jnp.asarray(rng.normal(size=(BATCH, OBS)), jnp.float32),
        action=jnp.asarray(rng.uniform(-1, 1, (BATCH, ACT)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=BATCH), jnp.float32),
        next_obs=jnp.asarray(rng.normal(size=(BATCH, OBS)), jnp.float32),
        terminal=jnp.asarray([False, True, False, False, True, False]),
        mc_return=jnp.full(BATCH, -jnp.inf),
        next_action=jnp.asarray(next_action, jnp.float32),
    )


@functools.partial(jax.jit, static_argnums=3, compiler_options=FAST)
def update(state, batch, key, k):
    return AGENT.update(state, batch, key, k)


def expected_update(state, batch, k):
    """(metrics, new networks) by the ReBRAC paper, in float64, when the actor is due."""
    s, b = to_numpy(state), to_numpy(batch)
    noise = np.array(jax.random.normal(KEY, (BATCH, ACT)), np.float64)
    near = np.tanh(mlp(s.target_actor.net, b.next_obs))
    next_action = np.clip(near + np.clip(0.2 * noise, -0.5, 0.5), -1, 1)
    distance = np.sum((next_action - b.next_action) ** 2, -1)
    distance[UNKNOWN] = 0
    kept = np.arange(BATCH) < k
    value = critics(s.target_critic, b.next_obs, next_action).min(0) - 0.4 * kept * distance
    target = b.reward + 0.9 * (1 - b.terminal) * value

    def critic_loss(critic):
        return sum(np.mean((q - target) ** 2) for q in critics(critic, b.obs, b.action))

    critic = adam(s.critic, finite_differences(critic_loss, s.critic), 0.05)
    old_scale = np.abs(critics(critic, b.obs, np.tanh(mlp(s.actor.net, b.obs))).min(0)).mean()

    def actor_loss(actor):
        action = np.tanh(mlp(actor.net, b.obs))
        q = critics(critic, b.obs, action).min(0)
        # The divisor is a constant for the gradient.
        return np.mean(0.7 * kept * np.sum((action - b.action) ** 2, -1) - q / old_scale)

    actor = adam(s.actor, finite_differences(actor_loss, s.actor), 0.02)
    metrics = {
        "critic_loss": critic_loss(s.critic),
        "actor_loss": actor_loss(s.actor),
        "q_mean": critics(s.critic, b.obs, b.action).mean(),
        "td_target_mean": target.mean(),
        "next_action_distance": distance.mean(),
    }
    return metrics, {
        "critic": critic,
        "actor": actor,
        "target_actor": jax.tree.map(lambda t, w: 0.8 * t + 0.2 * w, s.target_actor, s.actor),
        "target_critic": jax.tree.map(lambda t, w: 0.8 * t + 0.2 * w, s.target_critic, critic),
    }


@pytest.mark.parametrize("k", [0, 4, BATCH])
def test_update_equals_numpy(k):
    state, batch = make_state(), make_batch()
    new, metrics = update(state, batch, KEY, k)
    expected, parts = expected_update(state, batch, k)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    for name, value in parts.items():
        assert_trees_close(getattr(new, name), value, atol=5e-6, err_msg=name)
        # What is compared did move, by far more than the tolerance.
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), value, getattr(state, name))
        assert max(jax.tree.leaves(moved)) > 1e-3


def test_actor_and_targets_wait_for_every_second_update():
    state, batch = make_state(updates=1), make_batch()
    new, metrics = update(state, batch, KEY, BATCH)
    for name in ("actor", "target_actor", "target_critic", "actor_opt"):
        assert_trees_close(getattr(new, name), getattr(state, name), rtol=0)
    _, parts = expected_update(state, batch, BATCH)
    assert_trees_close(new.critic, parts["critic"], atol=5e-6)
    assert new.updates == 2
    # That of the last update of the actor.
    assert metrics["actor_loss"] == -7.0


def test_seeds_that_learn_together_have_one_branch():
    both = jax.tree.map(lambda x: jnp.stack([x, x]), make_state())
    program = jax.make_jaxpr(jax.vmap(lambda s: AGENT.update(s, make_batch(), KEY, 3)))(both)
    # A branch on each seed's own number would be computed both ways.
    conditions = [e for e in program.jaxpr.eqns if e.primitive.name == "cond"]
    assert len(conditions) == 1


def test_a_number_of_rows_that_depends_on_the_data():
    state, batch = make_state(), make_batch()
    dynamic = jax.jit(lambda k: AGENT.update(state, batch, KEY, k))
    for k in (0, 2, BATCH):
        found, static = dynamic(jnp.asarray(k)), update(state, batch, KEY, k)
        assert_trees_close(found, static, rtol=1e-5, atol=1e-6)


def test_losses_by_hand():
    action = jnp.array([[0.5, -0.5], [1.0, 0.0]])
    other = jnp.array([[0.5, 0.5], [jnp.nan, jnp.nan]])
    np.testing.assert_allclose(squared_distance(action, other), [1.0, 0.0])
    gradient = jax.grad(lambda a: squared_distance(a, other).sum())(action)
    np.testing.assert_allclose(gradient, [[0.0, -2.0], [0.0, 0.0]])
    noise = jnp.array([[0.7, -0.2], [-0.1, 0.1]])
    np.testing.assert_allclose(smoothed(action, noise, 0.25), [[0.75, -0.7], [0.9, 0.1]], rtol=1e-6)
    q, weight = jnp.array([2.0, -4.0]), jnp.array([0.5, 0.5])
    np.testing.assert_allclose(penalized_value(q, action, other, weight), [1.5, -4.0])
    # mean |Q| is 3.
    found = penalized_actor_loss(q, action, other, weight)
    np.testing.assert_allclose(found, [0.5 - 2 / 3, 4 / 3], rtol=1e-6)


def test_init_is_the_authors():
    agent = ReBRAC(ReBRACConfig(), 11, ACT)
    state = agent.init(KEY)
    assert isinstance(agent, Agent)
    for name, last in (("actor", 1e-3), ("critic", 3e-3)):
        net = getattr(state, name)
        assert_trees_close(getattr(state, f"target_{name}"), net, rtol=0)
        layers = net.net.layers if name == "actor" else net.members.layers
        assert [layer.weight.shape[-1] for layer in layers[:-1]] == [256, 256, 256]
        for layer in layers[:-1]:
            bound = layer.weight.shape[-2] ** -0.5
            assert 0.98 * bound < np.abs(layer.weight).max() <= bound
            assert (layer.bias == np.float32(0.1)).all()
        assert 0.95 * last < np.abs(layers[-1].weight).max() <= last * (1 + 1e-6)
        assert np.abs(layers[-1].bias).max() <= last * (1 + 1e-6)
    assert state.actor.net.norms == []
    assert [norm.scale.shape for norm in state.critic.members.norms] == [(2, 256)] * 3
    np.testing.assert_allclose(np.exp(state.actor.log_std), 0.03, rtol=1e-6)


def test_noise_is_that_of_the_options_in_a_state_from_another_run():
    state = AGENT.init(KEY)
    louder = ReBRAC(dataclasses.replace(CONFIG, exploration_noise=0.2), OBS, ACT)
    np.testing.assert_allclose(np.exp(louder.policy(state).log_std), 0.2, rtol=1e-6)
    lead = jax.tree.map(lambda x: x[None], state)
    exported = louder.export(lead, np.zeros(OBS), np.ones(OBS), {})
    np.testing.assert_allclose(np.exp(exported.log_std), 0.2, rtol=1e-6)
    for noise in (0.006, 8.0):
        with pytest.raises(UserError, match=r"exploration-noise is .*; it must be between 0.007 a"):
            check(dataclasses.replace(CONFIG, exploration_noise=noise), "rebrac.")


def test_rewards_are_the_environments():
    assert dataclasses.astuple(AGENT.reward_units("locomotion", 4.0)) == (1.0, 0.0, 0.25)
    assert dataclasses.astuple(AGENT.reward_units("antmaze", 1.0)) == (100.0, 0.0, 100.0)
