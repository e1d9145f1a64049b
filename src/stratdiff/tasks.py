"""What is known of each environment: horizon, reference scores, recipe. Looked up once."""

import dataclasses
import re
from collections.abc import Callable
from importlib import metadata
from typing import Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from stratdiff import registry
from stratdiff.data.dataset import Dataset
from stratdiff.envs import identity, ogbench
from stratdiff.envs.guard import Guard
from stratdiff.envs.mazes import MAZES  # importing it also registers the environments
from stratdiff.errors import BadEnvironment, UserError, last_line

Recipe = Literal["locomotion", "antmaze"]
Returns = tuple[float, float]
"""Reference returns: those of score 0 and score 100. None for them: the score is the return."""
Bounds = tuple[tuple[float, ...], tuple[float, ...]]
"""The lowest and the highest action."""


class Facts(NamedTuple):
    """What the name of an environment implies; the defaults hold for an unknown one."""

    reference_returns: Returns | None = None
    recipe: Recipe = "locomotion"
    """antmaze: sparse rewards of 1 at a goal; locomotion: everything else."""
    contact_margins: bool = False
    """Whether its contacts have margins (measured, MuJoCo 3.4 against 3.5)."""
    maze: str | None = None
    """Its maze in `envs.mazes`."""
    trajectory: int = 0
    """Rows that a trajectory of its data may have, where that is more than the horizon tells."""
    unlike_d4rl: str = ""
    """Of an environment with the sizes of one of D4RL's: how it differs from that."""


# By environment without its version. Reference returns: d4rl/infos.py of Farama-Foundation/D4RL at
# 89141a6.
_KNOWN = {
    "HalfCheetah": Facts((-280.178953, 12135.0)),
    "Hopper": Facts((-20.272305, 3234.3), contact_margins=True),
    "Walker2d": Facts((1.629008, 4592.3)),
    "Ant": Facts((-325.6, 3879.7), contact_margins=True),
    # D4RL's AntMaze collector ran for 1001 steps whatever the environment's limit.
    **{
        f"stratdiff/AntMaze-{maze}": Facts((0.0, 1.0), "antmaze", True, maze, 1001)
        for maze in MAZES
    },
    # The return is 1 for success, so the score is OGBench's success rate.
    **{
        f"stratdiff/ogbench-{maze}-{task}": Facts((0.0, 1.0), "antmaze", trajectory=m.trajectory)
        for maze, m in ogbench.MAZES.items()
        for task in ogbench.TASKS
    },
}

