"""What bases share, on numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.agents.base import (
    AGENTS,
    ActorCritic,
    Agent,
    conservative_rows,
    mean_over_batch,
    polyak,
    soft_actor_loss,
    td_error,
    td_target,
    temperature_gradient,
)


@pytest.mark.parametrize("name", AGENTS.names())
def test_every_base_has_what_an_agent_needs(name):
    base = AGENTS.find(name)
    agent = base(base.options(), 3, 2, 100)
    assert isinstance(agent, Agent)
    assert agent.name == name
    assert (agent.obs_dim, agent.action_dim, agent.offline_steps) == (3, 2, 100)
    own = {field for field in agent.options.__dataclass_fields__}
    assert {*agent.online_options} <= own
    assert all({*options} <= own for options in agent.recipes.values())


def test_reward_units():
    # Sparse goals: r - 1. Otherwise the data's factor. Cal-QL's own are in test_calql.py.
    agent = ActorCritic(None, 3, 2)
    units = agent.reward_units("antmaze", 7.0)
    assert (units.scale, units.shift, units.q_divisor) == (1, -1, 1)
    units = agent.reward_units("locomotion", 7.0)
    assert (units.scale, units.shift, units.q_divisor) == (7, 0, 1)


@pytest.mark.parametrize("count", [0, 2, 5])
def test_conservative_rows(count):
    expected = [row < count for row in range(5)]
    np.testing.assert_array_equal(conservative_rows(count, 5), expected)
    np.testing.assert_array_equal(conservative_rows(jnp.asarray(count), 5), expected)


def test_td_target():
    # 1 + 0.5 · 4; 1 alone where the environment ended; -2 + 0.5 · 10.
    reward, terminal = jnp.array([1.0, 1.0, -2.0]), jnp.array([0.0, 1.0, 0.0])
    value = jnp.array([4.0, 4.0, 10.0])
    np.testing.assert_allclose(td_target(reward, 0.5, terminal, value), [3, 1, 3])
    gradient = jax.grad(lambda v: td_target(reward, 0.5, terminal, v).sum())(value)
    np.testing.assert_array_equal(gradient, 0)


def test_td_error():
    # Two critics of three samples: (1 - 3)² + (4 - 3)², 0 + (-2)², (0.5)² + (1.5)².
    q, target = jnp.array([[1.0, 2.0, 0.5], [4.0, 0.0, -0.5]]), jnp.array([3.0, 2.0, 1.0])
    np.testing.assert_array_equal(td_error(q, target), [5.0, 4.0, 2.5])


def test_soft_actor_loss():
    # 0.5 · -2 - 3; 0.5 · 4 - (-1).
    found = soft_actor_loss(jnp.array([-2.0, 4.0]), jnp.array([3.0, -1.0]), jnp.array(0.5))
    np.testing.assert_array_equal(found, [-4.0, 3.0])


def test_temperature_gradient():
    # Two dimensions, target entropy -2: of -x (-3 - 2) by x it is 5, of -x (2 - 2) it is 0.
    for mean_log_prob, expected in ((-3.0, 5.0), (2.0, 0.0), (4.5, -2.5)):
        assert temperature_gradient(jnp.array(mean_log_prob), 2) == expected


def test_polyak():
    # 0.75 · 1 + 0.25 · 3; 0.75 · -2 + 0.25 · 2.
    target, online = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, 2.0])}
    np.testing.assert_allclose(polyak(target, online, 0.25)["w"], [1.5, -1.0])


def test_mean_over_batch_divides_by_the_whole_batch():
    assert mean_over_batch(jnp.array([2.0, 4.0]), 8) == 0.75
    assert mean_over_batch(jnp.array([2.0, 4.0]), jnp.asarray(8)) == 0.75
