"""The ring buffer against plain Python lists."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.data.batch import Transition
from stratdiff.data.replay import Replay, empty_replay

CAPACITY, OBS, ACT, SUPPORT = 7, 2, 1, 3
insert = jax.jit(Replay.insert)


@functools.partial(jax.jit, static_argnums=(2, 3))
def finish(replay, length, discount, horizon):
    return replay.finish_episode(length, discount, horizon)


def transition(i, reward=0.0):
    """A transition whose every number tells that it is the i-th."""
    return Transition(
        obs=jnp.asarray([i, -i], jnp.float32),
        action=jnp.asarray([i / 100], jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        next_obs=jnp.asarray([i + 1, -i - 1], jnp.float32),
        terminal=jnp.asarray(i % 3 == 0),
        mc_return=jnp.asarray(-np.inf, jnp.float32),
    )


def support(i):
    return jnp.full((SUPPORT, ACT), i / 1000, jnp.float32)


def empty(stored=()):
    return empty_replay(CAPACITY, OBS, ACT, stored)


STORED = jax.ShapeDtypeStruct((SUPPORT, ACT), jnp.float32)


def test_empty():
    replay = empty(STORED)
    assert replay.capacity == CAPACITY
    assert replay.size == replay.inserted == 0
    assert replay.stored.shape == (CAPACITY, SUPPORT, ACT)
    assert replay.data.obs.shape == replay.data.next_obs.shape == (CAPACITY, OBS)
    assert (replay.data.mc_return == -jnp.inf).all()


@pytest.mark.parametrize("count", [1, CAPACITY, CAPACITY + 1, 2 * CAPACITY + 3])
def test_insert_overwrites_the_oldest(count):
    replay = empty(STORED)
    rows = [None] * CAPACITY
    for i in range(count):
        replay = insert(replay, transition(i, reward=10.0 * i), support(i))
        rows[i % CAPACITY] = i
    assert replay.size == min(count, CAPACITY)
    assert replay.inserted == count
    for row, i in enumerate(rows):
        if i is None:
            assert not replay.data.obs[row].any()
            continue
        expected = transition(i, reward=10.0 * i), support(i)
        both = jax.tree.leaves((replay.data, replay.stored)), jax.tree.leaves(expected)
        for found, value in zip(*both, strict=True):
            np.testing.assert_array_equal(found[row], value)


def test_what_is_stored_is_any_tree_of_arrays():
    row = {"weight": jax.ShapeDtypeStruct((), jnp.float32), "action": STORED}
    replay = empty(row)
    replay = insert(replay, transition(4), {"weight": jnp.asarray(2.5), "action": support(4)})
    assert replay.stored["weight"].shape == (CAPACITY,)
    assert replay.stored["weight"][0] == 2.5 and replay.stored["weight"][1] == 0
    np.testing.assert_array_equal(replay.stored["action"][0], support(4))


def test_nothing_is_stored():
    replay = insert(empty(), transition(4), ())
    assert replay.stored == ()
    assert replay.data.obs[0, 0] == 4


def test_finish_episode_by_hand_across_the_end_of_the_ring():
    # Rows 0 to 4 hold an old episode; the new one is in rows 5, 6, 0, 1.
    replay = empty()
    for i in range(5):
        replay = insert(replay, transition(i, 1.0), ())
    replay = finish(replay, jnp.asarray(5), 0.5, 6)
    old = [1.9375, 1.875, 1.75, 1.5, 1.0]
    np.testing.assert_array_equal(replay.data.mc_return, [*old, -np.inf, -np.inf])
    for i, reward in enumerate([8.0, 4.0, 2.0, 16.0]):
        replay = insert(replay, transition(5 + i, reward), ())
    # Overwritten rows lost their return.
    none = [-np.inf] * 2
    np.testing.assert_array_equal(replay.data.mc_return, [*none, *old[2:], *none])
    done = finish(replay, jnp.asarray(4), 0.5, 6)
    # 16; 2 + 8; 4 + 5; 8 + 4.5.
    np.testing.assert_array_equal(done.data.mc_return, [10, 16, *old[2:], 12.5, 9])
    # Nothing else changed.
    for name in ("obs", "action", "reward", "next_obs", "terminal"):
        np.testing.assert_array_equal(getattr(done.data, name), getattr(replay.data, name))
    assert done.inserted == replay.inserted == 9


def test_an_episode_of_length_zero_changes_nothing():
    replay = insert(empty(), transition(0, 3.0), ())
    done = finish(replay, jnp.asarray(0), 0.5, 6)
    np.testing.assert_array_equal(done.data.mc_return, replay.data.mc_return)


def test_random_episodes_equal_lists():
    rng = np.random.default_rng(3)
    replay = empty()
    # What each row should hold: [reward, return].
    rows = [[0.0, -np.inf] for _ in range(CAPACITY)]
    count = 0
    # Longer than the buffer too: the rows that are left get their full return.
    for length in [2, 3, 1, 7, 4, 6, 10, 5, 1, 2, 7]:
        for _ in range(length):
            reward = float(np.float32(rng.normal()))
            rows[count % CAPACITY] = [reward, -np.inf]
            replay = insert(replay, transition(count, reward), ())
            count += 1
        value = 0.0
        for back in range(min(length, CAPACITY)):
            row = rows[(count - 1 - back) % CAPACITY]
            value = row[0] + 0.9 * value
            row[1] = value
        replay = finish(replay, jnp.asarray(length), 0.9, 10)
        expected = [row[1] for row in rows]
        np.testing.assert_allclose(replay.data.mc_return, expected, rtol=1e-5, atol=1e-6)


def test_failed_sparse_episode_would_have_gone_on_so():
    """AntMaze, rewards -5 until the goal's 5: two failed steps, then two that reach it."""
    replay = empty()
    for i, reward in enumerate([-5.0, -5.0]):
        replay = insert(replay, transition(i, reward), ())
    replay = replay.finish_episode(jnp.asarray(2), 0.9, 5, failure_reward=-5.0)
    for i, reward in enumerate([-5.0, 5.0], 2):
        replay = insert(replay, transition(i, reward), ())
    replay = replay.finish_episode(jnp.asarray(2), 0.9, 5, failure_reward=-5.0)
    np.testing.assert_allclose(replay.data.mc_return[:4], [-50, -50, -0.5, 5], rtol=1e-5)


