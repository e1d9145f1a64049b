"""Where a run's environments come from: a name, a factory, one object, or nowhere."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium

from stratdiff import tasks
from stratdiff.config import OUTSIDE, Config
from stratdiff.data.dataset import Dataset
from stratdiff.data.sources import locate
from stratdiff.envs import identity
from stratdiff.envs.guard import Guard
from stratdiff.errors import BadEnvironment, UserError
from stratdiff.tasks import Task

Given = Any  # a Gymnasium environment, a function that makes one, or None


class Environments:
    """Makes the environments of one task, flat and with actions in [-1, 1]."""

    def __init__(
        self,
        task: Task,
        make: Callable[[], Any] | None,
        single: bool = False,
        first: Any = None,
        step_seconds: float = 0.0,
    ) -> None:
        """`make` None: the caller has the environment; `single`: there is one instance only.

        `first`: one that is made already, for whoever needs one first. `step_seconds`: how long a
        step took when one was tried out.
        """
        self.task, self.single, self.step_seconds = task, single, step_seconds
        self._make, self._first = make, first

    @property
    def known(self) -> bool:
        """Whether any can be made."""
        return self._make is not None

    def make(self, n: int) -> list[Any]:
        """`n` environments."""
        assert self._make is not None
        made = [self._first or self._make(), *(self._make() for _ in range(n - 1))]
        self._first = None
        return made

    def close(self, envs: list[Any]) -> None:
        """Close environments from `make`; an object that the program gave stays open."""
        for env in [] if self.single else envs:
            env.close()

    def release(self) -> None:
        """Close the one that nobody needed."""
        if self._first is not None:
            self._first.close()
            self._first = None


def check_enough(given: Given, n: int) -> None:
    """Check that `n` environments can be made of what the program gave.

    Raises:
        UserError: it gave one environment object, and more than one is needed.
    """
    if isinstance(given, gymnasium.Env) and n > 1:
        raise UserError(
            f"{n} environments are needed, but the program gave one environment object; give a "
            "function that makes environments instead, or use one seed and eval_episodes=0."
        )


def scored(task: Task, name: str) -> Task:
    """The task; scored by the data set's reference returns where only the data set knows them."""
    if task.reference_returns is not None:
        return task
    with contextlib.suppress(UserError):  # data in memory have no name that can be looked up
        entry = locate(name)[1]
        if entry.env_id is None:
            return dataclasses.replace(task, reference_returns=entry.reference_returns)
    return task


def resolved(config: Config, dataset: Dataset, given: Given) -> Config:
    """The config with the environment in full, so that it is known without the data.

    Raises:
        UserError: no environment is known, or what the data say of it cannot be read.
    """
    env_id = OUTSIDE if given is not None else config.env or dataset.env_id or ""
    if not env_id and config.online_steps:
        raise UserError(
            f"data set {dataset.name!r} does not name its environment; give it with --env, or "
            "train offline alone with --online-steps 0."
        )
    spec = config.env_spec or str(dataset.metadata.get("env_spec", ""))
    spec = spec if identity.applies(spec, env_id) else ""
    return dataclasses.replace(config, env=env_id, env_spec=spec)


def find_environments(config: Config, given: Given, n: int) -> Environments:
    """The environments of a run by a config from `resolved`; the first is tried out.

    `given` is what the program gave, `n` how many the run makes. The one that is tried is used
    where that is the only one, and closed otherwise.

    Raises:
        UserError: an environment cannot be made, fails, gives something unusable, or would be
            evaluated without a time limit.
    """

    def make() -> Guard:
        return tasks.load_env(config.environment) if given is None else _made(given, config)

    first, single = make(), isinstance(given, gymnasium.Env)
    try:
        seconds = first.try_out()
        task = tasks.task_of_env(first, config.env if given is None else "")
        if task.horizon is None and config.eval_episodes:
            raise UserError(
                f"{first.where} has no time limit, so an evaluation might never end; give "
                "--max-episode-steps, or register the environment with max_episode_steps."
            )
        if n > 1 and not single:
            try:
                make().close()
            except BadEnvironment as error:
                fact = f"{error.fact} while another one was open, and {n} are needed"
                raise BadEnvironment(fact, "use one seed and --eval-episodes 0") from error
    except BaseException:
        if not single:
            first.close()
        raise
    task = task if given is not None else scored(task, config.dataset)
    if single:
        return Environments(task, lambda: first, single=True, step_seconds=seconds)
    if n > 1:
        first.close()
        return Environments(task, make, step_seconds=seconds)
    return Environments(task, make, first=first, step_seconds=seconds)


def _made(given: Given, config: Config) -> Guard:
    """The environment that was given, or one from the function that was."""
    if not (isinstance(given, gymnasium.Env) or callable(given)):
        raise UserError(
            f"env is {given!r}; give a gymnasium.Env, or a function that makes one. An environment "
            "by its id is the option env of the config."
        )
    return tasks.make_env(given, config.max_episode_steps)
