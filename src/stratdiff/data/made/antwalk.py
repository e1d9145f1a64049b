"""The task on which the ant of the made AntMaze sets learns to walk to waypoints."""

from typing import Any

import gymnasium
import numpy as np

from stratdiff.data.made.waypoints import FEATURES, Navigator, actions, features
from stratdiff.envs.antmaze import AntMaze
from stratdiff.envs.mazes import SUCCESS_RADIUS, cell_xy, cells

ACTION_NOISE = 0.2
"""Standard deviation of the noise that D4RL's recipe adds to every action."""
_MAZES = ("umaze", "medium", "large")
_FASTEST = 2.0


class AntWalk(gymnasium.Env[np.ndarray, np.ndarray]):
    """An ant in a random maze, at a random place, on its way to one goal after another.

    Observation and action: see `waypoints.features` and `waypoints.actions`; `ACTION_NOISE` is
    added as in data collection. Reward: speed towards the waypoint in m/s (at most 2), plus how
    upright the torso is, minus 0.01 |action|². An ant on its back ends the episode.
    """

    def __init__(self) -> None:
        self._envs = {maze: (AntMaze(maze), Navigator(maze)) for maze in _MAZES}
        self._goal = np.zeros(2)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (FEATURES,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)

    def _draw(self) -> np.ndarray:
        """A point of a random cell that is no wall."""
        cell = self.np_random.choice(cells(self._env.maze, "rgGe."))
        return cell_xy(self._env.maze, cell) + self.np_random.uniform(0, 1, 2)

    def _observe(self, state: np.ndarray) -> np.ndarray:
        if np.linalg.norm(state[:2] - self._goal) <= SUCCESS_RADIUS:
            self._goal = self._draw()
        noise = self.np_random.uniform(0, 1, (1, 2))
        way = self._way.waypoints(state[None, :2], self._goal[None], noise)[0] - state[:2]
        self._direction = way / max(float(np.linalg.norm(way)), 1e-6)
        seen, self._quarter = features(state[None], self._direction[None])
        return seen[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        maze = _MAZES[self.np_random.integers(len(_MAZES))]
        self._env, self._way = self._envs[maze]
        self._goal = self._draw()
        start = {"xy": self._draw()}
        state, _ = self._env.reset(seed=int(self.np_random.integers(2**31)), options=start)
        # Any heading: turn the torso about the vertical.
        half = self.np_random.uniform(-np.pi, np.pi) / 2
        state[3:7] = [np.cos(half), 0, 0, np.sin(half)]
        self._env.set_state(state[:15], state[15:])
        self._state = state
        return self._observe(state), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """0.1 s."""
        noisy = actions(np.asarray(action, float)[None], self._quarter)[0]
        noisy = noisy + ACTION_NOISE * self.np_random.standard_normal(8)
        before = self._state[:2]
        self._state, *_ = self._env.step(np.clip(noisy, -1, 1))
        speed = float((self._state[:2] - before) @ self._direction) / 0.1
        _, x, y, _ = self._state[3:7] / np.linalg.norm(self._state[3:7])
        upright = float(1 - 2 * (x * x + y * y))
        reward = min(speed, _FASTEST) + upright - 0.01 * float(np.square(action).sum())
        return self._observe(self._state), reward, upright < -0.3, False, {}
