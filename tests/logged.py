"""Small logged data, written by hand or recorded with Minari, and what is in files."""

import warnings

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from stratdiff.data import hdf5

KEYS = ("observations", "actions", "rewards", "terminals", "timeouts", "infos/qpos", "infos/qvel")


def arrays_of(path, keys=KEYS):
    return hdf5.read_arrays(path, keys)


ROWS = 12


def make_arrays(rows=ROWS):
    """A terminal at row 3, a time limit at row 7, the rest cut off."""
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    terminals[3:4], timeouts[7:8] = True, True
    return {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def qlearning_dataset(arrays, horizon=None):
    """D4RL's loop over the rows of a file; `horizon` is needed where there are no timeouts."""
    out, episode_step = [], 0
    for i in range(len(arrays["rewards"]) - 1):
        if "timeouts" in arrays:
            final_timestep = arrays["timeouts"][i]
        else:
            final_timestep = episode_step == horizon - 1
        if final_timestep:
            episode_step = 0
            continue
        if arrays["terminals"][i]:
            episode_step = 0
        episode_step += 1
        out.append(
            (
                arrays["observations"][i],
                arrays["actions"][i],
                arrays["rewards"][i],
                arrays["observations"][i + 1],
                bool(arrays["terminals"][i]),
            )
        )
    return [np.stack(column) for column in zip(*out, strict=True)]


class Walk(gymnasium.Env):
    """A random walk; which episode ends how, and what is observed, is up to the test."""

    observation_space: gymnasium.Space = Box(-np.inf, np.inf, (3,), np.float64)
    action_space: gymnasium.Space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, terminal_at=()):
        self.terminal_at = list(terminal_at)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.last = self.terminal_at.pop(0) if self.terminal_at else None
        return self.observe(), {}

    def observe(self):
        return self.observation_space.sample()

    def step(self, action):
        self.steps += 1
        reward = float(self.np_random.normal())
        return self.observe(), reward, self.steps == self.last, False, {}


class NestedLike(Walk):
    observation_space = Dict(
        z=Box(-1, 1, (2, 2), np.float64),
        a=Dict(y=Box(-1, 1, (1,), np.float32), b=Box(-1, 1, (), np.float32)),
    )


def record(env, lengths, name="own/walk-v0", data_format="hdf5"):
    """One episode per entry of `lengths`, cut off there unless the environment ends it."""
    import minari

    collector = minari.DataCollector(env, data_format=data_format)
    env.observation_space.seed(0)
    env.action_space.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, length in enumerate(lengths):
            collector.reset(seed=i)
            for _ in range(length):
                _, _, terminated, truncated, _ = collector.step(collector.action_space.sample())
                if terminated or truncated:
                    break
        collector.create_dataset(name)
        collector.close()
    return minari.load_dataset(name)


def minari_transitions(source, to_flat=lambda obs, t: obs[t]):
    """Every step of every episode, by a loop: (s, a, r, s', terminal)."""
    return [
        (
            np.asarray(to_flat(e.observations, t), np.float32),
            np.asarray(e.actions[t], np.float32),
            np.float32(e.rewards[t]),
            np.asarray(to_flat(e.observations, t + 1), np.float32),
            bool(e.terminations[t]),
        )
        for e in source
        for t in range(len(e.rewards))
    ]


def assert_same_transitions(dataset, expected):
    """Next observations are compared where they are used: not after a terminal."""
    assert len(dataset) == len(expected)
    for row, (obs, action, reward, next_obs, terminal) in zip(
        dataset.transitions, expected, strict=True
    ):
        np.testing.assert_array_equal(dataset.observations[row], obs)
        np.testing.assert_array_equal(dataset.actions[row], action)
        assert dataset.rewards[row] == reward
        assert dataset.terminals[row] == terminal
        if not terminal:
            np.testing.assert_array_equal(dataset.observations[row + 1], next_obs)
