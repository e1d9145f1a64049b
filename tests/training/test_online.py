"""The online update: strata, seeds, keys, returns-to-go, support actions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.data.batch import Transition
from stratdiff.data.sources import load_dataset
from stratdiff.tasks import find_task
from stratdiff.train import offline, online
from stratdiff.train.state import make_learner, to_device


def setup(config, seeds=(0,)):
    """(learner, state, data, support) after a few offline updates and 30 stored transitions."""
    dataset = load_dataset(config.dataset)
    learner = make_learner(config, find_task(config.env), dataset)
    data = to_device(learner, dataset)
    state = learner.init(seeds)
    support = None
    if config.needs_support:
        support = jnp.zeros((len(seeds), len(dataset), config.behaviour.support_actions, 2))
        support = offline.fill_support(learner, state, data, support, jnp.asarray(0))
    return learner, state, data, support


def transition(rng, seeds=1):
    draw = rng.normal(size=(seeds, 2)).astype(np.float32)
    return Transition(
        obs=jnp.asarray(draw),
        action=jnp.asarray(rng.uniform(-1, 1, (seeds, 2)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=seeds), jnp.float32),
        next_obs=jnp.asarray(draw + 0.1),
        terminal=jnp.zeros(seeds, bool),
        mc_return=jnp.full(seeds, -jnp.inf),
    )


def run(config, seeds=(0,), steps=40, rows=None):
    """The state after `steps` online steps on made-up transitions."""
    learner, state, data, support = setup(config, seeds)
    total = online.empty_online_accumulator(learner, state, data, support)
    for step in range(steps):
        rng = np.random.default_rng(step)
        new = transition(rng, 3)
        new = jax.tree.map(lambda x: x[jnp.asarray(rows or seeds)], new)
        state, total = online.online_step(
            learner, state, total, data, support, new, new.next_obs, jnp.asarray(step, jnp.int32)
        )
    return learner, jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, total)


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(("base", "alignment"), [("iql", "guided"), ("calql", "support")])
def test_rho_1_is_the_base_algorithm_bit_for_bit(tiny, base, alignment):
    _, plain, _ = run(tiny(base=base, method="base"))
    _, stratified, total = run(tiny(base=base, alignment=alignment, rho=1.0))
    assert "alignment_auc" in total.sums  # the split was really made
    assert same(plain.agent, stratified.agent)


@pytest.mark.parametrize("base", ["iql", "calql"])
def test_rho_0_treats_every_row_as_online(tiny, base):
    _, guided, total = run(tiny(base=base, rho=0.0))
    _, random, _ = run(tiny(base=base, method="random", rho=0.0))
    _, plain, _ = run(tiny(base=base, method="base"))
    assert same(guided.agent, random.agent)
    assert not same(guided.agent, plain.agent)
    assert "conservative_gap" not in total.sums


def test_the_split_changes_what_is_learned(tiny):
    _, guided, _ = run(tiny(rho=0.5))
    _, support, _ = run(tiny(rho=0.5, alignment="support"))
    _, random, _ = run(tiny(rho=0.5, method="random"))
    assert not same(guided.agent, random.agent)
    assert not same(guided.agent, support.agent)


def test_several_seeds_equal_single_runs(tiny):
    """To floating-point tolerance: matrix products of two seeds round differently from one's.

    The agent is compared, not the energy model: the loss does not depend on that network's last
    bias, so its gradient is rounding alone, which Adam blows up to the learning rate.
    """
    _, both, _ = run(tiny(), seeds=(0, 2), steps=8)
    for i, seed in enumerate((0, 2)):
        _, alone, _ = run(tiny(), seeds=(seed,), rows=(seed,), steps=8)
        for part in ("agent", "replay", "behaviour"):
            leaves = (jax.tree.leaves(getattr(state, part)) for state in (both, alone))
            for x, y in zip(*leaves, strict=True):
                np.testing.assert_allclose(x[i], y[0], rtol=1e-4, atol=1e-6)
    assert not np.array_equal(both.agent.actor.log_std[0], both.agent.actor.log_std[1])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere seeds are vmapped")
@pytest.mark.parametrize("phase", ["base", "behaviour", "energy"])
def test_offline_a_seed_among_others_has_the_bits_of_its_own_run(tiny, phase):
    def after(seeds):
        learner, state, data, support = setup(tiny(base="calql"), seeds)
        step = getattr(offline, f"{phase}_step")
        return offline.run_steps(step, learner, state, data, support, jnp.asarray(0), 5)

    start = setup(tiny(base="calql"), (2,))[1]
    both, alone = after((0, 2)), after((2,))
    assert same(jax.tree.map(lambda x: x[1:], both), alone)
    assert not same(alone[0], start)


def test_the_same_seed_gives_the_same_bits(tiny):
    assert same(run(tiny(), steps=5)[1], run(tiny(), steps=5)[1])


def test_utd_does_that_many_updates(tiny):
    _, state, total = run(tiny(utd=3), steps=5)
    assert total.count.tolist() == [15]
    assert state.replay.inserted.tolist() == [5]
    # IQL counts its updates for the learning-rate schedule.
    assert state.agent.updates.tolist() == [15]


def test_batches_hold_online_rows_only_after_the_warm_up_and_half_then(tiny):
    config = tiny(online_warmup=20)
    for steps, expected in ((19, 0), (21, 8)):
        learner, state, _ = run(config, steps=steps)
        _, _, data, support = setup(config)
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), state)
        batch, actions, is_online = online.sample_batch(
            learner, one, data, support[0], jnp.asarray(7)
        )
        assert int(is_online.sum()) == expected
        stored = state.replay.data.obs[0, :steps]
        for row in range(16):
            in_replay = (stored == np.asarray(batch.obs[row])).all(1)
            assert in_replay.any() == bool(is_online[row])
            if is_online[row]:
                index = int(np.flatnonzero(in_replay)[0])
                np.testing.assert_array_equal(actions[row], state.replay.support[0, index])


def test_finished_episode_gets_its_returns_to_go(tiny):
    config = tiny(base="calql")
    learner, state, _ = run(config, steps=30)
    state = jax.tree.map(jnp.asarray, state)
    state = online.finish_episodes(learner, state, jnp.asarray([10], jnp.int32))
    rewards = np.asarray(state.replay.data.reward[0, :30], np.float64)
    expected, value = np.full(30, -np.inf), 0.0
    for i in range(29, 19, -1):
        value = rewards[i] + 0.99 * value
        expected[i] = value
    np.testing.assert_allclose(state.replay.data.mc_return[0, :30], expected, rtol=1e-5)


def test_support_of_a_transition_does_not_depend_on_its_neighbours(tiny):
    learner, state, data, support = setup(tiny())
    index = 123
    keys = jax.vmap(lambda s: offline.stream(s, offline.Stream.SUPPORT, index))(state.seed)
    row = data.rows[index]
    one = jax.tree.map(lambda x: x[0], state)
    alone = learner.behaviour.support(one.behaviour, data.states(row)[None], keys)
    np.testing.assert_allclose(alone[0], support[0, index], rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(support[0, index]), axis=0).max() > 0


def test_a_loss_that_is_not_finite_is_placed_at_its_step():
    from stratdiff.train.state import empty_accumulator

    total = empty_accumulator(("critic_loss", "q_mean"))
    for step, loss in ((5, 1.0), (6, float("nan")), (7, float("inf"))):
        metrics = {"critic_loss": jnp.asarray(loss), "q_mean": jnp.asarray(1.0)}
        total = total.add(metrics, jnp.asarray(step))
    assert int(total.bad_step["critic_loss"]) == 6
    assert int(total.bad_step["q_mean"]) == -1


def test_antmaze_reward_units(tiny):
    from stratdiff.train.state import reward_rule

    dataset = load_dataset(tiny().dataset)
    calql = reward_rule(dataclasses.replace(tiny(), recipe="antmaze", base="calql"), dataset)
    assert (calql.scale, calql.shift, calql.q_divisor) == (10, -5, 10)
    iql = reward_rule(dataclasses.replace(tiny(), recipe="antmaze"), dataset)
    assert (iql.scale, iql.shift, iql.q_divisor) == (1, -1, 1)
    returns = [
        float(r.sum()) for r in np.split(dataset.rewards, np.flatnonzero(dataset.ends)[:-1] + 1)
    ]
    locomotion = reward_rule(tiny(), dataset)
    assert locomotion.scale == pytest.approx(1000 / (max(returns) - min(returns)), rel=1e-5)
