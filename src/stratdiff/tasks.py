"""What is known of each environment: horizon, reference scores, recipe. Looked up once."""

import dataclasses
import re
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from stratdiff import registry
from stratdiff.data.dataset import Dataset
from stratdiff.envs.mazes import MAZES  # importing it also registers the environments
from stratdiff.errors import UserError, nearest

Recipe = Literal["locomotion", "antmaze"]
Returns = tuple[float, float]
"""Reference returns: those of score 0 and score 100. None for them: the score is the return."""


class Facts(NamedTuple):
    """What the name of an environment implies; the defaults hold for an unknown one."""

    reference_returns: Returns | None = None
    recipe: Recipe = "locomotion"
    """antmaze: sparse rewards of 1 at a goal; locomotion: everything else."""
    contact_margins: bool = False
    """Whether its contacts have margins (measured, MuJoCo 3.4 against 3.5)."""
    maze: str | None = None
    """Its maze in `envs.mazes`."""


# By environment without its version. Reference returns: d4rl/infos.py of Farama-Foundation/D4RL at
# 89141a6.
_KNOWN = {
    "HalfCheetah": Facts((-280.178953, 12135.0)),
    "Hopper": Facts((-20.272305, 3234.3), contact_margins=True),
    "Walker2d": Facts((1.629008, 4592.3)),
    "Ant": Facts((-325.6, 3879.7), contact_margins=True),
    **{f"stratdiff/AntMaze-{maze}": Facts((0.0, 1.0), "antmaze", True, maze) for maze in MAZES},
}

# Gymnasium-Robotics' AntMaze: the torso's xy are in `achieved_goal`, the rest in `observation`.
_ROBOTICS_ANTMAZE = {"observation": (27,), "achieved_goal": (2,), "desired_goal": (2,)}


@dataclasses.dataclass(frozen=True, repr=False)
class Task:
    """An environment and how its results are read. It can be made without any environment."""

    env_id: str
    """The id that Gymnasium makes it by; empty: none is known."""
    obs_dim: int
    action_dim: int
    horizon: int | None = None
    """Steps after which the environment cuts an episode; None: never."""
    reference_returns: Returns | None = None
    recipe: Recipe = "locomotion"

    def __repr__(self) -> str:
        limit = f", at most {self.horizon} steps" if self.horizon else ""
        return (
            f"Task({self.env_id!r}: {self.obs_dim} observations, {self.action_dim} actions{limit}, "
            f"recipe {self.recipe})"
        )

    @property
    def longest_trajectory(self) -> int | None:
        """Rows that a trajectory of its data may have; None: any number.

        One more than the horizon, because a trajectory that a time limit ends can hold its last
        observation in a row of its own. D4RL's AntMaze collector ran for 1001 steps whatever the
        environment's limit.
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


def facts(env_id: str) -> Facts:
    """What the name of an environment implies, whether or not it can be made here."""
    return _KNOWN.get(_family(env_id), Facts())


def contradict(env_id: str, other: str) -> bool:
    """Whether these are two different environments of D4RL's; versions may differ."""
    families = {_family(env_id), _family(other)}
    return len(families) == 2 and families <= _KNOWN.keys()


def recipe_of(env_id: str) -> Recipe:
    """The recipe of an environment: sparse goals, or everything else."""
    return facts(env_id).recipe


def related(env_id: str) -> list[str]:
    """Other versions of an environment, newest first; of a maze, the other mazes."""
    family, maze = _family(env_id), facts(env_id).maze
    stem = family.removesuffix(maze) if maze else f"{family}-v"
    pattern = re.escape(stem) + ("" if maze else r"\d+$")
    found = (other for other in gymnasium.registry if re.match(pattern, other))
    return sorted((other for other in found if other != env_id), reverse=True)


def version_note(made_with: str, installed: str | None = None) -> str | None:
    """A sentence where two MuJoCo versions simulate D4RL's environments differently, else None.

    `installed`: default, the version on this machine. Measured: up to 3.4 the larger margin of two
    geoms counts, from 3.5 on their sum.
    """
    installed = installed or metadata.version("mujoco")
    numbers = [re.findall(r"\d+", version)[:2] for version in (made_with, installed)]
    old, new = ([int(n) for n in number] >= [3, 5] for number in numbers)
    if old == new:
        return None
    return (
        f"made with MuJoCo {made_with}, {installed} is installed: since 3.5 contact margins are "
        "summed, so hopper and ant move differently; halfcheetah and walker2d do not."
    )


def physics_note(env_id: str, made_with: str | None) -> str | None:
    """`version_note` for data of an environment that it concerns."""
    return version_note(made_with) if made_with and facts(env_id).contact_margins else None


