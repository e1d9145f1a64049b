"""Cal-QL and CQL against their formulas in plain NumPy, gradients by finite differences."""

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
    finite_differences,
    mlp,
    to_numpy,
    with_moments,
)

from stratdiff.agents import Agent
from stratdiff.agents.calql import CalQL, CalQLConfig, CalQLState, conservative_gap
from stratdiff.data.batch import Transition

OBS, ACT, BATCH, SAMPLES = 3, 2, 6, 3
CONFIG = CalQLConfig(
    actor_learning_rate=0.02,
    critic_learning_rate=0.05,
    actor_hidden=(5,),
    critic_hidden=(6,),
    discount=0.9,
    polyak=0.2,
    alpha=2.0,
    sampled_actions=SAMPLES,
)
ANTMAZE = {"lagrange": True, "max_target_backup": True}
KEY = jax.random.key(3)


def critics(ensemble, obs, action):
    """Q_k(s, a), [2, ...]; `obs` is repeated over the actions of a state."""
    obs = np.broadcast_to(
        obs if obs.ndim == action.ndim else obs[:, None], (*action.shape[:-1], OBS)
    )
    x = np.concatenate([obs, action], -1)
    members = [jax.tree.map(lambda w, k=k: w[k], ensemble.members) for k in range(2)]
    return np.stack([mlp(m, x)[..., 0] for m in members])


def squashed(actor, obs, noise):
    """(actions, log-densities) of the tanh-Gaussian for noise [B, n, A], by change of variables."""
    mean, log_std = np.split(mlp(actor.net, obs)[:, None], 2, axis=-1)
    std = np.exp(np.clip(log_std, -20, 2))
    action = np.tanh(mean + std * noise)
    density = np.exp(-0.5 * noise**2) / (std * np.sqrt(2 * np.pi)) / (1 - action**2)
    return action, np.log(density).sum(-1)


def make_agent(**changes):
    return CalQL(dataclasses.replace(CONFIG, **changes), OBS, ACT)


def make_state(agent):
    """A state whose weights are all of order one and whose target critics are networks apart."""
    rng = np.random.default_rng(1)
    template = agent.init(KEY)

    def draw(name):
        net = getattr(template, name)
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.6, x.shape), x.dtype), net)

    nets = map(draw, ("actor", "critic", "target_critic"))
    names = ("actor_opt", "critic_opt", "temperature_opt", "multiplier_opt")
    opts = (with_moments(getattr(template, name)) for name in names)
    return CalQLState(*nets, jnp.array(-0.7), jnp.array(0.4), *opts)


def make_batch():
    rng = np.random.default_rng(2)
    return Transition(
        obs=jnp.asarray(rng.normal(size=(BATCH, OBS)), jnp.float32),
        action=jnp.asarray(rng.uniform(-1, 1, (BATCH, ACT)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=BATCH), jnp.float32),
        next_obs=jnp.asarray(rng.normal(size=(BATCH, OBS)), jnp.float32),
        terminal=jnp.asarray([False, True, False, False, True, False]),
        # Some bound all policy actions of their state, some a part, some none.
        mc_return=jnp.asarray([0.5, -0.2, -jnp.inf, 0.1, 9.0, -9.0], jnp.float32),
    )


def returns(value):
    # A float32 array as in `make_batch`, or `update` would be compiled again.
    return jnp.full(BATCH, value, jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=FAST)
def update(agent, state, batch, key, k):
    return agent.update(state, batch, key, k)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def dynamic_update(agent, state, batch, key, k):
    return agent.update(state, batch, key, k)


