"""OGBench's single-task mazes, as this package trains in them.

Facts from seohongpark/ogbench at 1d41409 and ogbench 1.2.2: ogbench/locomaze/__init__.py (names,
horizons), ogbench/locomaze/maze.py (rewards, success), data_gen_scripts/commands.sh (data sets).
The environment itself is OGBench's; the package ogbench is imported when one is made.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from stratdiff.errors import UserError


class Maze(NamedTuple):
    """What is known of the single-task environments of a robot in a maze."""

    horizon: int
    """Steps after which the environment cuts an episode."""
    kinds: tuple[str, ...] = ("navigate", "stitch")
    """How its data sets were collected."""
    trajectory: int = 0
    """Rows of their longest trajectories, where these are longer than the environment's."""


_ALL = ("navigate", "stitch", "explore")
MAZES = {
    **{f"pointmaze-{maze}": Maze(1000) for maze in ("medium", "large", "teleport")},
    "pointmaze-giant": Maze(1000, trajectory=2001),
    **{f"antmaze-{maze}": Maze(1000, _ALL) for maze in ("medium", "large", "teleport")},
    "antmaze-giant": Maze(1000, trajectory=2001),
    **{f"humanoidmaze-{maze}": Maze(2000) for maze in ("medium", "large")},
    "humanoidmaze-giant": Maze(4000),
    **{f"antsoccer-{maze}": Maze(1000) for maze in ("arena", "medium")},
}
"""OGBench's mazes whose observations are states."""
TASKS = ("singletask", *(f"singletask-task{number}" for number in range(1, 6)))
"""The default task of a maze, and each of its five."""


class SingleTask(gymnasium.Wrapper):
    """OGBench's environment with rewards of 1 at the goal and 0 elsewhere, OGBench's plus 1.

    The reward and the terminal tell of the state before the action, as OGBench's do and as its data
    are labelled. Where the ant starts and where a teleporter leads to, OGBench draws from NumPy's
    global generator; here both depend on the seed of `reset` alone, and that generator is left as
    it was.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._rng = np.random.default_rng()

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        before = np.random.get_state()
        np.random.seed(self._rng.integers(2**32, dtype=np.uint32))
        try:
            yield
        finally:
            np.random.set_state(before)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode at the task's start."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        with self._drawing():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """A step of OGBench's environment."""
        with self._drawing():
            obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward) + 1, terminated, truncated, info


def make(name: str, render_mode: str | None = None) -> SingleTask:
    """The environment of OGBench's name, such as `antmaze-medium-singletask-v0`, without a limit.

    Raises:
        UserError: the package ogbench is not installed.
    """
    try:
        import ogbench.locomaze  # noqa: F401  # registers the environments
    except ImportError as error:
        raise UserError(
            f"environment {name!r} needs OGBench ({error}); pip install 'stratdiff[ogbench]', or, "
            "where its dm_control cannot be installed, pip install --no-deps ogbench."
        ) from error
    options = {"render_mode": render_mode} if render_mode else {}
    made = gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **options)
    with contextlib.suppress(OSError):  # OGBench leaves the model's file in the temporary folder
        os.unlink(made.unwrapped.fullpath)  # type: ignore[attr-defined]
    return SingleTask(made)
