"""The Recorder's file, read back, against what a plain loop saw."""

import errno

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from stratdiff.data import hdf5
from stratdiff.data.sources import locate
from stratdiff.data.tools import convert, log
from stratdiff.data.tools.recorder import Recorder
from stratdiff.envs.identity import exact
from stratdiff.errors import BadEnvironment, UserError
from stratdiff.tasks import load_env


class Count(gymnasium.Env):
    """Observes (episode, step); ends after the step that `ends` gives for the episode."""

    observation_space: gymnasium.Space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space: gymnasium.Space = Box(
        np.array([0, -30], np.float32), np.array([2, 10], np.float32)
    )

    def __init__(self, ends=()):
        self.ends = dict(enumerate(ends))
        self.position = np.array([-1.0, 0.0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position[:] = (self.position[0] + 1, 0)
        return self.position, {}  # the same array every time

    def step(self, action):
        assert action.dtype == np.float32
        assert action in self.action_space
        self.position[1] += 1
        end = self.ends.get(int(self.position[0]), (None, ""))
        ended = self.position[1] == end[0]
        reward = float(10 * self.position[0] + self.position[1])
        terminated, truncated = (ended and kind in end[1] for kind in ("terminal", "limit"))
        return self.position, reward, terminated, truncated, {}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "count.hdf5"


def play(env, lengths, seed=0):
    """A plain loop; every step as (s, a in [-1, 1], r, s', terminal)."""
    space, rng, steps = env.action_space, np.random.default_rng(seed), []
    for length in lengths:
        obs = env.reset()[0].copy()
        for _ in range(length):
            action = rng.uniform(space.low, space.high).astype(np.float32)
            new, reward, terminated, truncated, _ = env.step(action)
            unit = (action - space.low) / (space.high - space.low) * 2 - 1
            steps.append((obs, unit, reward, new.copy(), terminated))
            obs = new.copy()
            if terminated or truncated:
                break
    return steps


def assert_same(path, steps):
    """Next observations are compared where they are used: not after a terminal."""
    dataset = hdf5.read(path)
    assert len(dataset) == len(steps)
    for row, (obs, action, reward, next_obs, terminal) in zip(
        dataset.transitions, steps, strict=True
    ):
        np.testing.assert_array_equal(dataset.observations[row], np.float32(obs))
        np.testing.assert_allclose(dataset.actions[row], action, atol=1e-6)
        assert dataset.rewards[row] == np.float32(reward)
        assert dataset.terminals[row] == terminal
        if not terminal:
            np.testing.assert_array_equal(dataset.observations[row + 1], np.float32(next_obs))
    return dataset


ENDS = ((3, "terminal"), (4, "limit"), (2, "terminal limit"), (None, ""))


@pytest.mark.parametrize("episodes", [1, 2, 3, 4])
def test_file_holds_every_step(path, episodes):
    """The last episode ends in a terminal, a time limit, both, or with the recording."""
    with Recorder(Count(ENDS), path) as env:
        steps = play(env, (9, 9, 9, 5)[:episodes])
    dataset = assert_same(path, steps)
    returns = [sum(s[2] for s in steps if s[0][0] == i) for i in range(episodes)]
    np.testing.assert_allclose(dataset.episode_returns, returns)
    assert list(path.parent.iterdir()) == [path]


def test_reset_cuts_an_episode(path):
    with Recorder(Count(), path) as env:
        env.reset()
        steps = play(env, (3, 2))
    dataset = assert_same(path, steps)
    # Each cut episode is closed by its last observation, marked as a timeout.
    np.testing.assert_array_equal(
        dataset.observations, [[1, 0], [1, 1], [1, 2], [1, 3], [2, 0], [2, 1], [2, 2]]
    )
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [3, 6])


def test_actions_are_clipped_before_they_are_taken(path):
    with Recorder(Count(), path) as env:
        env.reset()
        env.step(np.array([5.0, -31.0]))
        env.step([1, -10])
    np.testing.assert_array_equal(hdf5.read(path).actions[:2], [[1, -1], [0, 0]])


def test_mujoco_state_is_that_before_the_action(path):
    env = gymnasium.make("HalfCheetah-v4")
    seen = []
    with Recorder(env, path) as recorded:
        recorded.reset(seed=3)
        for _ in range(3):
            data = env.unwrapped.data
            seen.append((data.qpos.copy(), data.qvel.copy()))
            recorded.step(recorded.action_space.sample())
        last = env.unwrapped.data.qpos.copy()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["infos/qpos"][:3], np.float32([q for q, _ in seen]))
        np.testing.assert_array_equal(file["infos/qvel"][:3], np.float32([v for _, v in seen]))
        np.testing.assert_array_equal(file["infos/qpos"][3], np.float32(last))
        # HalfCheetah observes qpos[1:] and qvel.
        np.testing.assert_array_equal(file["observations"][:, :8], file["infos/qpos"][:, 1:])
        assert file.attrs["env_id"] == "HalfCheetah-v4"
        assert file.attrs["gymnasium"] == gymnasium.__version__
        assert file.attrs["mujoco"].startswith("3.")