def expected_update(config, state, batch, k):
    """(metrics, new state's parts) by docs/method.md, section 6, and the Cal-QL paper."""
    c, s, b = config, to_numpy(state), to_numpy(batch)
    target_key, actor_key, uniform_key, now_key, next_key = jax.random.split(KEY, 5)

    def normal(key, rows, n):
        return np.array(jax.random.normal(key, (rows, n, ACT)), np.float64)

    candidates = SAMPLES if c.max_target_backup else 1
    action, _ = squashed(s.actor, b.next_obs, normal(target_key, BATCH, candidates))
    next_q = critics(s.target_critic, b.next_obs, action).min(0)
    target = np.zeros(BATCH)
    for i in range(BATCH):
        target[i] = b.reward[i] + (0 if b.terminal[i] else 0.9 * max(next_q[i]))

    uniform = jax.random.uniform(uniform_key, (k, SAMPLES, ACT), minval=-1.0, maxval=1.0)
    uniform = np.array(uniform, np.float64)
    now, now_log_prob = squashed(s.actor, b.obs[:k], normal(now_key, k, SAMPLES))
    later, later_log_prob = squashed(s.actor, b.next_obs[:k], normal(next_key, k, SAMPLES))
    multiplier = np.exp(s.log_multiplier) if c.lagrange else 1.0

    def gaps(critic):
        """R_i of both critics, [2, k], and how many Q's of policy actions were bounded."""
        # A uniform action has density 1 / 2^A.
        total, bounded = (np.exp(critics(critic, b.obs[:k], uniform)) * 2**ACT).sum(-1), 0
        for action, log_prob in ((now, now_log_prob), (later, later_log_prob)):
            q = critics(critic, b.obs[:k], action)
            if c.calibrate:
                v_ref = b.mc_return[:k, None]
                bounded += int((q < v_ref).sum())
                q = np.where(q < v_ref, v_ref, q)
            total = total + np.exp(q - log_prob).sum(-1)
        return np.log(total) - critics(critic, b.obs[:k], b.action[:k]), bounded

    def td_loss(critic):
        first, second = critics(critic, b.obs, b.action)
        return np.mean((first - target) ** 2 + (second - target) ** 2)

    def critic_loss(critic):
        penalty = gaps(critic)[0].sum() / BATCH
        return td_loss(critic) + c.alpha * multiplier * penalty

    actor_noise = normal(actor_key, BATCH, 1)
    temperature = np.exp(s.log_temperature)

    def actor_loss(actor):
        action, log_prob = squashed(actor, b.obs, actor_noise)
        q = critics(s.critic, b.obs, action).min(0)
        return np.mean(temperature * log_prob - q)

    log_prob = squashed(s.actor, b.obs, actor_noise)[1].mean()
    metrics = {
        "critic_loss": critic_loss(s.critic),
        "actor_loss": actor_loss(s.actor),
        "td_loss": td_loss(s.critic),
        "q_mean": critics(s.critic, b.obs, b.action).mean(),
        "td_target_mean": target.mean(),
        "entropy": -log_prob,
        "entropy_temperature": temperature,
        "lagrange_multiplier": multiplier,
    }
    critic = adam(s.critic, finite_differences(critic_loss, s.critic), c.critic_learning_rate)
    actor = adam(s.actor, finite_differences(actor_loss, s.actor), c.actor_learning_rate)
    # d/dx of -x (log π + target entropy), target entropy -A.
    log_temperature = adam(s.log_temperature, -(log_prob - ACT), c.actor_learning_rate)
    log_multiplier = s.log_multiplier
    if k > 0:
        gap, bounded = gaps(s.critic)
        metrics["conservative_gap"] = gap.mean()
        metrics["calibrated_fraction"] = bounded / (2 * k * 2 * SAMPLES)
        if c.lagrange:
            # d/dx of -exp(x) (R - threshold).
            slope = -multiplier * (gap.mean() - c.lagrange_threshold)
            log_multiplier = adam(log_multiplier, slope, c.critic_learning_rate)
    return metrics, {
        "critic": critic,
        "actor": actor,
        "target_critic": jax.tree.map(lambda t, w: 0.8 * t + 0.2 * w, s.target_critic, critic),
        "log_temperature": log_temperature,
        "log_multiplier": log_multiplier,
    }


@pytest.mark.parametrize(
    ("changes", "k"),
    [
        ({}, 3),
        ({}, BATCH),
        ({"calibrate": False}, 3),
        (ANTMAZE, 3),
        (ANTMAZE, 0),
    ],
    ids=["calql-3-of-6", "calql-all", "cql", "antmaze", "antmaze-td-only"],
)
def test_update_equals_numpy(changes, k):
    agent = make_agent(**changes)
    state, batch = make_state(agent), make_batch()
    new, metrics = update(agent, state, batch, KEY, k)
    expected, parts = expected_update(agent.config, state, batch, k)
    if agent.config.calibrate and k:
        assert 0.1 < expected["calibrated_fraction"] < 0.9
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    assert metrics.keys() == expected.keys()
    for name, value in parts.items():
        assert_trees_close(getattr(new, name), value, atol=3e-6, err_msg=name)
        # What is compared did move, by far more than the tolerance.
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), value, getattr(state, name))
        if name != "log_multiplier" or (agent.config.lagrange and k):
            assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize(
    ("changes", "k"),
    [({}, 3), ({}, BATCH), (ANTMAZE, 0), (ANTMAZE, 3)],
    ids=["calql-3-of-6", "calql-all", "antmaze-td-only", "antmaze-3-of-6"],
)
def test_a_number_of_conservative_rows_that_depends_on_the_data(changes, k):
    agent = make_agent(**changes)
    state, batch = make_state(agent), make_batch()
    new, metrics = dynamic_update(agent, state, batch, KEY, jnp.asarray(k))
    static, static_metrics = update(agent, state, batch, KEY, k)
    assert_trees_close(new, static, rtol=1e-5, atol=1e-6)
    for name, value in static_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    # Without any such row, what is a mean over them is 0.
    for name in metrics.keys() - static_metrics.keys():
        assert (name, k, float(metrics[name])) == (name, 0, 0.0)


