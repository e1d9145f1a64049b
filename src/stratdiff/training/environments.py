"""Where a run's environments come from: a name, a factory, one object, or nowhere."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium

from stratdiff import tasks
from stratdiff.config import OUTSIDE
from stratdiff.data.dataset import Dataset
from stratdiff.data.sources import locate
from stratdiff.errors import UserError
from stratdiff.tasks import Task

Given = Any  # a Gymnasium environment, a function that makes one, or None


class Environments:
    """Makes the environments of one task, flat and with actions in [-1, 1]."""

    def __init__(self, task: Task, make: Callable[[], Any] | None, single: bool = False) -> None:
        """`make` None: the caller has the environment; `single`: there is one instance only."""
        self.task, self.single = task, single
        self._make = make

    @property
    def known(self) -> bool:
        """Whether any can be made."""
        return self._make is not None

    def make(self, n: int) -> list[Any]:
        """`n` environments."""
        assert self._make is not None
        return [self._make() for _ in range(n)]

    def close(self, envs: list[Any]) -> None:
        """Close environments from `make`; an object that the program gave stays open."""
        for env in [] if self.single else envs:
            env.close()


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


def find_environments(env_id: str, name: str, dataset: Dataset, given: Given) -> Environments:
    """The environments of a run.

    `env_id` is the config's, or `OUTSIDE`; `name` the data set's name there; `given` what the
    program gave.

    Raises:
        UserError: no environment is known, or it cannot be made.
    """
    if given is not None:
        first = [_made(given)]
        task = tasks.task_of_env(first[0])
        if isinstance(given, gymnasium.Env):
            return Environments(task, lambda: first[0], single=True)
        return Environments(task, lambda: first.pop() if first else _made(given))
    if env_id == OUTSIDE:
        return Environments(tasks.task_of(dataset), None)
    if not env_id:
        raise UserError(
            f"data set {dataset.name!r} does not name its environment; give it with --env."
        )
    return Environments(scored(tasks.find_task(env_id), name), lambda: tasks.make_env(env_id))


def _made(given: Given) -> Any:
    """The environment that was given, or one from the function that was."""
    env = given if isinstance(given, gymnasium.Env) or not callable(given) else given()
    if not isinstance(env, gymnasium.Env):
        what = "env is" if env is given else "env is a function that returned"
        raise UserError(
            f"{what} {env!r}; give a gymnasium.Env, or a function that makes one. An environment "
            "by its id is the option env of the config."
        )
    return tasks.wrap_env(env)
