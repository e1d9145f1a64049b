"""What is known of each environment: horizon, reference scores, recipe. Looked up once."""

import dataclasses
import re
import warnings
from typing import Literal

import gymnasium
import mujoco
import numpy as np

from stratdiff.envs.antmaze import MAZES  # importing it also registers the environments
from stratdiff.errors import UserError, nearest

Recipe = Literal["locomotion", "antmaze"]

# D4RL's reference returns by environment family (Farama-Foundation/D4RL, d4rl/infos.py at 89141a6).
REFERENCE_RETURNS = {
    **{f"stratdiff/AntMaze-{maze}": (0.0, 1.0) for maze in MAZES},
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}

# Gymnasium-Robotics' AntMaze: the torso's xy are in `achieved_goal`, the rest in `observation`.
ROBOTICS_ANTMAZE = {"observation": (27,), "achieved_goal": (2,), "desired_goal": (2,)}

# Families whose contacts have margins (measured, MuJoCo 3.4 against 3.5).
_CONTACT_MARGINS = {"Hopper", "Ant", *(f"stratdiff/AntMaze-{maze}" for maze in MAZES)}


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment and how its results are read."""

    env_id: str
    obs_dim: int
    action_dim: int
    horizon: int | None
    """Steps after which the environment cuts an episode; None: never."""
    reference_returns: tuple[float, float] | None
    """Returns of score 0 and score 100; None: the score is the plain return."""
    recipe: Recipe = "locomotion"

    @property
    def longest_trajectory(self) -> int | None:
        """Rows that a trajectory of its data may have; None: any number.

        One more than the horizon, as a cut one can hold its last observation in a row of its own;
        D4RL's AntMaze collector ran for 1001 steps whatever the environment's limit.
        """
        if self.horizon is None:
            return None
        return max(self.horizon + 1, 1001 if self.recipe == "antmaze" else 0)

    def score(self, episode_return: float) -> float:
        """D4RL's normalised score 100 (R - R_min) / (R_max - R_min)."""
        if self.reference_returns is None:
            return episode_return
        low, high = self.reference_returns
        return 100 * (episode_return - low) / (high - low)


def _family(env_id: str) -> str:
    """The environment's name without its version."""
    return re.sub(r"-v\d+$", "", env_id)


def contradict(env_id: str, other: str) -> bool:
    """Whether these are two different environments of D4RL's; versions may differ."""
    families = {_family(env_id), _family(other)}
    return len(families) == 2 and families <= REFERENCE_RETURNS.keys()


def recipe_of(env_id: str) -> Recipe:
    """The recipe of an environment: sparse goals, or everything else."""
    return "antmaze" if env_id.startswith("stratdiff/AntMaze-") else "locomotion"


def version_note(made_with: str, installed: str = mujoco.__version__) -> str | None:
    """A sentence where two MuJoCo versions simulate D4RL's environments differently, else None.

    Measured: up to 3.4 the larger margin of two geoms counts, from 3.5 on their sum.
    """

    def summed(version: str) -> bool:
        return [int(n) for n in re.findall(r"\d+", version)[:2]] >= [3, 5]

    if summed(made_with) == summed(installed):
        return None
    return (
        f"made with MuJoCo {made_with}, {installed} is installed: since 3.5 contact margins are "
        "summed, so hopper and ant move differently; halfcheetah and walker2d do not."
    )


def physics_note(env_id: str, made_with: str | None) -> str | None:
    """`version_note` for data of an environment that it concerns."""
    if made_with is None or _family(env_id) not in _CONTACT_MARGINS:
        return None
    return version_note(made_with)


def make_env(env_id: str) -> gymnasium.Env:
    """The environment, its actions scaled to [-1, 1], its observations flat.

    Dictionaries of observations are flattened in Gymnasium's order; of Gymnasium-Robotics' AntMaze
    the goal is left out, which gives D4RL's 29 numbers, as in `data/minari.py`.

    Raises:
        UserError: the environment is unknown or cannot be made, or its spaces are not flat boxes.
    """
    try:
        with warnings.catch_warnings():
            # The -v4 environments are old on purpose: they are D4RL's physics.
            warnings.filterwarnings("ignore", ".*is out of date.*")
            env = gymnasium.make(env_id)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(
            f"environment {env_id!r} is not registered with Gymnasium; did you mean "
            f"{nearest(env_id, gymnasium.registry)}? Your own: --env module:Name-v0, where the "
            "module registers it."
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"environment {env_id!r} could not be made: {error}") from error
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        shapes = {key: space.shape for key, space in env.observation_space.items()}
        if shapes == ROBOTICS_ANTMAZE:
            env = gymnasium.wrappers.FilterObservation(env, ["achieved_goal", "observation"])
        env = gymnasium.wrappers.FlattenObservation(env)
    obs, action = env.observation_space, env.action_space
    for space, what in ((obs, "observation"), (action, "action")):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UserError(
                f"environment {env_id!r} has the {what} space {space}; a flat Box is needed, so "
                "wrap the environment (gymnasium.wrappers.FlattenObservation) and register it."
            )
    assert isinstance(action, gymnasium.spaces.Box)
    if (action.low != -1).any() or (action.high != 1).any():
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def find_task(env_id: str) -> Task:
    """The task record of an environment.

    Raises:
        UserError: see `make_env`.
    """
    env = make_env(env_id)
    spec = env.spec
    task = Task(
        env_id=env_id,
        obs_dim=env.observation_space.shape[0],  # type: ignore[index]
        action_dim=env.action_space.shape[0],  # type: ignore[index]
        horizon=spec.max_episode_steps if spec else None,
        reference_returns=REFERENCE_RETURNS.get(_family(env_id)),
        recipe=recipe_of(env_id),
    )
    env.close()
    return task