def test_agent_protocol_and_q():
    agent, batch = make_agent(), make_batch()
    state = make_state(agent)
    assert isinstance(agent, Agent)
    assert (agent.obs_dim, agent.action_dim) == (OBS, ACT)
    expected = critics(to_numpy(state.target_critic), batch.obs, batch.action).min(0)
    found = jax.jit(agent.q, compiler_options=FAST)(state, batch.obs, batch.action)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_conservative_term_sees_the_first_k_rows_only():
    agent, k = make_agent(), 3
    state, batch = make_state(agent), make_batch()

    def penalty(fields):
        metrics = agent.update(state, batch._replace(**fields), KEY, k)[1]
        return metrics["critic_loss"] - metrics["td_loss"]

    fields = {name: getattr(batch, name) for name in ("obs", "action", "mc_return")}
    gradient = jax.jit(jax.grad(penalty), compiler_options=FAST)(fields)
    for name, values in gradient.items():
        rows = np.asarray(values).reshape(BATCH, -1)
        np.testing.assert_array_equal(rows[k:], 0, err_msg=name)
        assert (np.abs(rows[:2]).max(-1) > 1e-6).all(), name


@pytest.mark.parametrize("k", [3, BATCH])
def test_a_rows_penalty_weighs_alpha_over_b_whatever_k(k):
    metrics = update(make_agent(), make_state(make_agent()), make_batch(), KEY, k)[1]
    penalty = float(metrics["critic_loss"] - metrics["td_loss"])
    # The reported gap is the mean over k rows and 2 critics.
    assert penalty == pytest.approx(2.0 * float(metrics["conservative_gap"]) * 2 * k / 6, rel=1e-4)


def test_unknown_returns_are_plain_cql():
    batch = make_batch()._replace(mc_return=returns(-jnp.inf))
    state = make_state(make_agent())
    calql, metrics = update(make_agent(), state, batch, KEY, 3)
    # The other agent has real returns and must not look at them.
    cql, cql_metrics = update(make_agent(calibrate=False), state, make_batch(), KEY, 3)
    assert_trees_close(calql, cql, rtol=1e-6, atol=1e-7)
    assert metrics["conservative_gap"] == pytest.approx(float(cql_metrics["conservative_gap"]))
    assert metrics["calibrated_fraction"] == 0


def test_high_returns_bound_all_policy_actions():
    agent, high = make_agent(), 50.0
    batch = make_batch()._replace(mc_return=returns(high))
    state = make_state(agent)
    metrics = update(agent, state, batch, KEY, 3)[1]
    assert metrics["calibrated_fraction"] == 1
    # exp(50) hides the uniform actions: R = 50 + log Σ 1/π(a) - Q(s, a).
    s, b = to_numpy(state), to_numpy(batch)
    keys = jax.random.split(KEY, 5)[3:]
    inverse = 0.0
    for key, obs in zip(keys, (b.obs[:3], b.next_obs[:3]), strict=True):
        noise = np.array(jax.random.normal(key, (3, SAMPLES, ACT)), np.float64)
        inverse = inverse + np.exp(-squashed(s.actor, obs, noise)[1]).sum(-1)
    expected = high + np.log(inverse) - critics(s.critic, b.obs, b.action)[:, :3]
    assert metrics["conservative_gap"] == pytest.approx(expected.mean(), rel=1e-5)


def test_multiplier_moves_towards_the_threshold():
    agent, batch = make_agent(**ANTMAZE), make_batch()
    state = make_state(agent)
    # Returns of 50 lift the gap to about 50.
    high = batch._replace(mc_return=returns(50.0))
    new, metrics = update(agent, state, high, KEY, 3)
    assert metrics["conservative_gap"] > 0.8
    assert new.log_multiplier - state.log_multiplier > 0.01
    # A steep critic and data of the best actions: no sampled action comes near.
    steep = jax.tree.map(lambda w: 6 * w, state.critic)
    state = dataclasses.replace(state, critic=steep)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * ACT), -1).reshape(1, -1, ACT)
    grid = np.repeat(grid, BATCH, 0)
    q = critics(to_numpy(steep), to_numpy(batch.obs), grid).sum(0)
    best = jnp.asarray(grid[np.arange(BATCH), q.argmax(1)], jnp.float32)
    low = batch._replace(action=best, mc_return=returns(-jnp.inf))
    new, metrics = update(agent, state, low, KEY, 3)
    assert metrics["conservative_gap"] < 0.8
    assert state.log_multiplier - new.log_multiplier > 0.01