class Goal(Count):
    observation_space = Dict(b=Box(-9, 9, (2, 2)), a=Discrete(3))

    def reset(self, **kwargs):
        return {"b": np.array([[1, 2], [3, 4]], np.float32), "a": 2}, {}


def test_dict_observations_are_flat(path):
    env = Goal()
    env.step = lambda action: (*env.reset()[:1], 0.0, False, False, {})
    with Recorder(env, path) as recorded:
        obs, _ = recorded.reset()
        assert obs["a"] == 2  # the user sees the environment's own
        recorded.step(np.ones(2))
    np.testing.assert_array_equal(hdf5.read(path).observations[0], [1, 2, 3, 4, 0, 0, 1])


# Older recordings


def test_existing_file_is_not_touched(path):
    with Recorder(Count(), path) as env:
        play(env, (3,))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"count\.hdf5' already exists; give append=True"):
        Recorder(Count(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("episodes", [1, 2, 3, 4])
def test_append(path, episodes):
    with Recorder(Count(ENDS), path) as env:
        steps = play(env, (9, 9, 9, 5)[:episodes])
    for again in (1, 2):
        with Recorder(Count(ENDS), path, append=True) as env:
            steps += play(env, (9, 9), seed=again)
    dataset = assert_same(path, steps)
    assert len(dataset.episode_returns) == episodes + 4


def test_append_to_nothing_and_of_nothing(path):
    with Recorder(Count(), path, append=True) as env:
        env.reset()
    assert list(path.parent.iterdir()) == []
    with Recorder(Count(), path, append=True) as env:
        steps = play(env, (4,))
    assert_same(path, steps)
    with Recorder(Count(), path, append=True):
        pass
    assert_same(path, steps)


def test_append_to_another_environment(path):
    with Recorder(Count(), path, env_id="mine:Count-v0") as env:
        play(env, (3,))
    assert hdf5.read(path).env_id == "mine:Count-v0"
    with pytest.raises(UserError, match=r"environment 'mine:Count-v0', not 'Hopper-v4'"):
        Recorder(Count(), path, env_id="Hopper-v4", append=True)
    with pytest.raises(UserError, match="sizes"):
        Recorder(Goal(), path, env_id="mine:Count-v0", append=True)
    assert list(path.parent.iterdir()) == [path]


def test_killed_program_loses_no_episode(path):
    env = Recorder(Count(ENDS), path)
    steps = play(env, (9, 9, 9))
    env.reset()
    env.step(env.action_space.low)
    partial = log.partial_path(path)
    assert list(path.parent.iterdir()) == [partial]
    # What a killed program leaves: what has reached the file, and half of a step.
    left = partial.read_bytes() + b"\0" * 5
    env._log._file.close()
    partial.write_bytes(left)
    words = r"append=True .* stratdiff data convert .*count\.hdf5\.partial "
    with pytest.raises(UserError, match=words):
        Recorder(Count(), path)
    with Recorder(Count(ENDS), path, append=True) as env:
        steps += play(env, (9,), seed=7)
    dataset = assert_same(path, steps)
    assert len(dataset.episode_returns) == 4
    assert list(path.parent.iterdir()) == [path]


def test_log_that_ends_inside_an_episode(path):
    """Where a killed program left one: all but the last step, whose end is unknown, is kept."""
    env = Recorder(Count(((2, "terminal"),)), path)
    steps = play(env, (9, 4))[:-1]
    env._log.flush()
    partial = log.partial_path(path)
    convert.convert(str(partial), str(path))
    dataset = assert_same(path, steps)
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [1, 5])
    env._log._file.close()
    with Recorder(Count(((1, "terminal"),)), path, append=True) as env:
        steps += play(env, (1, 3))
    assert_same(path, steps)


def test_exception_keeps_what_was_recorded(path):
    with pytest.raises(KeyError), Recorder(Count(), path) as env:
        steps = play(env, (3,))
        raise KeyError
    assert_same(path, steps)


def test_partial_file_of_something_else(path):
    path.parent.mkdir()
    log.partial_path(path).write_bytes(b"\x80\x04 no log\n")
    with pytest.raises(UserError, match=r"count\.hdf5\.partial' is no log of a Recorder"):
        Recorder(Count(), path, append=True)


class FullDisk:
    def write(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = close = write


def test_full_disk(path):
    env = Recorder(Count(), path)
    steps = play(env, (2,))
    env.reset()
    env._log._file.close()
    env._log._file = FullDisk()
    for call in (lambda: env.step(env.action_space.low), env.close):
        with pytest.raises(UserError, match=r"No space left.*stratdiff data convert") as caught:
            call()
        assert "\n" not in str(caught.value)
    convert.convert(str(log.partial_path(path)), str(path))
    assert_same(path, steps)


# What the environment gives


def test_an_environment_that_writes_to_its_action(path):
    class Halves(Count):
        def step(self, action):
            action *= 0.5
            return super().step(np.clip(action, self.action_space.low, self.action_space.high))

    given = np.array([1.5, -20.0], np.float32)
    with Recorder(Halves(), path) as env:
        env.reset()
        env.step(given)
    assert given.tolist() == [1.5, -20.0]
    np.testing.assert_allclose(hdf5.read(path).actions[0], [0.5, -0.5])


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((np.array([0, np.nan]), 1.0, False, False, {}), "an observation that is NaN or infinite"),
        ((np.zeros(2), np.inf, False, False, {}), "a reward that is NaN or infinite"),
        ((np.zeros(2), 1e39, False, False, {}), "a reward that is NaN or infinite"),
        ((np.zeros(3), 1.0, False, False, {}), r"an observation of shape \(3,\), not \(2,\)"),
        ((np.zeros(2), "much", False, False, {}), "a reward 'much'"),
        ((np.zeros(2), 1.0, False, {}), "returned 4 values"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_and_what_came_before_is_kept(path, result, words):
    env = Count()
    with Recorder(env, path) as recorded:
        steps, step = play(recorded, (3,)), env.step
        env.step = lambda action: result
        with pytest.raises(BadEnvironment, match=f"{words}.* in step 4 of an episode"):
            recorded.step(env.action_space.low)
        with pytest.raises(UserError, match="call reset first"):
            recorded.step(env.action_space.low)
        env.step = step
        steps += play(recorded, (2,))
    dataset = assert_same(path, steps)
    np.testing.assert_array_equal(np.flatnonzero(dataset.ends), [3, 6])


def test_a_first_observation_that_is_refused(path):
    env = Count()
    env.reset = lambda **options: (np.array([np.nan, 0]), {})
    with Recorder(env, path) as recorded:
        with pytest.raises(BadEnvironment, match="NaN or infinite at reset"):
            recorded.reset()
        with pytest.raises(UserError, match="call reset first"):
            recorded.step(env.action_space.low)
    assert list(path.parent.iterdir()) == []


def test_one_number_in_an_array_is_a_reward(path):
    env = Count()
    env.step = lambda action: (np.zeros(2), np.array([[2.5]], "f4"), np.array([0]), np.False_, {})
    with Recorder(env, path) as recorded:
        recorded.reset()
        recorded.step(env.action_space.low)
    assert hdf5.read(path).rewards[0] == 2.5


def test_the_file_says_how_its_environment_was_made(path):
    env = gymnasium.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=5)
    with Recorder(env, path) as recorded:
        recorded.reset(seed=0)
        recorded.step(env.action_space.sample())
    text = hdf5.read_attributes(path)["env_spec"]
    made = load_env(exact("Hopper-v5", text))
    assert made.spec.max_episode_steps == 5
    assert made.unwrapped._terminate_when_unhealthy is False
    assert locate(str(path))[1].env_spec == text
    with pytest.raises(UserError, match=r"was recorded with environment .*terminate_when"):
        Recorder(gymnasium.make("Hopper-v5", max_episode_steps=5), path, append=True)
    with pytest.raises(UserError, match="the wrapper Wrapper, which could not be restored"):
        Recorder(gymnasium.Wrapper(gymnasium.make("Hopper-v5")), path.with_name("other.hdf5"))
    assert list(path.parent.iterdir()) == [path]


# What is refused, and in which words


class Unbounded(Count):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class DiscreteActions(Count):
    action_space = Discrete(2)


class AnySize(Count):
    observation_space = gymnasium.spaces.Sequence(Discrete(2))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Unbounded, "action space Box.* bounds"),
        (DiscreteActions, r"action space Discrete\(2\): discrete actions are not supported"),
        (AnySize, "observation space Sequence.* no fixed size"),
    ],
)
def test_spaces_that_cannot_be_stored(path, kind, words):
    with pytest.raises(UserError, match=words):
        Recorder(kind(), path)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("action", "words"),
    [([np.nan, 0.0], "finite"), ([0.0], "2 numbers"), (["a", "b"], "2 numbers")],
)
def test_bad_actions(path, action, words):
    with Recorder(Count(), path) as env:
        env.reset()
        with pytest.raises(UserError, match=words):
            env.step(np.array(action))


def test_step_outside_of_an_episode(path):
    env = Recorder(Count(((1, "terminal"),)), path)
    with pytest.raises(UserError, match="call reset first"):
        env.step(env.action_space.low)
    play(env, (5,))
    with pytest.raises(UserError, match="call reset first"):
        env.step(env.action_space.low)
    env.reset()
    env.close()
    env.close()
    with pytest.raises(UserError, match="after close"):
        env.step(env.action_space.low)