def taken(count, rows, replace=None):
    """The next actions of these rows after `count` transitions, some of them replaced."""
    replay = empty()
    for i in range(count):
        replay = insert(replay, (replace or {}).get(i) or transition(i), ())
    return np.asarray(jax.jit(Replay.take)(replay, jnp.array(rows)).next_action)[:, 0]


def test_the_action_that_followed():
    # The newest row is 3: what came after it is not known yet.
    found = taken(4, [0, 1, 2, 3])
    np.testing.assert_allclose(found, [0.01, 0.02, 0.03, np.nan])
    # Row 1 ends an episode; the next one starts elsewhere.
    other = transition(2)._replace(obs=jnp.array([50.0, 50.0]))
    np.testing.assert_allclose(taken(4, [0, 1, 2], {2: other}), [0.01, np.nan, 0.03])


def test_the_action_that_followed_in_a_full_buffer():
    # Rows hold the steps 7, 8, 9, 3, 4, 5, 6; behind the newest, 9, stands the oldest, 3.
    found = taken(CAPACITY + 3, [0, 1, 2, 3, CAPACITY - 1])
    np.testing.assert_allclose(found, [0.08, 0.09, np.nan, 0.04, 0.07])
    # Even where it happens to start where the newest step ended.
    same = transition(3)._replace(obs=transition(10).obs)
    assert np.isnan(taken(CAPACITY + 3, [2], {3: same})).all()


def test_a_transition_is_taken_as_it_is():
    replay = empty(STORED)
    for i in range(CAPACITY + 2):
        replay = insert(replay, transition(i, reward=10.0 * i), support(i))
    found = jax.jit(Replay.take)(replay, jnp.array([0, 4]))
    for j, i in enumerate((7, 4)):
        for name, value in transition(i, reward=10.0 * i)._asdict().items():
            if name != "next_action":
                np.testing.assert_array_equal(getattr(found, name)[j], value)
