"""A point that must reach the origin: small enough to learn in seconds, used by many tests."""

import gymnasium
import numpy as np

HORIZON = 40


class PointMass(gymnasium.Env):
    """State: position in 2-D. Action: velocity. Reward: 1 - distance to the origin."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        """A red point on white, the origin black; drawn without any library."""
        picture = np.full((61, 81, 3), 255, np.uint8)
        for colour, (x, y) in (((0, 0, 0), (0, 0)), ((255, 0, 0), self.position)):
            row, column = int(30 - 6 * y), int(40 + 6 * x)
            picture[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = colour
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        angle = self.np_random.uniform(0, 2 * np.pi)
        self.position = 2 * np.array([np.cos(angle), np.sin(angle)])
        return self.position.copy(), {}

    def step(self, action):
        noise = 0.01 * self.np_random.normal(size=2)
        self.position = self.position + 0.15 * np.asarray(action, np.float64) + noise
        distance = float(np.linalg.norm(self.position))
        return self.position.copy(), 1 - distance, distance > 5, False, {}


if "PointMass-v0" not in gymnasium.registry:
    gymnasium.register("PointMass-v0", PointMass, max_episode_steps=HORIZON)
ENV = "pointmass:PointMass-v0"


def make_arrays(episodes=60, seed=0, skill=0.4):
    """D4RL-format arrays of a clumsy policy: towards the origin at part speed, with much noise."""
    env, rng = gymnasium.make("PointMass-v0"), np.random.default_rng(seed)
    rows = {k: [] for k in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for episode in range(episodes):
        obs, _ = env.reset(seed=1000 * seed + episode)
        done = False
        while not done:
            direction = -obs / max(np.linalg.norm(obs), 1e-6)
            action = np.clip(skill * direction + 0.5 * rng.normal(size=2), -1, 1)
            new, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            for key, value in zip(
                rows, (obs, action, reward, terminated, truncated and not terminated), strict=True
            ):
                rows[key].append(value)
            obs, done = new, terminated or truncated
    env.close()
    dtypes = (np.float32, np.float32, np.float32, bool, bool)
    return {k: np.asarray(v, d) for (k, v), d in zip(rows.items(), dtypes, strict=True)}
