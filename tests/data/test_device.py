"""D_off in training units, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.data.dataset import from_arrays
from stratdiff.data.device import to_device


@pytest.fixture(scope="module")
def dataset():
    # Rows 0 to 2 end in a terminal; 3 and 4 in a time limit, whose row is no transition; 5 and 6
    # are cut off, and what follows the last row is unknown.
    obs = np.array([0.0, 2.0, 4.0, 10.0, 12.0, 6.0, 8.0])
    return from_arrays(
        "seven rows",
        {
            "observations": np.stack([obs, -obs], 1).astype(np.float32),
            "actions": np.linspace(-1, 1, 7, dtype=np.float32)[:, None],
            "rewards": np.array([1, 2, 4, 0, 0, 1, 1], np.float32),
            "terminals": np.array([0, 0, 1, 0, 0, 0, 0], np.float32),
            "timeouts": np.array([0, 0, 0, 0, 1, 0, 0], np.float32),
        },
    )


def test_transitions_by_hand(dataset):
    data = to_device(dataset, scale=2.0, shift=1.0, discount=0.5, sparse=False)
    assert len(data) == 5
    np.testing.assert_array_equal(data.rows, [0, 1, 2, 3, 5])
    # The states of the transitions are 0, 2, 4, 10, 6: mean 4.4, variance 59.2/5.
    std = (59.2 / 5) ** 0.5
    np.testing.assert_allclose(data.mean, [4.4, -4.4], rtol=1e-6)
    np.testing.assert_allclose(data.std, [std, std], rtol=1e-6)
    batch = data.take(jnp.array([1, 2, 4]))
    normal = (np.array([2.0, 4.0, 6.0]) - 4.4) / std
    after = (np.array([4.0, 10.0, 8.0]) - 4.4) / std
    np.testing.assert_allclose(batch.obs, np.stack([normal, -normal], 1), rtol=1e-5)
    np.testing.assert_allclose(batch.next_obs, np.stack([after, -after], 1), rtol=1e-5)
    np.testing.assert_array_equal(batch.action, dataset.actions[[1, 2, 5]])
    np.testing.assert_array_equal(batch.terminal, [False, True, False])
    # 2 r + 1; the returns from there on are 5 + 9/2 and 9, and unknown.
    np.testing.assert_array_equal(batch.reward, [5.0, 9.0, 3.0])
    np.testing.assert_array_equal(batch.mc_return, [9.5, 9.0, -np.inf])


def test_next_actions_by_hand(dataset):
    data = to_device(dataset, 1.0, 0.0, 0.5, False)
    # Of row 3 it is that of the time limit's row, of the terminal row 2 it plays no part.
    found = data.take(jnp.array([0, 1, 3, 4])).next_action
    np.testing.assert_array_equal(found, dataset.actions[[1, 2, 4, 6]])


def test_next_actions_that_no_step_took_are_unknown():
    # Row 2 was added for its state: it is no transition, and its action is zero. Row 1's is zero
    # as well, but a step took it.
    action = np.array([0.5, 0.0, 0.0, 0.25, 0.5], np.float32)[:, None]
    dataset = from_arrays(
        "five rows",
        {
            "observations": np.arange(5, dtype=np.float32)[:, None],
            "actions": action,
            "rewards": np.zeros(5, np.float32),
            "terminals": np.zeros(5, np.float32),
            "timeouts": np.array([0, 0, 1, 0, 0], np.float32),
        },
    )
    data = to_device(dataset, 1.0, 0.0, 0.5, False)
    np.testing.assert_array_equal(data.rows, [0, 1, 3])
    found = data.take(jnp.arange(3)).next_action
    np.testing.assert_array_equal(found, np.array([[0.0], [np.nan], [0.5]], np.float32))


def test_sparse_returns_of_a_trajectory_that_fails(dataset):
    # Reward 10 r - 5: rows 3 and 4 never get anything, -5 / (1 - 0.5) at each.
    data = to_device(dataset, scale=10.0, shift=-5.0, discount=0.5, sparse=True)
    np.testing.assert_array_equal(data.reward, [5, 15, 35, -5, -5, 5, 5])
    np.testing.assert_allclose(
        data.mc_return, [5 + 7.5 + 8.75, 15 + 17.5, 35, -10, -10, -np.inf, -np.inf]
    )
    # The data set itself is as it was.
    np.testing.assert_array_equal(dataset.rewards, [1, 2, 4, 0, 0, 1, 1])


def test_a_row_that_was_added_for_its_state_has_no_reward():
    """Reward r - 5 a step, worked by hand: row 3 is no step, and row 5 is one with a time limit."""
    rewards = np.array([0, 10, 10, 0, 0, 0, 0], np.float32)
    actions = np.where([True, True, True, False, True, True, True], 0.5, 0.0)
    arrays = {
        "observations": np.arange(7, dtype=np.float32)[:, None],
        "actions": actions.astype(np.float32)[:, None],
        "rewards": rewards,
        "terminals": np.zeros(7, np.float32),
        "timeouts": np.isin(np.arange(7), [3, 5]).astype(np.float32),
    }
    dataset = from_arrays("added", arrays)
    np.testing.assert_array_equal(dataset.added, [3])
    data = to_device(dataset, scale=1.0, shift=-5.0, discount=0.5, sparse=False)
    expected = [-5 + 2.5 + 1.25, 5 + 2.5, 5, 0, -5 - 2.5, -5, -np.inf]
    np.testing.assert_array_equal(data.mc_return, expected)


def test_samples_are_uniform_transitions(dataset):
    data = to_device(dataset, 1.0, 0.0, 0.5, False)
    index = np.asarray(data.sample_index(jax.random.key(0), 10_000))
    # Standard error of a share: 0.004.
    np.testing.assert_allclose(np.bincount(index) / 10_000, 0.2, atol=0.02)
    rows = np.asarray(data.sample_rows(jax.random.key(0), 10_000))
    np.testing.assert_array_equal(rows, np.asarray(data.rows)[index])
