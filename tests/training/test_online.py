"""The online update: strata, seeds, keys, returns-to-go, support actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steps import made_up, run, same, setup

from stratdiff.training import online


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("base", "score"), [("iql", "origin"), slow("iql", "guided"), slow("calql", "guided")]
)
def test_rho_0_treats_every_row_as_online(tiny, base, score):
    _, scored, total = run(tiny(base=base, score=score, rho=0.0))
    _, random, _ = run(tiny(base=base, score="random", rho=0.0))
    _, plain, _ = run(tiny(base=base, score="none"))
    assert same(scored.learned.agent, random.learned.agent)
    assert not same(scored.learned.agent, plain.learned.agent)
    assert "conservative_gap" not in total.sums


@pytest.mark.parametrize(
    ("one", "other"), [("origin", "random"), slow("guided", "random"), slow("guided", "support")]
)
def test_the_split_changes_what_is_learned(tiny, one, other):
    _, first, _ = run(tiny(rho=0.5, score=one))
    _, second, _ = run(tiny(rho=0.5, score=other))
    assert not same(first.learned.agent, second.learned.agent)


@pytest.mark.slow
def test_several_seeds_equal_single_runs(tiny):
    """To floating-point tolerance: matrix products of two seeds round differently from one's.

    The agent is compared, not the energy model: the loss does not depend on that network's last
    bias, so its gradient is rounding alone, which Adam blows up to the learning rate.
    """
    _, both, _ = run(tiny(), seeds=(0, 2), steps=8)
    for i, seed in enumerate((0, 2)):
        _, alone, _ = run(tiny(), seeds=(seed,), rows=(seed,), steps=8)
        for part in (
            lambda s: s.learned.agent,
            lambda s: s.replay,
            lambda s: s.learned.score.behaviour,
        ):
            leaves = (jax.tree.leaves(part(state)) for state in (both, alone))
            for x, y in zip(*leaves, strict=True):
                np.testing.assert_allclose(x[i], y[0], rtol=1e-4, atol=1e-6)
    log_std = both.learned.agent.actor.log_std
    assert not np.array_equal(log_std[0], log_std[1])


def test_the_same_seed_gives_the_same_bits(tiny):
    assert same(run(tiny(), steps=5)[1], run(tiny(), steps=5)[1])


def test_utd_does_that_many_updates(tiny):
    _, state, total = run(tiny(utd=3, score="none"), steps=5)
    assert total.count.tolist() == [15]
    assert state.replay.inserted.tolist() == [5]
    # The optimisers count their updates, for the learning-rate schedule.
    counts = [
        leaf.tolist()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.learned.agent)
        if jax.tree_util.keystr(path).endswith(".count")
    ]
    assert len(counts) >= 3 and all(count == [15] for count in counts)


def test_batches_hold_online_rows_only_after_the_warm_up_and_half_then(tiny):
    config = tiny(online_warmup=20, score="support")
    for steps, expected in ((19, 0), (21, 8)):
        made, state, _ = run(config, steps=steps)
        _, _, data, stored = setup(config)
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), state)
        drawn = online.sample_batch(made, one, data, stored[0], jnp.asarray(7))
        assert int(drawn.online.sum()) == expected
        obs = state.replay.data.obs[0, :steps]
        for row in range(16):
            in_replay = (obs == np.asarray(drawn.transitions.obs[row])).all(1)
            assert in_replay.any() == bool(drawn.online[row])
            if drawn.online[row]:
                index = int(np.flatnonzero(in_replay)[0])
                np.testing.assert_array_equal(drawn.stored[row], state.replay.stored[0, index])


def test_the_offline_fraction_may_move_from_one_number_to_another(tiny):
    config = tiny(online_warmup=1, offline_fraction="1.0:0.25", utd=2, score="none")
    made, state, _ = run(config, steps=4)
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), state)
    _, _, data, _ = setup(config)
    # 120 steps of two updates: 16 rows of D_off at first, 4 at the end, 10 in the middle.
    for update, rows in ((0, 16), (120, 10), (240, 4)):
        drawn = online.sample_batch(made, one, data, (), jnp.asarray(update))
        assert int((~drawn.online).sum()) == rows


def test_a_uniform_buffer_draws_every_transition_equally_often(tiny):
    config = tiny(online_warmup=1, offline_fraction="uniform", score="none")
    made, state, _ = run(config, steps=40)
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), state)
    _, _, data, _ = setup(config)
    draw = jax.jit(lambda i: online.sample_batch(made, one, data, (), i).online.mean())
    share = np.mean([draw(jnp.asarray(i)) for i in range(400)])
    expected = 40 / (40 + len(data))
    # Standard error over 6400 rows.
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected / 6400))


def test_nothing_is_learned_in_frozen_steps(tiny):
    config = tiny(online_warmup=1, frozen_steps=3, score="none", utd=2)
    _, start, _, _ = setup(config)
    before = jax.tree.map(np.asarray, start.learned)
    _, state, total = run(config, steps=3)
    assert same(state.learned, before) and total.count.tolist() == [0]
    assert state.replay.inserted.tolist() == [3]
    _, state, total = run(config, steps=5)
    assert not same(state.learned, before) and total.count.tolist() == [4]


def test_finished_episode_gets_its_returns_to_go(tiny):
    made, state, _ = run(tiny(base="calql", score="none"), steps=30)
    state = jax.tree.map(jnp.asarray, state)
    state = online.finish_episodes(made, state, jnp.asarray([10], jnp.int32))
    rewards = np.asarray(state.replay.data.reward[0, :30], np.float64)
    expected, value = np.full(30, -np.inf), 0.0
    for i in range(29, 19, -1):
        value = rewards[i] + 0.99 * value
        expected[i] = value
    np.testing.assert_allclose(state.replay.data.mc_return[0, :30], expected, rtol=1e-5)


def test_a_loop_gives_the_bits_of_its_steps(tiny):
    """`Loop` keeps what is frozen out of the dispatch, and its state flat."""
    made, looped, sums = run(tiny(), steps=3)
    _, state, data, stored = setup(tiny())
    total = online.empty_online_accumulator(made, state, data, stored)
    step = jax.jit(online.online_step, static_argnums=0)
    for i in range(3):
        new = made_up(i)
        state, total = step(made, state, total, data, stored, new, new.next_obs, jnp.asarray(i))
    assert same(jax.tree.map(np.asarray, state), looped)
    assert total.count.tolist() == sums.count.tolist()
    # Metrics are sums that other fusions round differently.
    np.testing.assert_allclose(total.totals, sums.totals, rtol=1e-5)


def test_sums_are_taken_once_and_a_step_is_compiled_once(tiny):
    made, state, data, stored = setup(tiny(score="none"))
    loop = online.Loop(made, state, data, stored)
    for i, expected in ((0, 1), (1, 2)):
        for _ in range(expected):
            loop.step(made_up(i), made_up(i).next_obs, i)
        assert loop.take_total().count.tolist() == [expected]
    assert loop._carried._call._cache_size() == 1
