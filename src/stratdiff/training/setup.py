"""From options, task and data to what is static in a run."""

import numpy as np
from jaxtyping import Float

from stratdiff.agents.base import RewardUnits
from stratdiff.config import Config, fractions
from stratdiff.data.dataset import Dataset
from stratdiff.errors import UserError
from stratdiff.splits import offline_like_count
from stratdiff.tasks import Task, contradict, facts
from stratdiff.training.state import Setup


def reward_scale(config: Config, dataset: Dataset) -> float:
    """The data's factor of the locomotion recipe: 1000 / (max - min episode return).

    Raises:
        UserError: there are no two trajectories of different return to go by, or the recipe takes
            no factor.
    """
    if config.recipe == "antmaze":
        if config.reward_scale > 0:
            raise UserError(
                f"--reward-scale is {config.reward_scale:g}, and --recipe antmaze has its own "
                "rewards; leave it out, or give --recipe locomotion."
            )
        return 1.0
    if config.reward_scale > 0:
        return config.reward_scale
    returns = dataset.episode_returns
    spread = float(np.ptp(returns)) if len(returns) else 0.0
    if spread <= 0:
        raise UserError(
            f"data set {dataset.name!r} has {len(returns)} complete trajectories, all of the same "
            "return, so rewards cannot be scaled by the range of returns; give --reward-scale."
        )
    return 1000 / spread


def check_goal_rewards(
    rewards: Float[np.ndarray, " n"], where: str, error: type[UserError] = UserError
) -> None:
    """Check rewards, of the data or of the environment, under the antmaze recipe.

    Raises:
        UserError: one is neither 0 nor 1.
    """
    odd = rewards[(rewards != 0) & (rewards != 1)]
    if len(odd):
        advice = "give --recipe locomotion, or data and an environment with such rewards"
        if (odd == -1).all():
            advice = "add 1 to every reward of the data and of the environment"
        raise error(
            f"{where} has the reward {odd[0]:g}, and --recipe antmaze needs rewards of 1 at a goal "
            f"and 0 elsewhere; {advice}."
        )


def check_data(task: Task, dataset: Dataset) -> None:
    """Check that the data fit the task.

    Raises:
        UserError: sizes differ, it is another environment's, or its trajectories are too long.
    """
    for what, found, expected in (
        ("observations", dataset.observations.shape[1], task.obs_dim),
        ("actions", dataset.actions.shape[1], task.action_dim),
    ):
        if found != expected:
            raise UserError(
                f"data set {dataset.name!r} has {what} of size {found} but environment "
                f"{task.env_id!r} has size {expected}; give the --env that the data came from."
            )
    unlike = facts(task.env_id).unlike_d4rl
    if unlike and dataset.name.startswith("d4rl/"):
        raise UserError(
            f"data set {dataset.name!r} is D4RL's, and environment {task.env_id!r} {unlike}; "
            "train on Minari's set of that environment (minari/D4RL/...), or give an environment "
            "with D4RL's rewards and ends."
        )
    if dataset.env_id and contradict(dataset.env_id, task.env_id):
        raise UserError(
            f"data set {dataset.name!r} was collected in {dataset.env_id!r}, not in environment "
            f"{task.env_id!r}; leave out --env, or give a data set of that environment."
        )
    limit = task.longest_trajectory
    if limit is not None and dataset.longest > limit:
        raise UserError(
            f"data set {dataset.name!r} has a trajectory of {dataset.longest} rows but environment "
            f"{task.env_id!r} cuts episodes after {task.horizon} steps; mark where episodes end in "
            "`timeouts`, or give the --env that the data came from."
        )


def offline_rows(config: Config) -> tuple[int, int] | None:
    """Rows of D_off in the first and in the last online batch; None: `uniform`."""
    ends = fractions(config.offline_fraction)
    if ends is None:
        return None
    first, last = (offline_like_count(end, config.batch_size) for end in ends)
    return first, last


def make_setup(config: Config, task: Task, scale: float) -> tuple[Setup, RewardUnits]:
    """(what is static in a run, the units that its agent trains in).

    `scale` is the data's `reward_scale`.
    """
    algorithm = config.algorithm(task.obs_dim, task.action_dim, scale)
    units = algorithm.agent.reward_units(config.recipe, scale)
    capacity = max(config.online_steps, 1)
    setup = Setup(
        algorithm=algorithm,
        obs_dim=task.obs_dim,
        action_dim=task.action_dim,
        batch_size=config.batch_size,
        offline_rows=offline_rows(config),
        warmup=config.online_warmup,
        utd=config.utd,
        frozen=config.frozen_steps,
        capacity=capacity,
        horizon=min(task.horizon or capacity, capacity),
        failure_reward=units.shift if config.recipe == "antmaze" else None,
    )
    return setup, units