def observation_parts(shapes: dict[str, tuple[int, ...] | None]) -> list[str] | None:
    """The parts of a dictionary of observations, in D4RL's order; None: Gymnasium's order holds.

    Of Gymnasium-Robotics' AntMaze the goal is left out, which gives D4RL's 29 numbers: the torso's
    xy, then the other positions and velocities.
    """
    return ["achieved_goal", "observation"] if shapes == _ROBOTICS_ANTMAZE else None


def make_env(env: str | gymnasium.Env | Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """An environment by its id, from a factory, or given: see `wrap_env`.

    Raises:
        UserError: the environment is unknown or cannot be made; its id names a module that only a
            file has named (see `registry`); or its spaces are not flat boxes.
    """
    if not isinstance(env, str):
        return wrap_env(env if isinstance(env, gymnasium.Env) else env())
    registry.check_trusted(env, "--env")
    try:
        with warnings.catch_warnings():
            # The -v4 environments are old on purpose: they are D4RL's physics.
            warnings.filterwarnings("ignore", ".*is out of date.*")
            made = gymnasium.make(env)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(
            f"environment {env!r} is not registered with Gymnasium; did you mean "
            f"{nearest(env, gymnasium.registry)}? Your own: --env module:Name-v0, where the "
            "module registers it."
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"environment {env!r} could not be made: {error}") from error
    return wrap_env(made, env)


def wrap_env(env: gymnasium.Env, env_id: str = "") -> gymnasium.Env:
    """The environment, its actions scaled to [-1, 1], its observations flat.

    Dictionaries of observations are flattened in Gymnasium's order, or see `observation_parts`. An
    environment that needs no change is returned as it is.

    Raises:
        UserError: its spaces are not flat boxes, or actions have no bounds.
    """
    if isinstance(env.observation_space, gymnasium.spaces.Dict):
        keys = observation_parts({key: space.shape for key, space in env.observation_space.items()})
        if keys:
            env = gymnasium.wrappers.FilterObservation(env, keys)
        env = gymnasium.wrappers.FlattenObservation(env)
    where = f"environment {env_id or (env.spec.id if env.spec else str(env))!r}"
    obs = env.observation_space
    if not isinstance(obs, Box) or len(obs.shape) != 1:
        raise UserError(
            f"{where} has the observation space {obs}; a flat Box is needed, so wrap the "
            "environment (gymnasium.wrappers.FlattenObservation) and register it."
        )
    action = check_actions(env.action_space, where)
    if (action.low != -1).any() or (action.high != 1).any():
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def check_actions(space: gymnasium.Space, where: str) -> Box:
    """The space, if it is a flat Box with finite bounds.

    Raises:
        UserError: it is not.
    """
    if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype.kind != "f":
        raise UserError(
            f"{where} has the action space {space}; a flat Box of real numbers is needed, so "
            "choose one with continuous actions."
        )
    if not (np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)).all():
        raise UserError(
            f"{where} has the action space {space}; bounds that are finite and not equal are "
            "needed to scale actions to [-1, 1], so give the environment such bounds."
        )
    return space


def unit_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """Actions (..., A) within the bounds of `space`, scaled to [-1, 1], as float32."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if (low == -1).all() and (high == 1).all():
        return actions.astype(np.float32)
    return (2 * (actions.astype(np.float64) - low) / (high - low) - 1).astype(np.float32)


def find_task(env_id: str) -> Task:
    """The task record of an environment by its id.

    Raises:
        UserError: see `make_env`.
    """
    env = make_env(env_id)
    task = task_of_env(env, env_id)
    env.close()
    return task


def task_of_env(env: gymnasium.Env, env_id: str = "") -> Task:
    """The task record of an environment from `wrap_env`; `env_id` empty: that of its spec."""
    spec, sizes = env.spec, (env.observation_space.shape, env.action_space.shape)
    (obs_dim,), (action_dim,) = sizes  # type: ignore[misc]
    env_id = env_id or (spec.id if spec else "")
    return _task(env_id, obs_dim, action_dim, spec.max_episode_steps if spec else None)


def task_of(dataset: Dataset, env_id: str = "") -> Task:
    """A task without an environment, as a caller's own loop has: sizes from the data, no horizon.

    Reference returns and recipe are those that `env_id` implies: empty, none and locomotion.
    """
    return _task(env_id, dataset.observations.shape[1], dataset.actions.shape[1], None)


def _task(env_id: str, obs_dim: int, action_dim: int, horizon: int | None) -> Task:
    known = facts(env_id)
    return Task(env_id, obs_dim, action_dim, horizon, known.reference_returns, known.recipe)
