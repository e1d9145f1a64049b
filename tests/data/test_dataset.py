"""The in-memory data set against D4RL's own loop and naive sums."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratdiff.data.dataset import (
    Dataset,
    finish_rows,
    from_arrays,
    returns_to_go,
    transition_rows,
    validate,
)
from stratdiff.errors import UserError


def d4rl_loop(terminals, timeouts, horizon):
    """(kept rows, rows counted as final steps) of D4RL's `qlearning_dataset`, row by row.

    D4RL stops before the last row; here the loop also visits it, to say whether it is final.
    """
    kept, final_rows = [], []
    episode_step = 0
    for i in range(len(terminals)):
        final_timestep = timeouts[i] if timeouts is not None else episode_step == horizon - 1
        final_rows.append(bool(final_timestep))
        if final_timestep:
            episode_step = 0
            continue
        if terminals[i]:
            episode_step = 0
        if i < len(terminals) - 1:
            kept.append(i)
        # Also after a terminal: the next episode starts to count at 1.
        episode_step += 1
    return kept, final_rows


def true_time_limits(terminals, horizon):
    """Rows that are the horizon-th step of their trajectory."""
    out, steps = [], 0
    for terminal in terminals:
        steps += 1
        out.append(steps == horizon)
        if terminal or steps == horizon:
            steps = 0
    return out


flags = st.lists(st.booleans(), min_size=1, max_size=40)
rare = st.lists(st.integers(0, 9).map(lambda x: x == 0), min_size=1, max_size=60)


@st.composite
def marked_rows(draw):
    terminals = np.array(draw(flags | rare))
    timeouts = draw(
        st.none() | st.lists(st.booleans(), min_size=len(terminals), max_size=len(terminals))
    )
    return terminals, None if timeouts is None else np.array(timeouts)


@given(marked_rows(), st.integers(1, 12))
@settings(deadline=None, max_examples=300)
def test_transition_rows_follow_d4rl(rows, horizon):
    terminals, timeouts = rows
    kept, final = d4rl_loop(terminals, timeouts, horizon)
    ends, transitions = transition_rows(terminals, timeouts, horizon)
    np.testing.assert_array_equal(transitions, kept)
    if timeouts is None:
        final = true_time_limits(terminals, horizon)
    np.testing.assert_array_equal(ends, terminals | np.array(final))


def test_transition_rows_by_hand():
    # Terminal at 2, time limit at 5, terminal at 7, the end cut off at 9.
    terminals, timeouts = np.zeros(10, bool), np.zeros(10, bool)
    terminals[[2, 7]], timeouts[5] = True, True
    ends, rows = transition_rows(terminals, timeouts, None)
    np.testing.assert_array_equal(np.flatnonzero(ends), [2, 5, 7])
    np.testing.assert_array_equal(rows, [0, 1, 2, 3, 4, 6, 7, 8])


def test_step_counter_starts_at_one_after_a_terminal():
    # Horizon 4: rows 0 to 3 count 0 1 2 3, then after the terminal of row 5 the count is 1.
    terminals = np.zeros(12, bool)
    terminals[5] = True
    ends, rows = transition_rows(terminals, None, 4)
    # Dropped: row 3 (0 + 3), row 8 (6 + 2), then 4 rows on. Trajectories end at rows 3, 5 and 9.
    np.testing.assert_array_equal(np.flatnonzero(ends), [3, 5, 9])
    np.testing.assert_array_equal(rows, [0, 1, 2, 4, 5, 6, 7, 9, 10])


def test_without_timeouts_and_horizon_only_terminals_end():
    terminals = np.array([False, True, False, False])
    ends, rows = transition_rows(terminals, None, None)
    np.testing.assert_array_equal(ends, terminals)
    np.testing.assert_array_equal(rows, [0, 1, 2])


@pytest.mark.parametrize(
    "horizon",
    [
        None,
        5,
    ],
)
def test_no_rows(horizon):
    ends, rows = transition_rows(np.zeros(0, bool), None, horizon)
    assert len(ends) == len(rows) == 0


# Returns


def naive_returns(rewards, ends, discount):
    """Every row walks forward to its own end."""
    out = []
    for start in range(len(rewards)):
        value, factor = 0.0, 1.0
        for i in range(start, len(rewards)):
            value += factor * rewards[i]
            factor *= discount
            if ends[i]:
                break
        else:
            value = -math.inf
        out.append(value)
    return out


@given(flags | rare, st.floats(0.1, 0.999), st.integers(0, 1000))
def test_returns_to_go_equal_forward_sums(ends, discount, seed):
    rewards = np.random.default_rng(seed).normal(size=len(ends))
    found = returns_to_go(rewards, np.array(ends), discount)
    np.testing.assert_allclose(found, naive_returns(rewards, ends, discount), atol=1e-9)


def test_returns_to_go_by_hand():
    # A terminal at 2, a time limit at 4 (nothing is bootstrapped), an unfinished trajectory.
    rewards = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    ends = np.array([False, False, True, False, True, False])
    found = returns_to_go(rewards, ends, 0.5)
    np.testing.assert_array_equal(found, [1 + 1 + 1, 2 + 2, 4, 8 + 8, 16, -np.inf])


def test_no_trajectory_is_complete():
    found = returns_to_go(np.ones(3), np.zeros(3, bool), 0.9)
    np.testing.assert_array_equal(found, [-np.inf] * 3)


def test_sparse_returns_of_trajectories_without_success():
    # AntMaze in training units: -5 a step, +5 at the goal. Success; failure; failure, cut off.
    rewards = np.array([-5.0, 5.0, -5.0, -5.0, -5.0])
    ends = np.array([False, True, False, True, False])
    successes = rewards > 0
    found = returns_to_go(rewards, ends, 0.9, sparse=True, successes=successes)
    np.testing.assert_allclose(found, [-5 + 0.9 * 5, 5, -50, -50, -np.inf])
    # The same rows under the plain rule.
    found = returns_to_go(rewards, ends, 0.9)
    np.testing.assert_allclose(found, [-0.5, 5, -5 - 0.9 * 5, -5, -np.inf])


# Dataset


def make_dataset(**changes):
    rng = np.random.default_rng(0)
    terminals = np.array([False, False, True, False, False, False])
    ends = np.array([False, False, True, False, True, False])
    fields = {
        "name": "six rows",
        "env_id": None,
        "observations": rng.normal(size=(6, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (6, 2)).astype(np.float32),
        "rewards": np.array([1, 2, 3, 4, 5, 6], np.float32),
        "terminals": terminals,
        "ends": ends,
        "transitions": np.array([0, 1, 2, 3]),
    }
    return Dataset(**(fields | changes))


def trajectories(rewards, ends):
    """Rows of which only rewards and ends matter."""
    n = len(rewards)
    return make_dataset(
        observations=np.zeros((n, 1), np.float32),
        actions=np.zeros((n, 1), np.float32),
        rewards=rewards,
        terminals=ends,
        ends=ends,
    )


def test_length_and_episode_returns():
    dataset = make_dataset()
    assert len(dataset) == 4
    # The unfinished trajectory has no return.
    np.testing.assert_allclose(dataset.episode_returns, [6, 9])
    none = make_dataset(ends=np.zeros(6, bool), terminals=np.zeros(6, bool))
    assert len(none.episode_returns) == 0


def test_episode_returns_keep_their_digits():
    # A million rewards of 0.1 in float32 would sum to 100958.
    n = 1_000_000
    ends = np.zeros(n, bool)
    ends[-1] = True
    long = trajectories(np.full(n, 0.1, np.float32), ends)
    assert long.episode_returns[0] == pytest.approx(n * float(np.float32(0.1)), rel=1e-9)


@given(flags, st.integers(0, 1000))
def test_episode_returns_equal_loops(ends, seed):
    rewards = np.random.default_rng(seed).normal(size=len(ends)).astype(np.float32)
    expected, total = [], 0.0
    for reward, end in zip(rewards, ends, strict=True):
        total += float(reward)
        if end:
            expected.append(total)
            total = 0.0
    dataset = trajectories(rewards, np.array(ends))
    np.testing.assert_allclose(dataset.episode_returns, expected, atol=1e-6)


def test_normalizer_sees_transitions_only():
    observations = np.array(
        [[0, 5, 1], [2, 5, 1], [4, 5, 1], [6, 5, 1], [1000, -9, 2], [-1000, 9, 3]], np.float32
    )
    mean, std = make_dataset(observations=observations).normalizer()
    np.testing.assert_allclose(mean, [3, 5, 1])
    # Variance of 0, 2, 4, 6 is 5; constant columns get the least allowed.
    np.testing.assert_allclose(std, [math.sqrt(5), 1e-3, 1e-3], rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_fingerprint_depends_on_every_array_and_on_nothing_else():
    dataset = make_dataset()
    assert len(dataset.fingerprint) == 16
    same = {
        f.name: getattr(dataset, f.name).copy()
        for f in dataclasses.fields(dataset)
        if f.name not in ("name", "env_id", "metadata")
    }
    renamed = make_dataset(name="other", env_id="Hopper-v4", **same)
    assert renamed.fingerprint == dataset.fingerprint
    seen = {dataset.fingerprint}
    for name, array in same.items():
        changed = array.copy()
        first = (0,) * changed.ndim
        changed[first] = not changed[first] if changed.dtype == bool else changed[first] + 0.25
        if name == "transitions":
            changed[0] = 4
        seen.add(make_dataset(**{name: changed}).fingerprint)
    assert len(seen) == 1 + len(same)


# Validation


def test_good_data_pass():
    validate(make_dataset())
    # Rounding of a few bits beyond 1 is accepted.
    validate(make_dataset(actions=np.full((6, 2), 1 + 5e-6, np.float32)))


def bad(field, value, *index):
    array = getattr(make_dataset(), field).copy()
    array[index] = value
    return make_dataset(**{field: array})


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (bad("observations", np.nan, slice(1, 3), 1), ["observations", "2 values", r"\(1, 1\)"]),
        (bad("actions", np.inf, 4, 1), ["actions", "1 values", r"\(4, 1\)", "infinite"]),
        (bad("rewards", -np.inf, 5), ["rewards", "1 values", r"\(5,\)"]),
        (bad("actions", -1.5, 3), ["2 action values", r"-1.5", r"\(3, 0\)", r"\[-1, 1\]"]),
        (make_dataset(transitions=np.zeros(0, int)), ["6 rows", "no transition"]),
    ],
)
def test_bad_data_are_refused(dataset, words):
    for word in ["six rows", *words]:
        with pytest.raises(UserError, match=word):
            validate(dataset)


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("terminals", np.zeros((4, 1), bool)),
        ("rewards", np.zeros(4, complex)),
        ("observations", np.zeros(4, np.float32)),
        ("actions", np.zeros((4, 0), np.float32)),
        ("timeouts", None),
        ("actions", [[0.0]] * 4),
    ],
)
def test_arrays_of_another_shape_or_kind_are_refused(key, array):
    arrays = {
        "observations": np.zeros((4, 2), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.zeros(4, np.float32),
        "terminals": np.zeros(4, bool),
    }
    with pytest.raises(UserError, match=f"'own': '{key}' has values of .* is needed"):
        from_arrays("own", arrays | {key: array})


def test_episodes_of_a_collector_that_goes_on_at_the_goal():
    # Rows: 0 0 1t 1t | 0 0 1T | 0 0 | 1t 0 (t: terminal, T: terminal and time limit, |: time limit)
    rewards = np.array([0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0], np.float32)
    arrays = {
        "observations": np.arange(11, dtype=np.float32)[:, None],
        "actions": np.zeros((11, 1), np.float32),
        "rewards": rewards,
        "terminals": rewards,
        "timeouts": np.isin(np.arange(11), [3, 6, 8]).astype(np.float32),
    }
    data = from_arrays("collected", arrays)
    stops, returns = data.episodes(sparse=True)
    assert stops.tolist() == [3, 6, 8] and returns.tolist() == [1, 1, 0]
    stops, returns = data.episodes()
    assert stops.tolist() == [2, 3, 6, 8, 9] and returns.tolist() == [1, 1, 1, 0, 1]
    # Without any time limit, a terminal ends the episode.
    del arrays["timeouts"]
    stops, returns = from_arrays("collected", arrays).episodes(sparse=True)
    assert stops.tolist() == [2, 3, 6, 9] and returns.tolist() == [1, 1, 1, 1]


def test_episodes_of_an_environment_that_ends_at_the_goal():
    # Rows: 0 1T | 0 1T | 0 0 0L | 1T and the row that closes the file (T: terminal, L: limit)
    rewards = np.array([0, 1, 0, 1, 0, 0, 0, 1, 0], np.float32)
    arrays = {
        "observations": np.arange(9, dtype=np.float32)[:, None],
        "actions": np.zeros((9, 1), np.float32),
        "rewards": rewards,
        "terminals": rewards,
        "timeouts": (np.arange(9) == 6).astype(np.float32),
    }
    stops, returns = from_arrays("own", arrays).episodes(sparse=True)
    assert stops.tolist() == [1, 3, 6, 7] and returns.tolist() == [1, 1, 0, 1]


def test_held_out_trajectories_are_whole_and_nothing_is_lost():
    """Three episodes: one ends, one is cut off at its time limit, one is cut off by the file."""
    n = 9
    arrays = {
        "observations": np.arange(n, dtype=np.float32)[:, None],
        "actions": np.linspace(-1, 1, n, dtype=np.float32)[:, None],
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": np.arange(n) == 2,
        "timeouts": np.arange(n) == 6,
    }
    dataset = from_arrays("three", arrays)
    assert dataset.transitions.tolist() == [0, 1, 2, 3, 4, 5, 7]

    def steps(part):
        rows = part.transitions
        after = np.where(part.terminals[rows], -1, part.observations[rows + 1, 0])
        return {*zip(part.observations[rows, 0].tolist(), after.tolist(), strict=True)}

    whole = {(0, 1), (1, 2), (2, -1), (3, 4), (4, 5), (5, 6), (7, 8)}
    for fraction in (0.2, 0.4, 0.7):
        kept, held = dataset.hold_out(fraction)
        assert steps(kept) | steps(held) == whole and not steps(kept) & steps(held)
        sides = [{0, 1, 2}, {3, 4, 5}, {7}]
        for part in (kept, held):
            starts = {start for start, _ in steps(part)}
            assert all(side <= starts or not side & starts for side in sides)
        again = dataset.hold_out(fraction)[1]
        assert again.fingerprint == held.fingerprint
    # A row that only closes a file is no trajectory.
    ended = {key: values[:3] for key, values in arrays.items()}
    twice = {key: np.concatenate([values, values]) for key, values in ended.items()}
    sizes = [len(part) for part in from_arrays("two", finish_rows(twice)).hold_out(0.5)]
    assert sizes == [3, 3]
    own, nothing = dataset.hold_out(0.0)
    assert own is dataset and nothing is None
    with pytest.raises(UserError, match=r"has 3 trajectories, of which --validation-fraction 0\.9"):
        dataset.hold_out(0.9)