# Gymnasium-Robotics at 1.4.2 against D4RL at 89141a6. The models of the hand are the same; D4RL has
# -0.1 times the distance of hand and object in the reward (d4rl/hand_manipulation_suite/*_v0.py),
# Gymnasium-Robotics +0.1 (envs/adroit_hand/*.py). The pen's reward is the same.
_SIGN = "rewards the distance of hand and object, which D4RL's environment punishes"
_PEN = (
    "does not end when the pen is dropped and is cut off after 200 steps; D4RL's ends there and "
    "is cut off after 100"
)
_KNOWN |= {
    **{f"AdroitHand{task}": Facts(unlike_d4rl=_SIGN) for task in ("Door", "Hammer", "Relocate")},
    "AdroitHandPen": Facts(unlike_d4rl=_PEN),
    **{
        f"AdroitHand{task}Sparse": Facts(unlike_d4rl="has other rewards than D4RL's")
        for task in ("Door", "Hammer", "Pen", "Relocate")
    },
    "FrankaKitchen": Facts(unlike_d4rl="has other observations and another controller than D4RL's"),
    **{
        f"AntMaze_{maze}{kind}{reward}": Facts(unlike_d4rl="is another simulator than D4RL's")
        for maze in ("Open", "UMaze", "Medium", "Large")
        for kind in ("", "_Diverse_G", "_Diverse_GR")
        for reward in ("", "Dense")
    },
}
# What importing Gymnasium-Robotics registers.
_ROBOTICS = re.compile(
    "AdroitHand|FrankaKitchen|AntMaze_|PointMaze_|Fetch|HandReach|HandManipulate"
)

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
    action_bounds: Bounds | None = None
    """Those of the environment's actions; None: -1 and 1, or not known."""

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
        observation in a row of its own; or what is known of the environment's data.
        """
        if self.horizon is None:
            return None
        return max(self.horizon + 1, facts(self.env_id).trajectory)

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


def make_env(
    env: str | gymnasium.Env | Callable[[], gymnasium.Env], max_episode_steps: int = 0
) -> Guard:
    """An environment by its id (or a text from `identity.exact`), from a factory, or given.

    `max_episode_steps`: the time limit of one that is given or from a factory; 0: its own. See
    `wrap_env` for what is around it. A module that the id names is imported, because it is named
    here.

    Raises:
        UserError: the environment is unknown or cannot be made, or its spaces are not flat boxes.
    """
    if isinstance(env, str):
        registry.trust(identity.read(env).env_id)
        return load_env(env)
    try:
        made = env if isinstance(env, gymnasium.Env) else env()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        fact = f"the function {env!r} could not make an environment ({last_line(error)})"
        raise BadEnvironment(fact, "mend it") from error
    if not isinstance(made, gymnasium.Env):
        raise UserError(
            f"env is a function that returned {made!r}; give a gymnasium.Env, or a function that "
            "makes one."
        )
    limited = bool(max_episode_steps) and not isinstance(made, Guard)
    return wrap_env(gymnasium.wrappers.TimeLimit(made, max_episode_steps) if limited else made)


def load_env(env: str, render_mode: str | None = None) -> Guard:
    """As `make_env`, for an id or text from a file: a module that it names needs trust."""
    env_id = identity.read(env).env_id
    _register(env_id)
    return wrap_env(identity.make(env, render_mode), env_id)


def _register(env_id: str) -> None:
    """Import Gymnasium-Robotics for an environment of its own, which registers it."""
    if not _ROBOTICS.match(env_id) or env_id in gymnasium.registry:
        return
    try:
        import gymnasium_robotics  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"environment {env_id!r} needs Gymnasium-Robotics, which is not installed; "
            "pip install 'stratdiff[gymnasium-robotics]'."
        ) from error


def episode_seed(seed: int, purpose: int, episode: int) -> int:
    """The environment seed of one episode; purpose 0: online training, 1: evaluation."""
    return int(np.random.SeedSequence([seed, purpose, episode]).generate_state(1)[0] >> 1)


def wrap_env(env: gymnasium.Env, env_id: str = "") -> Guard:
    """The environment behind a `Guard`: actions in [-1, 1], observations flat, all checked.

    Dictionaries of observations are flattened in Gymnasium's order, or see `observation_parts`.

    Raises:
        UserError: its spaces are not flat boxes, or actions have no bounds.
    """
    if isinstance(env, Guard):
        return env
    where = f"environment {env_id or (env.spec.id if env.spec else str(env))!r}"
    space = flat = env.observation_space
    if isinstance(space, gymnasium.spaces.Dict):
        keys = observation_parts({key: part.shape for key, part in space.items()})
        space = gymnasium.spaces.Dict({key: space[key] for key in keys}) if keys else space
        flat = gymnasium.spaces.flatten_space(space)
    if not isinstance(flat, Box) or len(flat.shape) != 1:
        raise UserError(
            f"{where} has the observation space {env.observation_space}; a flat Box is needed, so "
            "wrap the environment (gymnasium.wrappers.FlattenObservation) and register it."
        )
    return Guard(env, where, space)


def find_task(env: str) -> Task:
    """The task record of an environment by its id (or a text from `identity.exact`).

    Raises:
        UserError: see `make_env`.
    """
    made = load_env(env)
    task = task_of_env(made, identity.read(env).env_id)
    made.close()
    return task


def task_of_env(env: gymnasium.Env, env_id: str = "") -> Task:
    """The task record of an environment from `wrap_env`; `env_id` empty: that of its spec."""
    spec, sizes = env.spec, (env.observation_space.shape, env.action_space.shape)
    (obs_dim,), (action_dim,) = sizes  # type: ignore[misc]
    env_id = env_id or (spec.id if spec else "")
    task = _task(env_id, obs_dim, action_dim, _time_limit(env))
    if not isinstance(env, Guard):
        return task
    low, high = (tuple(map(float, x)) for x in (env.bounds.low, env.bounds.high))
    unit = {*low} == {-1.0} and {*high} == {1.0}
    return task if unit else dataclasses.replace(task, action_bounds=(low, high))


def _time_limit(env: gymnasium.Env) -> int | None:
    """Steps after which the environment cuts an episode, as far as it tells."""
    limits, layer = [env.spec and env.spec.max_episode_steps], env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.TimeLimit):  # there may be no spec to tell
            limits.append(layer._max_episode_steps)
        layer = layer.env
    return min((limit for limit in limits if limit), default=None)


def task_of(dataset: Dataset, env_id: str = "") -> Task:
    """A task without an environment, as a caller's own loop has: sizes from the data, no horizon.

    Reference returns and recipe are those that `env_id` implies: empty, none and locomotion.
    """
    return _task(env_id, dataset.observations.shape[1], dataset.actions.shape[1], None)


def _task(env_id: str, obs_dim: int, action_dim: int, horizon: int | None) -> Task:
    known = facts(env_id)
    return Task(env_id, obs_dim, action_dim, horizon, known.reference_returns, known.recipe)