def test_multiplier_rests_without_conservative_rows():
    agent = make_agent(**ANTMAZE)
    state = make_state(agent)
    new, metrics = update(agent, state, make_batch(), KEY, 0)
    assert new.log_multiplier == state.log_multiplier
    assert_trees_close(new.multiplier_opt, state.multiplier_opt, rtol=0)
    assert metrics["critic_loss"] == metrics["td_loss"]
    assert "conservative_gap" not in metrics


def test_terminal_rows_do_not_see_the_next_state():
    # On rows that are not conservative the next state matters to the target alone.
    agent, batch = make_agent(**ANTMAZE), make_batch()
    state = make_state(agent)
    before = update(agent, state, batch, KEY, 0)[1]["critic_loss"]
    for row, terminal in enumerate([False, True, False, False, True, False]):
        moved = np.array(batch.next_obs)
        moved[row] += 0.5
        other = batch._replace(next_obs=jnp.asarray(moved))
        assert (update(agent, state, other, KEY, 0)[1]["critic_loss"] == before) == terminal


def test_reward_units():
    # The authors': 10 r - 5 for sparse goals, so its Q is divided by 10 for the energy model.
    units = make_agent().reward_units("antmaze", 7.0)
    assert (units.scale, units.shift, units.q_divisor) == (10, -5, 10)
    units = make_agent().reward_units("locomotion", 7.0)
    assert (units.scale, units.shift, units.q_divisor) == (7, 0, 1)


def test_init_copies_the_critics_to_the_targets():
    state = make_agent().init(KEY)
    assert_trees_close(state.target_critic, state.critic, rtol=0)
    first, second = state.critic.members.layers[0].weight
    assert np.abs(first - second).max() > 0.01
    assert state.critic.members.layers[0].weight.shape == (2, OBS + ACT, 6)
    assert state.actor.net.layers[0].weight.shape == (OBS, 5)
    assert state.log_temperature == 0
    # The authors' start: the last layer has gain 1e-2.
    last = np.asarray(state.actor.net.layers[-1].weight)
    np.testing.assert_allclose(last.T @ last, 1e-4 * np.eye(2 * ACT), atol=1e-9)
    # And the log standard deviation of the actor is about -1.
    np.testing.assert_array_equal(state.actor.net.layers[-1].bias, [0] * ACT + [-1] * ACT)


# Pure function, worked by hand.


def gap_by_hand(v_ref):
    """Q(s, a) = 1; uniform Q 0 and ln 2; policy Q 0 and ln 4 with log-densities ln 1/2 and 0."""
    return conservative_gap(
        jnp.array([1.0]),
        jnp.array([[0.0, np.log(2)]], jnp.float32),
        jnp.array([[0.0, np.log(4)]], jnp.float32),
        jnp.array([[-np.log(2), 0.0]], jnp.float32),
        1,
        jnp.array([v_ref], jnp.float32),
    )


def test_conservative_gap():
    # Uniform actions have density 1/2: 2 + 4; policy actions 1 / (1/2) + 4 / 1.
    np.testing.assert_allclose(gap_by_hand(-np.inf), [np.log(2 + 4 + 2 + 4) - 1], rtol=1e-6)
    # V_ref = ln 3 lifts the Q of 0 alone: 3 / (1/2).
    np.testing.assert_allclose(gap_by_hand(np.log(3)), [np.log(2 + 4 + 6 + 4) - 1], rtol=1e-6)
    # V_ref = ln 5 lifts both: 5 / (1/2) + 5.
    np.testing.assert_allclose(gap_by_hand(np.log(5)), [np.log(2 + 4 + 10 + 5) - 1], rtol=1e-6)


def test_gradient_of_the_conservative_gap():
    # Softmax weights push Q down, -1 pulls Q of the data up, a bounded Q is a constant.
    def gap(q_data, q_uniform, q_policy, v_ref):
        zero = jnp.zeros((1, 2))
        return conservative_gap(q_data, q_uniform, q_policy, zero, 1, jnp.array([v_ref])).sum()

    one, two = jnp.zeros(1), jnp.zeros((1, 2))
    gradient = jax.jit(jax.grad(gap, argnums=(0, 1, 2)), compiler_options=FAST)
    for v_ref, expected in ((-np.inf, (-1, 1 / 3, 1 / 6)), (np.log(2), (-1, 1 / 4, 0))):
        for found, value in zip(gradient(one, two, two, v_ref), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-6)
